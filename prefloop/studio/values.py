"""What the studio's services take and give: plain frozen data, no database and no web behind it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

from prefloop.configs.common import require
from prefloop.data.store.values import ExportKind
from prefloop.errors import InputError
from prefloop.records import Message, Prompt
from prefloop.studio.questions import Question, QuestionAnswer, Span, check_questions

ProjectKind = Literal["pair", "rank", "best_worst", "rate", "binary", "edit", "clip", "chat"]
PROJECT_KINDS: tuple[str, ...] = get_args(ProjectKind)
ITEM_KIND: Mapping[str, Literal["pair", "rank", "single"]] = {
    "pair": "pair",
    "clip": "pair",
    "chat": "pair",
    "rank": "rank",
    "best_worst": "rank",
    "rate": "single",
    "binary": "single",
    "edit": "single",
}
"""Kind of project -> kind of item it asks about."""
EXPORTS: Mapping[str, tuple[ExportKind, ...]] = {
    "pair": ("comparisons", "demonstrations"),
    "clip": ("comparisons",),
    "chat": ("comparisons", "demonstrations"),
    "rank": ("rankings",),
    "best_worst": ("rankings",),
    "rate": ("scores",),
    "binary": ("labels",),
    "edit": ("demonstrations", "comparisons"),
}
"""Kind of project -> kinds of records that its answers give."""
Render = Literal["plain", "markdown"]
State = Literal["open", "paused", "closed", "archived"]
STATES: tuple[str, ...] = get_args(State)
"""Of projects. An archived one is shown to admins only; all it holds stays."""
ProjectRole = Literal["annotator", "adjudicator", "manager"]
PROJECT_ROLES: tuple[ProjectRole, ...] = get_args(ProjectRole)
"""What somebody may do in a project, each more than the one before: judge; decide where others disagree; run the project."""
Access = Literal["members", "everyone", "public"]
ACCESS: tuple[Access, ...] = get_args(Access)
Stage = Literal["", "practice", "qualification"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Of items whose answer is known: among the others, or before a person's work, with the answer told (practice) or not."""
AssignmentState = Literal["leased", "submitted", "skipped", "expired", "returned", "surplus"]
DONE: tuple[str, ...] = ("submitted", "skipped", "surplus")
"""States of an assignment that has an answer."""
FLAGS = ("unsafe", "untrue", "off topic", "broken prompt", "says who it is")
LONGEST_TEXT = 20_000
"""Characters of a rationale or an edited reply."""
MOST_QUOTA = 1_000_000
VISITORS: Mapping[str, tuple[int, int]] = {
    "visitor_messages": (1, 10_000),
    "visitor_chats": (1, 10_000),
    "visitor_tokens": (1, 10**9),
    "visitor_length": (1, LONGEST_TEXT),
}
"""Limits for visitors -> least and most."""
GOLD_SHARE = 0.1
"""Share of known answers of a project that is given the first ones."""
GOLD_OVERLAP = 1_000_000
"""Everybody may be asked an item whose answer is known."""


class NotFound(InputError):
    """What was asked for is not there, or not this person's."""


