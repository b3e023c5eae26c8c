import apsw
import pytest

from thincow.store import cow_table
from thincow.store.migrations import create_schema


@pytest.fixture
def db() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    create_schema(connection)
    return connection


def fill(db: apsw.Connection, *rows: tuple[int, int, int]) -> None:
    db.execute("DELETE FROM cow")
    db.executemany("INSERT INTO cow VALUES (?, ?, ?)", rows)


def test_gaps_are_found_step_by_step(db):
    fill(db, (0, 2, 1), (4, 1, 1), (5, 1, 2), (8, 2, 1))
    assert cow_table.gaps(db, 0, 12, 2) == ([(2, 2)], 5)
    assert cow_table.gaps(db, 5, 12, 2) == ([(6, 2)], 10)
    assert cow_table.gaps(db, 10, 12, 2) == ([(10, 2)], 12)


def test_gaps_do_not_hold_blocks_of_a_row_that_grew_across_the_last_step(db):
    fill(db, (0, 2, 2), (2, 3, 1), (5, 3, 2))
    assert cow_table.gaps(db, 0, 10, 2) == ([], 5)
    fill(db, (0, 2, 2), (2, 6, 1))
    assert cow_table.gaps(db, 5, 10, 2) == ([(8, 2)], 10)
