"""The conversion of a btrfs RAID10 to a single device, on loop devices: how long it takes btrfs."""

import os
from pathlib import Path

from tests.support.btrfs_array import Array, convert
from tools.benchmarks.group import Group, Wanted
from tools.benchmarks.lab import Lab
from tools.benchmarks.line import Line, Sample, Samples
from tools.benchmarks.subjects import mounted

_LINE = Line(
    "btrfs-balance",
    "btrfs RAID10 of 150 MiB to a single device: time of the balance",
    "s",
    "plain",
    target=1.8,
    stretch=1.2,
    lower_is_better=True,
)


def _measure(lab: Lab, _wanted: Wanted) -> Samples:
    if os.geteuid() != 0 or not _has_btrfs():
        lab.note("the conversion of a btrfs needs root, loop devices and btrfs: left out")
        return {}
    if lab.is_quick:
        return {}  # its sizes are what btrfs asks for at least; a test does the same
    fs = lab.new_directory("fs")
    images = lab.new_directory("btrfs")
    array = Array(images, elsewhere={})
    with mounted(lab, upstream=images) as subject:
        lab.settle()
        served_s = convert(subject.path.parent, fs, array).balance_s
    # The images themselves come last: nothing must have changed them before.
    lab.settle()
    plain_s = convert(images, fs, array).balance_s
    lab.remove(images)
    return {_LINE.key: Sample(served_s, {"plain": plain_s})}


def _has_btrfs() -> bool:
    return "btrfs" in Path("/proc/filesystems").read_text().split()


GROUPS = (Group((_LINE,), _measure),)