class NotAllowed(InputError):
    """Who asks may not do this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """A question of a `rate` project, answered by a level from 1."""

    name: str
    levels: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectSettings:
    """What a project asks, and by which rules."""

    name: str
    kind: ProjectKind = "pair"
    guidelines: str = ""
    """Markdown."""
    overlap: int = 1
    """How many annotators judge each item."""
    lease_seconds: int = 1800
    """How long an annotator may take before the item is offered to others."""
    strength_levels: int = 2
    """Steps of preference on each side: 0 (not asked), 2 (better, much better) or 3 (slightly better, better, much better)."""
    allow_tie: bool = True
    allow_both_bad: bool = True
    flags: tuple[str, ...] = FLAGS
    scales: tuple[Scale, ...] = (Scale(name="helpful"), Scale(name="correct"), Scale(name="well written"))
    """Only of `rate` projects."""
    render: Render = "plain"
    gold_share: float = 0.0
    """Share of questions whose answer is known, where there are such items."""
    access: Access = "everyone"
    """Who belongs to the project: everybody with an account, its members only, or (`public`, of a chat) visitors without an account too.
    Others are not told that it is there."""
    daily_quota: int = 0
    """Answers that each annotator may give in a day (UTC); 0 sets no limit."""
    quota: int = 0
    """Answers that each annotator may give in all; 0 sets no limit."""
    qualify_items: int = 0
    """Qualification items that each annotator answers before any other; 0 asks none."""
    qualify_share: float = 0.8
    """Share of them that must be right."""
    gold_floor: float = 0.0
    """An annotator is paused who gets less than this share of the last known answers right; 0 pauses nobody."""
    gold_window: int = 10
    """How many of the last known answers count for `gold_floor`; nobody is paused before they have given so many."""
    least_seconds: float = 0.0
    """Answers given in less time are marked as too fast. At 0, only those that are faster than anybody reads."""
    questions: tuple[Question, ...] = ()
    """What is asked beside the main question, in the order of the page."""
    suggest_from: str = ""
    """Judge whose verdicts people are shown, by name; empty for none."""
    suggest_share: float = 0.0
    """Share of assignments that show one. The others measure its influence."""
    reveal: bool = False
    """Of a chat: tell people which models answered, once they have voted. Such a vote cannot be taken back."""
    visitor_messages: int = 30
    """Of a public chat: messages a day of each visitor without an account."""
    visitor_chats: int = 20
    """Visitors who talk at a time; others are asked to wait."""
    visitor_tokens: int = 200_000
    """Tokens of answers to visitors in a day (UTC), all together. Answers under way may exceed it."""
    visitor_length: int = 2000
    """Characters of a visitor's message."""

    def __post_init__(self) -> None:
        require(0 < len(self.name.strip()) <= 100, "a project's name must have 1 to 100 characters")
        require(
            self.kind in PROJECT_KINDS,
            f"kind is {self.kind!r}; it must be one of {', '.join(PROJECT_KINDS)}",
        )
        require(1 <= self.overlap <= 1000, f"overlap is {self.overlap}; it must be 1 to 1000")
        require(
            10 <= self.lease_seconds <= 7 * 86400,
            f"lease_seconds is {self.lease_seconds}; it must be 10 seconds to 7 days",
        )
        require(
            self.strength_levels in (0, 2, 3),
            f"strength_levels is {self.strength_levels}; it must be 0 (not asked), 2 or 3",
        )
        require(
            len(self.flags) <= 20 and all(0 < len(flag) <= 40 for flag in self.flags),
            "flags are 20 at most, each of 1 to 40 characters",
        )
        require(len(set(self.flags)) == len(self.flags), "a flag is named twice")
        require(
            self.kind != "rate"
            or (
                0 < len(self.scales) <= 10
                and len({scale.name for scale in self.scales}) == len(self.scales)
                and all(0 < len(scale.name) <= 40 and 2 <= scale.levels <= 9 for scale in self.scales)
            ),
            "scales are 1 to 10, named differently, each with 2 to 9 levels",
        )
        require(self.render in get_args(Render), f"render is {self.render!r}; it must be plain or markdown")
        require(0 <= self.gold_share <= 0.5, f"gold_share is {self.gold_share}; it must be between 0 and 0.5")
        require(self.access in ACCESS, f"access is {self.access!r}; it must be members, everyone or public")
        require(
            self.access != "public" or self.kind == "chat",
            f"access is public, but kind is {self.kind}; only a chat is open to visitors, so choose another access",
        )
        for name, (least, most) in VISITORS.items():
            value = getattr(self, name)
            require(least <= value <= most, f"{name} is {value}; it must be {least} to {most}")
        for name in ("daily_quota", "quota"):
            value = getattr(self, name)
            require(0 <= value <= MOST_QUOTA, f"{name} is {value}; it must be 0 (no limit) to {MOST_QUOTA}")
        require(
            0 <= self.qualify_items <= 1000,
            f"qualify_items is {self.qualify_items}; it must be 0 (none) to 1000",
        )
        require(
            0 < self.qualify_share <= 1,
            f"qualify_share is {self.qualify_share}; it must be above 0, and 1 at most",
        )
        require(
            0 <= self.gold_floor <= 1,
            f"gold_floor is {self.gold_floor}; it must be 0 (nobody is paused) to 1",
        )
        require(1 <= self.gold_window <= 1000, f"gold_window is {self.gold_window}; it must be 1 to 1000")
        require(
            0 <= self.least_seconds <= 3600,
            f"least_seconds is {self.least_seconds}; it must be 0 to 3600",
        )
        check_questions(self.questions, kind=self.kind)
        require(
            not self.reveal or self.kind == "chat",
            f"reveal is on, but kind is {self.kind}; only a chat tells the models after a vote, so turn it off",
        )
        require(
            0 < self.suggest_share <= 1 if self.suggest_from else self.suggest_share == 0,
            f"suggest_share is {self.suggest_share}; it must be above 0 and 1 at most where suggest_from names a judge, and 0 elsewhere",
        )
        require(len(self.guidelines) <= 100_000, "guidelines are longer than 100,000 characters")

    def asking_as(self, other: "ProjectSettings") -> "ProjectSettings":
        """These settings, with the further questions and the suggestions of others, which forms of their own change."""
        return replace(
            self,
            questions=other.questions,
            suggest_from=other.suggest_from,
            suggest_share=other.suggest_share,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """A stored project."""

    id: int
    settings: ProjectSettings
    state: State

    @property
    def guideline_version(self) -> str:
        """Beginning of the hash of the guidelines; every judgement keeps it."""
        return version_of(self.settings.guidelines)


def version_of(guidelines: str) -> str:
    """What a version of guidelines is called; nothing where there are none."""
    return hashlib.sha256(guidelines.encode()).hexdigest()[:12] if guidelines else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What an annotator says of what is on the page. Places count from 0 in the order shown; slots never reach the page."""

    choice: Literal[
        "first",
        "second",
        "tie",
        "both_bad",
        "cant_tell",
        "ranking",
        "best",
        "good",
        "bad",
        "rated",
        "edited",
    ]
    strength: int = 0
    """1 (least) to the project's number of levels; 0 = not given."""
    ranking: tuple[tuple[int, ...], ...] = ()
    """Groups of places, best first, ties together; may leave places out. Of `best` the one best place."""
    ratings: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    rationale: str = ""
    edited: str = ""
    """A better reply, written from the better one of those shown (or the only one)."""
    edited_from: Literal["", "first", "second"] = ""
    """The reply it was written from; it must be the one chosen. Empty: the one chosen."""
    answers: tuple[QuestionAnswer, ...] = ()
    """To the project's further questions."""
    spans: tuple[Span, ...] = ()
    """Parts of the replies that were marked."""
    duration_ms: int = 0

    def __post_init__(self) -> None:
        for name, text in (("rationale", self.rationale), ("edited", self.edited)):
            require(len(text) <= LONGEST_TEXT, f"{name} is longer than {LONGEST_TEXT} characters")
        require(
            0 <= self.duration_ms <= 10**12,
            f"duration_ms is {self.duration_ms}; it must be milliseconds, 0 or more",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """An item in front of an annotator, as its page may see it: no model, no setting, no slot, no number of the database."""

    token: str
    project: int
    kind: ProjectKind
    prompt: Prompt
    completions: tuple[str, ...]
    """In the order shown."""
    state: AssignmentState
    expires_at: datetime
    draft: Mapping[str, Any]
    render: str
    """How its texts are shown: `plain` or `markdown`."""
    note: str
    """With which an answer was sent back, to be given again; empty otherwise."""
    stage: Stage
    """Whether it is practice or qualification. Known answers among the work do not show themselves."""
    suggestion: str = ""
    """A judge's verdict, in places (`first`, `tie`, ...); empty where none is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Talk:
    """A conversation in front of an annotator, as its page may see it."""

    token: str
    project: int
    state: Literal["open", "ended"]
    messages: tuple[Message, ...]
    """What was said so far. Messages whose answers were both bad, or skipped, are left out, as the models do not see them again."""
    waiting: bool
    """Whether two answers to the last message are being written."""
    partial: tuple[str, ...]
    """These answers so far, in the order they will be shown; empty before and after."""
    problem: str
    """Why the last message got no answers; empty if it did."""
    again: str
    """A message that led nowhere, to be sent again or said in other words; empty for none."""
    assignment: Assignment | None
    """The two answers to the last message, not judged yet."""
    draft: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """What somebody is told of an answer to a practice item."""

    right: bool
    expected: str
    """The known answer, in the places shown: `first`, `tie`, ..."""
    note: str
    """Why it is right; may be empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What became of an answer."""

    token: str
    state: AssignmentState
    judgement: int
    feedback: Feedback | None = None
    """Only of practice items."""
    models: tuple[str, ...] = ()
    """Who wrote the replies, in the places shown; only of a chat that tells it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """An answer of one's own, for the history."""

    token: str
    project: int
    project_name: str
    prompt: Prompt
    completions: tuple[str, ...]
    """In the order shown."""
    state: AssignmentState
    said: str
    """In words: `first is better`, `tie`, `skipped`, ..."""
    rationale: str
    at: datetime
    can_undo: bool
    notes: tuple[tuple[str, str, str], ...] = ()
    """What was written about it, oldest first: kind, by whom (`you`, or `the project`), and the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectProgress:
    """How far a project is. Items whose answer is known count in none of the numbers but `gold`."""

    items: int
    wanted: int
    """Answers in all: items times overlap."""
    submitted: int
    leased: int
    surplus: int
    skipped: int
    done: int
    """Items with as many answers as wanted."""
    gold: int


_LOGIN = re.compile(r"[a-z0-9][a-z0-9._@+-]{1,63}")


def checked_login(given: str) -> str:
    """A login name in lower case, or `InputError`."""
    login = given.strip().lower()
    require(
        _LOGIN.fullmatch(login) is not None,
        "a login has 2 to 64 characters: letters a to z, digits, and . _ @ + -",
    )
    return login
