"""The errors a user is meant to read: the command line prints each as a single line."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file, line, field and value, and says what would be right."""


class PeerLost(RuntimeError):
    """Of several processes, another one has ended or did not come in time. The one for which `speaks` holds prints the message."""

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks
