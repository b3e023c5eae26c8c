"""The benchmark works: every line gets a figure. How large it is does not matter here."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.benchmarks import compare, report
from tools.benchmarks.groups import GROUPS
from tools.benchmarks.line import Line, Result, Sample, Verdict

ROOT = Path(__file__).resolve().parents[2]
LINES = [line for group in GROUPS for line in group.lines]
WRITE = Line("write", "write", baseline="null", target=0.5, stretch=0.8, ahead_of="qcow2")
TIME = Line("time", "time", "s", target=2, stretch=1, lower_is_better=True)


def bench(*arguments: str | Path) -> str:
    """Run the tool in a directory of its own, which it leaves empty; return what it prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def quick(place: Path, *arguments: str) -> Any:
    found = json.loads(bench(*arguments, "--quick", "--json", "--dir", place))
    assert list(place.iterdir()) == []
    return found


def result(line: Line, *values: float, **others: float) -> Result:
    return Result(line, [Sample(value, others) for value in values])


def test_bench_measures_every_line(tmp_path: Path) -> None:
    found = quick(tmp_path)
    left_out = {"btrfs-balance"}  # a test of its own does the same
    assert {row["key"] for row in found["lines"]} == {line.key for line in LINES} - left_out
    assert all(sample["value"] >= 0 for row in found["lines"] for sample in row["samples"])
    again = report.from_json(found)
    assert report.to_json(found["machine"], again, found["notes"]) == found
    assert not any(line.is_worse for line in compare.compare(again, again))


def test_bench_scale_measures_each_size(tmp_path: Path) -> None:
    found = quick(tmp_path, "scale")
    assert [(row["kind"], row["blocks"]) for row in found["stages"]] == [
        ("sequential", 2048),
        ("sequential", 20224),
        ("scattered", 2048),
    ]


def test_bench_scale_that_is_ended_shows_what_it_has(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "bench", "scale", "--quick", "--json"]
    with subprocess.Popen(
        [*command, "--dir", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("| sequential"))
        process.terminate()
        output, said = process.communicate()
    assert process.returncode == 1
    assert said.splitlines()[-1] == "interrupted: sizes are missing"
    assert json.loads(output)["stages"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_root  # elsewhere the kernel may forbid to look at another process
def test_bench_profile_tells_parts(tmp_path: Path) -> None:
    found = quick(tmp_path, "profile")
    assert all(row["parts_us"] for row in found["profiles"])


def test_bench_line_keys_are_unique() -> None:
    assert len({line.key for line in LINES}) == len(LINES)


def test_bench_has_targets_of_both_kinds() -> None:
    assert result(WRITE, 40, null=100).verdict is Verdict.MISSED
    assert result(WRITE, 60, null=100).verdict is Verdict.MET
    assert result(WRITE, 90, null=100).verdict is Verdict.STRETCH
    assert result(WRITE, 90, null=100, qcow2=95).verdict is Verdict.MET
    assert result(TIME, 3).verdict is Verdict.MISSED
    assert result(TIME, 0.5, 1.5, 9).verdict is Verdict.MET
    assert result(replace(TIME, target=None), 1).verdict is Verdict.NONE


def test_bench_takes_ratios_round_by_round() -> None:
    slow_and_fast = Result(
        WRITE, [Sample(50, {"null": 100}), Sample(5, {"null": 10}), Sample(500, {"null": 1000})]
    )
    assert slow_and_fast.reached == 0.5


def test_bench_compare_finds_what_got_worse() -> None:
    old = [result(WRITE, 50, null=100), result(TIME, 1)]
    new = [result(WRITE, 6, null=10), result(TIME, 1.2)]
    assert [line.is_worse for line in compare.compare(old, new)] == [False, True]


def test_bench_compare_reads_what_a_run_wrote(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(report.to_json({}, [result(TIME, 1)], [])))
    assert bench("compare", path, path).split() == ["time", "1.00", "->", "1.00", "1.00"]


def test_bench_refuses_lines_that_do_not_exist(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "bench", "--only", "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no line fits 'nothing'" in done.stderr
