"""The main job to its end: a btrfs that was converted through thincow becomes real."""

import pytest

from tests.support.btrfs_array import Array, convert, hash_file, known_to_btrfs
from tests.support.flushing import Way, flush, state
from tests.support.loop_devices import loop_device, mounted
from tests.support.mounting import Mount, shell

pytestmark = pytest.mark.needs_root


@pytest.mark.parametrize("way", Way)
def test_converted_btrfs_is_right_upstream(mount: Mount, way: Way) -> None:
    array = Array(mount.upstream, elsewhere={})
    mount.start()
    convert(mount.devs, mount.directory / "fs", array)
    seen = {name: hash_file(mount.devs / name) for name in array.paths}
    assert seen != array.hashes
    assert array.hash_images() == array.hashes
    assert flush(mount, way) == ""
    assert state(mount) == "clean"
    assert {name: hash_file(mount.devs / name) for name in array.paths} == seen
    mount.umount()
    assert array.hash_images() == seen
    assert mount.cowdata.stat().st_size == 0
    with loop_device(array.paths["single"]) as loop, known_to_btrfs([loop]):
        shell("btrfs", "check", "--check-data-csum", loop)
        with mounted(loop, mount.directory / "fs") as root:
            assert hash_file(root / "file") == array.file_hash
