"""Settings of `prefloop label questions` and `prefloop label answers`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import Selecting, require, require_selecting


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionsConfig:
    """Print the further questions of a studio project as YAML, or set them from a file."""

    project: str
    """Project, by name or number."""
    store: str = "prefloop.db"
    """Store that holds it: a file or a database URL."""
    file: str = ""
    """YAML file with the new questions; nothing is changed without one."""

    def __post_init__(self) -> None:
        require(bool(self.project.strip()), "project is empty; give a name or a number")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersConfig(Selecting):
    """Write the answers to further questions to a file: answers, marked spans with their offsets, or steps to train on."""

    out: str
    """File to write, .jsonl."""
    store: str = "prefloop.db"
    """Store to read."""
    kind: Literal["answers", "spans", "steps"] = "answers"
    """A row a judgement with all answers; a row a reply with its marked spans; or a row a reply with its lines, each bad if a span touches it."""
    labels: tuple[str, ...] = ()
    """Labels of the spans that count; none means all."""

    def __post_init__(self) -> None:
        require(
            self.out.endswith(".jsonl"),
            f"out is {self.out!r}; name a file that ends in .jsonl, for example spans.jsonl",
        )
        require(
            self.kind != "answers" or not self.labels,
            f"labels are {', '.join(self.labels)}, but kind is answers, which has all spans; leave labels out",
        )
        require(
            self.aggregate == "each",
            f"aggregate is {self.aggregate}, but answers to further questions are not aggregated; leave it out",
        )
        require_selecting(self)
