import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.plain_store import A, make_store, plant, write_label
from thincow.cli.fsck import fsck
from thincow.cli.fsck_output import shown_progress
from thincow.store.locks import DirectoryLock


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(fsck, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_fsck_of_sound_store(store: Path) -> None:
    status, out, err = run("--data-dir", store)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "no problems found"
    assert "extents: 5" in out


def test_fsck_tells_problem_and_repair(store: Path) -> None:
    plant(store, ["UPDATE cow SET refs = 3 WHERE first_block = 1"])
    status, out, _ = run("--data-dir", store, "--metadata-dir", store)
    assert status == 1
    assert out.splitlines()[:2] == [
        "COUNT_WRONG: COW block 1: 1 blocks have 2 references, stored is 3",
        "    repair: count the references anew",
    ]
    assert out.splitlines()[-1] == "problems found: 1"


def test_fsck_shortens_long_lists(store: Path) -> None:
    rows = ", ".join(f"({(5 << 40) + i}, 1, 2, 0)" for i in range(70))
    plant(store, [f"INSERT INTO extents VALUES {rows}"])
    status, out, _ = run("--data-dir", store)
    assert status == 1
    assert "EXTENT_RANGE: 20 more" in out.splitlines()
    assert out.splitlines()[-1] == "problems found: 70"


def test_fsck_prints_json(store: Path) -> None:
    plant(store, ["UPDATE cow SET refs = 3 WHERE first_block = 1"])
    status, out, _ = run("--data-dir", store, "--json")
    result = json.loads(out)
    assert status == 1
    assert result["clean"] is False
    assert result["totals"] == {"COUNT_WRONG": 1}
    assert result["findings"] == [
        {
            "code": "COUNT_WRONG",
            "place": "COW block 1",
            "message": "1 blocks have 2 references, stored is 3",
            "repair": "count the references anew",
        }
    ]
    assert result["facts"]["extents"] == 5


def test_fsck_without_data_dir_is_wrong_usage() -> None:
    assert run()[0] == 2


def test_fsck_without_store_examines_nothing(tmp_path: Path) -> None:
    status, out, err = run("--data-dir", tmp_path)
    assert (status, out) == (3, "")
    assert err == f"thincow: there is no store in {tmp_path}\n"


def test_fsck_of_store_in_use_names_the_holder(store: Path) -> None:
    lock = DirectoryLock.acquire(store, exclusive=True)
    try:
        status, out, err = run("--data-dir", store)
    finally:
        lock.release()
    assert (status, out) == (3, "")
    assert str(os.getpid()) in err
    assert len(err.splitlines()) == 1


def test_fsck_help_shows_an_example_on_its_own_line() -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert "  Example:\n    thincow fsck --data-dir store\n" in out


def test_fsck_repairs(store: Path) -> None:
    plant(store, ["UPDATE cow SET refs = 3 WHERE first_block = 1"])
    status, out, _ = run("--data-dir", store, "--repair")
    assert status == 0
    assert f"old file kept: {store / 'metadata.db.before-repair'}" in out.splitlines()
    assert out.splitlines()[-1] == "repaired"
    assert run("--data-dir", store)[0] == 0


def test_fsck_lists_what_a_repair_cost(store: Path) -> None:
    plant(store, [f"UPDATE extents SET kind = 3 WHERE first_block = {A + 2}"])
    status, out, _ = run("--data-dir", store, "--repair")
    assert status == 1
    line = "device a, bytes 8192 to 12287: lost: what upstream has there is shown"
    assert line in out.splitlines()
    assert out.splitlines()[-1] == "repaired, with losses"


def test_fsck_tells_what_it_cannot_repair(store: Path) -> None:
    write_label(store, "f" * 32, 1)
    status, out, _ = run("--data-dir", store, "--repair")
    assert status == 1
    assert out.splitlines()[-1] == "nothing was repaired"


def test_fsck_prints_a_repair_as_json(store: Path) -> None:
    plant(store, [f"UPDATE extents SET kind = 3 WHERE first_block = {A + 2}"])
    status, out, _ = run("--data-dir", store, "--repair", "--json")
    result = json.loads(out)
    assert status == 1
    assert (result["clean"], result["repaired"], result["left"]) == (False, True, [])
    assert result["lost"] == [
        {
            "device": "a",
            "offset_bytes": 8192,
            "length_bytes": 4096,
            "reason": "lost: what upstream has there is shown",
        }
    ]
    assert len(result["kept"]) == 2


def test_fsck_reads_contents_when_asked(store: Path) -> None:
    status, out, _ = run("--data-dir", store, "--deep")
    assert status == 1
    assert "HASH_CONTENT: device b, byte 0: COW block 4 is not what its hash entry says" in out
    assert "cow blocks read: 3" in out


def test_fsck_of_sound_store_has_nothing_to_repair(store: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    status, out, _ = run("--data-dir", store, "--repair")
    assert (status, out.splitlines()[-1]) == (0, "no problems found")
    assert {path.name: path.stat().st_mtime_ns for path in store.iterdir()} == before


def test_shown_progress_is_a_bar_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shown_progress(on_terminal=False) as progress:
        progress.stage("counts")
        progress.advance(0.5)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with shown_progress(on_terminal=True) as progress:
        progress.stage("counts")
        progress.advance(0.5)
    assert "checking counts" in capsys.readouterr().err
