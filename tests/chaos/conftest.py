"""Fixtures of the tests against real clusters."""

from tests.real_cluster import make_ground

__all__ = ["make_ground"]
