"""Everything that a user can type is documented, and what the documents show works."""

import re
import sqlite3
from pathlib import Path

import click
import pytest

from thincow.cli.main import thincow

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
STORE_DOCUMENT = (ROOT / "docs" / "store.md").read_text()
MANUAL = (ROOT / "docs" / "thincow.1").read_text().replace("\\-", "-")
SCHEMA = "\n".join((ROOT / "schema" / name).read_text() for name in ("tables.sql", "views.sql"))


def load_commands() -> dict[str, click.Command]:
    context = click.Context(thincow, info_name="thincow")
    found = {name: thincow.get_command(context, name) for name in thincow.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


COMMANDS = load_commands()
each_command = pytest.mark.parametrize("name", COMMANDS)


def options(name: str) -> list[click.Option]:
    return [option for option in COMMANDS[name].params if isinstance(option, click.Option)]


def spellings(name: str) -> list[str]:
    return [text for option in options(name) for text in (*option.opts, *option.secondary_opts)]


def missing(names: list[str], document: str) -> list[str]:
    """Return the options that a text does not name as words of their own."""
    return [name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", document)]


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@each_command
def test_command_help_has_an_example(name: str) -> None:
    assert f"thincow {name} " in (COMMANDS[name].help or "")


@each_command
def test_command_options_have_help(name: str) -> None:
    assert [option.name for option in options(name) if not option.help] == []


@each_command
def test_command_is_in_readme_and_manual(name: str) -> None:
    assert f"`thincow {name} " in (ROOT / "README.md").read_text()
    assert f"thincow {name}" in MANUAL


@each_command
def test_command_options_are_in_the_manual(name: str) -> None:
    assert missing(spellings(name), MANUAL) == []


@pytest.mark.parametrize("document", ["README.md", "docs/mount.md"])
def test_mount_options_are_in_the_documents(document: str) -> None:
    assert missing(spellings("mount"), (ROOT / document).read_text()) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


def test_store_document_names_all_tables_views_and_columns() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(SCHEMA)
        query = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"
        names = [row[0] for row in connection.execute(query)]
        assert [name for name in names if f"`{name}`" not in STORE_DOCUMENT] == []
        for name in names:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            assert [column for column in columns if f"`{column}`" not in STORE_DOCUMENT] == []
    connection.close()


@pytest.mark.parametrize("query", code_blocks(STORE_DOCUMENT, "sql"))
def test_store_document_queries_run(query: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    connection.executescript(query)
    connection.close()


def test_changelog_has_a_place_for_what_is_new() -> None:
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text()


def source_map() -> set[str]:
    """Return the modules that ARCHITECTURE.md lists, as layer/module."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.split("\n## Source map\n")[1].split("\n## ")[0]
    listed = set()
    layer = ""
    for line in section.splitlines():
        if heading := re.match(r"`(\w+)`", line):
            layer = heading[1]
        elif line.startswith("| `"):
            listed |= {f"{layer}/{name}" for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    return listed


def test_source_map_lists_all_modules_and_no_others() -> None:
    modules = {
        f"{path.parent.name}/{path.stem}"
        for path in (ROOT / "thincow").glob("*/*.py")
        if path.stem != "__init__"
    }
    assert source_map() == modules
