"""Everything that a user can type is documented, and what the documents show works."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from thincow.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
STORE_DOCUMENT = (ROOT / "docs" / "store.md").read_text()
MANUAL = (ROOT / "docs" / "thincow.1").read_text().replace("\\-", "-")
SCHEMA = "\n".join((ROOT / "schema" / name).read_text() for name in ("tables.sql", "views.sql"))


def commands() -> Iterator[tuple[str, click.Command]]:
    assert isinstance(main, click.Group)
    context = click.Context(main, info_name="thincow")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield name, command


def options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option)]


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "command"), commands())
def test_command_help_has_an_example(name: str, command: click.Command) -> None:
    assert command.help is not None
    assert f"thincow {name} " in command.help


@pytest.mark.parametrize(("name", "command"), commands())
def test_command_options_have_help(name: str, command: click.Command) -> None:
    assert [option.name for option in options(command) if not option.help] == []


@pytest.mark.parametrize(("name", "command"), commands())
def test_command_is_in_readme_and_manual(name: str, command: click.Command) -> None:
    assert f"`thincow {name} " in (ROOT / "README.md").read_text()
    assert f"thincow {name}" in MANUAL


@pytest.mark.parametrize(("name", "command"), commands())
def test_command_options_are_in_the_manual(name: str, command: click.Command) -> None:
    spellings = [spelling for option in options(command) for spelling in option.opts]
    assert [text for text in spellings if not re.search(rf"{text}(?![\w-])", MANUAL)] == []


def test_mount_options_are_in_readme_and_mount_document() -> None:
    spellings = [text for option in options(dict(commands())["mount"]) for text in option.opts]
    for document in (ROOT / "README.md", ROOT / "docs" / "mount.md"):
        text = document.read_text()
        assert [o for o in spellings if not re.search(rf"{o}(?![\w-])", text)] == [], document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


def test_store_document_names_all_tables_views_and_columns() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(SCHEMA)
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
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
