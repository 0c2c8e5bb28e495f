"""The one error a user is meant to read: the command line prints it as a single line and exits with 2."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file, line, field and value, and says what would be right."""
