"""A model to talk to without a model: two manners, a few subjects, at once."""

from collections.abc import Sequence
from itertools import count

from prefloop.records import Message
from prefloop.studio.responders import Candidate, Show

_MANNERS = (
    "Of course. {about} First look at it from the side, then turn the screw marked H a quarter of a turn, and try again; tell me what you see.",
    "{about} Take it to a workshop.",
)


class Talker:
    """A `Responder` whose manner is drawn by the seed."""

    def __init__(self) -> None:
        self._numbers = count()

    def reply(self, messages: Sequence[Message], *, seed: int, show: Show) -> Candidate:
        """Answer in one of two manners, in turn."""
        number = next(self._numbers)
        about = "That can be put right." if len(messages) > 2 else "I am glad to help."
        return Candidate(
            text=_MANNERS[number % 2].format(about=about),
            policy="secret-policy-7b",
            weights_sha256="",
            seed=seed,
            temperature=1.0,
            tokens=20,
            ended=True,
            logprob=0.0,
        )
