"""The errors a user is meant to read: the command line prints each as a single line."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file, line, field and value, and says what would be right."""


class EngineLost(InputError):
    """The inference engine that draws a run's completions is gone, or does not answer in time. Every process of the run raises it, before the step
    has changed anything, so that the run saves what it has."""


class PeerLost(RuntimeError):
    """Of several processes, another one has ended or did not come in time. The one for which `speaks` holds prints the message."""

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks
