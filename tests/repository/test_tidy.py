"""House rules that a machine can check."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "thincow"
MODULES = sorted(PACKAGE.rglob("*.py"))
SEAM = PACKAGE / "store" / "disk.py"
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SQL_FILES = sorted([*(ROOT / "schema").glob("*.sql"), *(ROOT / "migrations").glob("*.sql")])
BENCHMARKS = sorted((ROOT / "tools" / "benchmarks").glob("*.py"))
TOOLS = [path for path in sorted((ROOT / "tools").iterdir()) if path.is_file()]

MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 100

DISK_CALLS = {"pread", "preadv", "pwrite", "pwritev", "fdatasync"}
SQL = re.compile(
    r"\b(SELECT\b.+\bFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM"
    r"|CREATE\s+(TEMP\s+)?(TABLE|VIEW|INDEX)|DROP\s+TABLE|PRAGMA\s+\w+|BEGIN\s+IMMEDIATE)\b",
    re.DOTALL,
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name_of(path))


def in_layers(*layers: str) -> list[Path]:
    return [path for path in MODULES if path.relative_to(PACKAGE).parts[0] in layers]


def docstrings(tree: ast.Module) -> set[ast.expr]:
    """Return the nodes of strings that stand alone: docstrings, also those of attributes."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def strings(tree: ast.Module) -> list[ast.Constant]:
    """Return the string constants that are not documentation."""
    documentation = docstrings(tree)
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node not in documentation
    ]


@pytest.mark.parametrize("path", [*MODULES, *BENCHMARKS], ids=name_of)
def test_module_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize("path", [*MODULES, *BENCHMARKS], ids=name_of)
def test_module_functions_are_short(path: Path) -> None:
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("path", [*MODULES, *BENCHMARKS], ids=name_of)
def test_module_says_what_it_owns(path: Path) -> None:
    tree = parse(path)
    assert not tree.body or ast.get_docstring(tree)


@pytest.mark.parametrize("path", [*MODULES, *TESTS, *SQL_FILES, *TOOLS, *BENCHMARKS], ids=name_of)
def test_lines_fit_the_screen(path: Path) -> None:
    # Comments in the SQL stand in a column of their own and may be a little longer.
    limit = MAX_COLUMNS + 20 if path.suffix == ".sql" else MAX_COLUMNS
    long = [n for n, line in enumerate(path.read_text().splitlines(), 1) if len(line) > limit]
    assert long == []


@pytest.mark.parametrize("path", [*MODULES, *TESTS, *SQL_FILES, *TOOLS, *BENCHMARKS], ids=name_of)
def test_nothing_is_put_off(path: Path) -> None:
    # Put together here so that this file passes its own test.
    words = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3))
    assert re.findall(rf"\b({words})\b", path.read_text()) == []


@pytest.mark.parametrize("path", in_layers("engine", "mount", "cli"), ids=name_of)
def test_sql_is_in_store_only(path: Path) -> None:
    assert [node.value for node in strings(parse(path)) if SQL.search(node.value)] == []


@pytest.mark.parametrize("path", [path for path in MODULES if path != SEAM], ids=name_of)
def test_disk_is_reached_through_the_seam(path: Path) -> None:
    calls = [
        f"line {node.lineno}: os.{node.attr}"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in DISK_CALLS
    ]
    assert calls == []


@pytest.mark.parametrize("path", [*TOOLS, ROOT / ".ci" / "run"], ids=name_of)
def test_tool_is_executable_and_parses(path: Path) -> None:
    assert path.stat().st_mode & 0o111
    interpreter = path.read_text().splitlines()[0]
    if interpreter.endswith("bash"):
        subprocess.run(["bash", "-n", path], check=True)
    else:
        assert interpreter.endswith("python3")
        parse(path)


def test_migrations_are_numbered_without_gaps() -> None:
    names = [path.name for path in sorted((ROOT / "migrations").iterdir())]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert [name for name in names if not re.fullmatch(r"\d{4}_[a-z_]+\.sql", name)] == []


def test_layers_hold_no_grab_bags() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [name_of(path) for path in MODULES if path.stem in vague] == []
