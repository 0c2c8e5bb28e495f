"""Fixtures for the tests of judges."""

from tests.feedback.judges.server import server

__all__ = ["server"]
