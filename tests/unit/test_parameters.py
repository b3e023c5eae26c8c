"""Values on the command line."""

from pathlib import Path

import click
import pytest

from thincow.cli.parameters import absolute_path, path_or_memory, size_type


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("17", 17), ("1K", 1024), ("3m", 3 << 20), ("2G", 2 << 30), (" 1T ", 1 << 40)],
)
def test_size_counts_in_powers_of_1024(text: str, expected: int) -> None:
    assert size_type()(text) == expected


@pytest.mark.parametrize(
    "text", ["", "K", "-1", "1.5K", "1KB", "1P", "0x10", "\N{SUPERSCRIPT TWO}"]
)
def test_size_refuses_anything_else(text: str) -> None:
    with pytest.raises(click.BadParameter):
        size_type()(text)


def test_size_knows_its_bounds() -> None:
    size = size_type(512, 1 << 20, power_of_two=True)
    assert [size(text) for text in ("512", "4K", "1M")] == [512, 4096, 1 << 20]
    for text in ("511", "256", "3K", "2M"):
        with pytest.raises(click.BadParameter):
            size(text)


def test_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_path("x/y") == tmp_path / "x/y"
    assert path_or_memory("x") == tmp_path / "x"
    assert path_or_memory("-") == "-"
    with pytest.raises(click.BadParameter):
        absolute_path("")
