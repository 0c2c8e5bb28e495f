"""The command line. Nothing here imports PyTorch before a command needs it, so help and mistakes are answered at once."""

from prefloop.cli.program import main

__all__ = ["main"]
