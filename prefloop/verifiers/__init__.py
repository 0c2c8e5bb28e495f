"""Rewards that need no model: exact answers, regular expressions, and programs that pass tests."""

from prefloop.verifiers.verifier import Verifier, open_verifier, problem_with

__all__ = ["Verifier", "open_verifier", "problem_with"]
