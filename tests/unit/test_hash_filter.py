"""The filter of hashes: it may say 'perhaps' of anything, 'no' only of what is not in the table."""

import random

import numpy as np
import pytest

from thincow.engine.hash_filter import HashFilter
from thincow.store import hashes_table
from thincow.store.connection import open_connection, transaction
from thincow.store.migrations import create_schema

MODULUS = 1 << 64
EDGES = [0, 1, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, MODULUS - 1]


def signed(values):
    return np.array(values, np.uint64).view(np.int64)


@pytest.fixture
def table():
    db = open_connection(None)
    create_schema(db)
    yield db
    db.close()


def insert(db, values):
    hashes = np.sort(signed(values))
    with transaction(db):
        hashes_table.insert_new(db, hashes, np.arange(len(values), dtype=np.int64))


def passes(known, values):
    by_one = {value for value in values if known.may_have(value)}
    hashes = signed(values)
    found = hashes[known.may_have_each(hashes)]
    assert {int(value) % MODULUS for value in found} == by_one
    return by_one


def test_filter_of_an_empty_table_knows_nothing():
    assert passes(HashFilter(0), EDGES) == set()


def test_filter_before_it_is_built_excludes_nothing():
    assert passes(HashFilter(5), EDGES) == set(EDGES)


@pytest.mark.parametrize("max_rows", [1, 7, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_filter_never_denies_what_is_in_the_table(table, seed, max_rows):
    choose = random.Random(seed)
    present = {*EDGES, *(choose.randrange(MODULUS) for _ in range(200))}
    insert(table, sorted(present))
    known = HashFilter(len(present), min_prefix_bits=8)
    for _ in range(500 // max_rows):
        assert passes(known, [*present]) == present
        added = [choose.randrange(MODULUS) for _ in range(choose.randrange(3))]
        if added and not present & set(added):
            known.add(signed(added))  # before the rows, as a commit does
            insert(table, added)
            present |= set(added)
        known.build(table, len(present), max_rows)
    assert passes(known, [*present]) == present


def test_filter_that_is_built_excludes_most(table):
    choose = random.Random(3)
    insert(table, [choose.randrange(MODULUS) for _ in range(1000)])
    known = HashFilter(1000, min_prefix_bits=8)
    for _ in range(11):
        known.build(table, 1000, 100)
    absent = [choose.randrange(MODULUS) for _ in range(1000)]
    assert len(passes(known, absent)) < 250


def test_filter_is_built_larger_when_it_gets_crowded(table):
    choose = random.Random(4)
    known = HashFilter(0, min_prefix_bits=8)
    present = [choose.randrange(MODULUS) for _ in range(1000)]
    known.add(signed(present))
    insert(table, present)
    absent = [choose.randrange(MODULUS) for _ in range(1000)]
    assert len(passes(known, absent)) > 900
    for _ in range(12):
        known.build(table, 1000, 100)
        assert passes(known, present) == set(present)
    assert len(passes(known, absent)) < 250
