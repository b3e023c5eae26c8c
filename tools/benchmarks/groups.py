"""All lines of a full run, in the order of the table."""

from tools.benchmarks import sequential, small_requests
from tools.benchmarks.group import Group

GROUPS: tuple[Group, ...] = (
    *sequential.GROUPS,
    *small_requests.GROUPS,
)
