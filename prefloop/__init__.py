"""prefloop: the whole human-preference loop as one tool."""

__version__ = "0.1.0"
