"""All lines of a full run, in the order of the table."""

from tools.benchmarks import (
    btrfs,
    checksums,
    flushing,
    latency,
    looking,
    sequential,
    small_requests,
    stores,
)
from tools.benchmarks.group import Group

GROUPS: tuple[Group, ...] = (
    *sequential.GROUPS,
    *small_requests.GROUPS,
    *latency.GROUPS,
    *flushing.GROUPS,
    *stores.GROUPS,
    *looking.GROUPS,
    *btrfs.GROUPS,
    *checksums.GROUPS,
    *stores.LAST_GROUPS,
)
