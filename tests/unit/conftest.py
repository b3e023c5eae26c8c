"""Fixtures of the tests that drive the engine without FUSE."""

from tests.support.engines import new_store, store

__all__ = ["new_store", "store"]
