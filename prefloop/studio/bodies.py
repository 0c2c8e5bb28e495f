"""What the HTTP API is sent and answers: bodies of requests and responses, and parts of addresses."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prefloop.studio.questions import LONGEST_COMMENT, MOST_SPANS
from prefloop.studio.values import (
    LONGEST_TEXT,
    MOST_QUOTA,
    Access,
    ProjectKind,
    ProjectSettings,
    Scale,
)


def _whole(text: str) -> str:
    """Text that can be stored: half a character (a lone surrogate) cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("has half a character (a lone surrogate)") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]
Token = Annotated[str, Path(min_length=1, max_length=64), AfterValidator(_whole)]
Number = Annotated[int, Path(ge=0, lt=2**31)]
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=8, max_length=100, pattern=r"^[\x21-\x7e]+$")]


class Strict(BaseModel):
    """A body that may hold what is known and nothing else."""

    model_config = ConfigDict(extra="forbid")


class NextIn(Strict):
    project: int = Field(ge=0, lt=2**31)
    have: list[Text] = Field(default=[], max_length=10, description="tokens that the page holds already")


class QuestionAnswerIn(Strict):
    question: Text = Field(max_length=40, description="its name")
    value: int | Annotated[Text, Field(max_length=LONGEST_TEXT)] = Field(
        description="a level, an option, or a text"
    )
    place: int | None = Field(
        default=None, ge=0, le=1000, description="the reply it is about, by its place from 0"
    )


class SpanIn(Strict):
    question: Text = Field(max_length=40, description="name of the question of kind spans")
    place: int = Field(ge=0, le=1000, description="the reply, by its place from 0")
    start: int = Field(
        ge=0, lt=2**31, description="first character of the part, in Unicode characters from 0"
    )
    end: int = Field(ge=0, lt=2**31, description="the character after its last")
    label: Text = Field(max_length=60)
    comment: Text = Field(default="", max_length=LONGEST_COMMENT)


Answers = Annotated[list[QuestionAnswerIn], Field(max_length=2000)]
Spans = Annotated[list[SpanIn], Field(max_length=MOST_SPANS)]


class AnswerIn(Strict):
    choice: Literal[
        "first", "second", "tie", "both_bad", "cant_tell", "ranking", "best", "good", "bad", "rated", "edited"
    ]
    strength: int = Field(default=0, ge=0, le=10)
    ranking: list[list[int]] = Field(
        default=[],
        max_length=1000,
        description="places from 0, best group first; for the choice `best`, the one best place",
    )
    ratings: dict[Text, int] = Field(default={}, max_length=20)
    flags: list[Text] = Field(default=[], max_length=20)
    rationale: Text = Field(default="", max_length=LONGEST_TEXT)
    edited: Text = Field(
        default="", max_length=LONGEST_TEXT, description="a better reply, written from the one chosen"
    )
    edited_from: Literal["", "first", "second"] = Field(
        default="",
        description="the reply that `edited` was written from; refused if it is not the one chosen",
    )
    answers: Answers = Field(default=[], description="to the project's further questions")
    spans: Spans = Field(default=[], description="parts of the replies that you marked")
    duration_ms: int = Field(default=0, ge=0, le=10**12)


class SkipIn(Strict):
    reason: Text = Field(default="", max_length=2000)


class DraftIn(Strict):
    choice: Text = Field(default="", max_length=16)
    strength: int = Field(default=0, ge=0, le=10)
    ranking: list[list[int]] = Field(default=[], max_length=1000)
    ratings: dict[Text, int] = Field(default={}, max_length=20)
    flags: list[Text] = Field(default=[], max_length=20)
    rationale: Text = Field(default="", max_length=LONGEST_TEXT)
    edited: Text = Field(default="", max_length=LONGEST_TEXT)
    edits: dict[Literal["first", "second"], Annotated[Text, Field(max_length=LONGEST_TEXT)]] = Field(
        default={}, description="rewrites by the reply they were written from; the page keeps both"
    )
    answers: Answers = Field(default=[])
    spans: Spans = Field(default=[])


class ScaleIn(Strict):
    name: Text = Field(min_length=1, max_length=40)
    levels: int = Field(default=5, ge=2, le=9)


class ProjectIn(Strict):
    name: Text = Field(min_length=1, max_length=100)
    kind: ProjectKind = "pair"
    guidelines: Text = Field(default="", max_length=100_000)
    overlap: int = Field(default=1, ge=1, le=1000)
    lease_seconds: int = Field(default=1800, ge=10, le=7 * 86400)
    strength_levels: int = Field(default=2, ge=0, le=3)
    allow_tie: bool = True
    allow_both_bad: bool = True
    flags: list[Text] | None = Field(default=None, max_length=20)
    scales: list[ScaleIn] | None = Field(default=None, max_length=10)
    render: Literal["plain", "markdown"] = "plain"
    reveal: bool = Field(default=False, description="of a chat: tell the models after a vote")
    gold_share: float = Field(default=0.0, ge=0, le=0.5)
    daily_quota: int = Field(
        default=0, ge=0, le=MOST_QUOTA, description="answers of each annotator in a day (UTC); 0: no limit"
    )
    quota: int = Field(
        default=0, ge=0, le=MOST_QUOTA, description="answers of each annotator in all; 0: no limit"
    )
    qualify_items: int = Field(
        default=0, ge=0, le=1000, description="qualification items before any other; 0: none"
    )
    qualify_share: float = Field(default=0.8, gt=0, le=1, description="share of them that must be right")
    gold_floor: float = Field(
        default=0.0, ge=0, le=1, description="share of the last known answers below which a person is paused"
    )
    gold_window: int = Field(default=10, ge=1, le=1000, description="how many of the last known answers")
    least_seconds: float = Field(default=0.0, ge=0, le=3600, description="faster answers are marked")
    access: Access | None = Field(
        default=None,
        description="who has access: its members (the default for a new one), everybody with an account, or (public, of a chat) visitors too",
    )
    visitor_messages: int = Field(default=30, ge=1, le=10_000, description="messages a day of a visitor")
    visitor_chats: int = Field(default=20, ge=1, le=10_000, description="visitors who talk at a time")
    visitor_tokens: int = Field(
        default=200_000, ge=1, le=10**9, description="tokens a day of answers to visitors, all together"
    )
    visitor_length: int = Field(
        default=2000, ge=1, le=LONGEST_TEXT, description="characters of a visitor's message"
    )

    def settings(self, access: Access) -> ProjectSettings:
        """As the services take it. `access`: where nothing is said of it."""
        values: dict[str, Any] = self.model_dump(exclude={"flags", "scales", "state"})
        values["access"] = self.access or access
        if self.flags is not None:
            values["flags"] = tuple(self.flags)
        if self.scales is not None:
            values["scales"] = tuple(Scale(name=scale.name, levels=scale.levels) for scale in self.scales)
        return ProjectSettings(**values)


class ChangeIn(ProjectIn):
    state: Literal["open", "paused", "closed", "archived"] | None = None


class RoleIn(Strict):
    role: Literal["admin", "annotator", "adjudicator"]


class ActiveIn(Strict):
    active: bool


class TokenIn(Strict):
    name: Text = Field(min_length=1, max_length=60)
    scopes: list[Literal["read", "annotate", "admin"]] = Field(min_length=1, max_length=3)
    days: int = Field(default=90, ge=1, le=3650)


class SettingsIn(Strict):
    keys: dict[Annotated[Text, Field(max_length=40)], Annotated[Text, Field(max_length=20)]] = Field(
        default={}, max_length=60
    )
    theme: Literal["auto", "light", "dark"] = "auto"
    language: Literal["auto", "en", "de", "es", "zh", "ar"] = Field(
        default="auto", description="of the pages; auto: as the browser asks"
    )
    at_once: bool = Field(default=False, description="choosing submits, without a second key")
    size: Literal["small", "medium", "large"] = "medium"


class Turn(BaseModel):
    role: str
    html: str
    source: str = Field(description="the text itself")


class AssignmentOut(BaseModel):
    token: str
    project: int
    kind: str
    prompt: list[Turn]
    responses: list[str] = Field(description="HTML, in the order to show")
    sources: list[str] = Field(
        description="the texts themselves, for editing and comparing; an image stands there as ![alt](prefloop-image:WxH:SHA256)"
    )
    images: str = Field(description="address of the item's images, each under its SHA-256")
    state: str
    expires_at: datetime
    draft: dict[str, Any]
    stage: str = Field(description="practice or qualification; empty at work")
    note: str = Field(description="with which your answer was sent back, to be given again")
    suggestion: str = Field(
        description="a judge's verdict in places (first, tie, ...); empty where none is shown"
    )


class GuidelinesOut(BaseModel):
    version: str
    html: str
    changed: bool = Field(description="whether you have read an earlier version")


class NextOut(BaseModel):
    assignment: AssignmentOut | None
    done: int = Field(description="answers you have given in this project")
    left: int = Field(description="items you can still be asked, those you hold among them; 100 for more")
    unanswered: list[str] = Field(description="those of `have` that have no answer yet")
    state: str = Field(description="of the project; only an open project asks anything")
    why: str = Field(description="that your quota is reached, or you are paused; empty if neither is so")
    guidelines: GuidelinesOut | None = Field(
        description="to be read first; say so at /projects/{id}/guidelines/read"
    )


class FeedbackOut(BaseModel):
    right: bool
    expected: str = Field(description="the known answer, in the places shown")
    note: str


class ReceiptOut(BaseModel):
    token: str
    state: str
    feedback: FeedbackOut | None = Field(description="of practice items")
    models: list[str] = Field(description="who wrote the replies, where a chat tells it after the vote")


class ReadIn(Strict):
    version: Text = Field(min_length=1, max_length=12)


class PastOut(BaseModel):
    token: str
    project: int
    project_name: str
    prompt: list[Turn]
    responses: list[str]
    state: str
    said: str
    rationale: str
    at: datetime
    can_undo: bool
    notes: list[tuple[str, str, str]] = Field(description="kind, by whom, text: what was written about it")


class ProjectOut(BaseModel):
    id: int
    state: str
    settings: dict[str, Any]
    progress: dict[str, int]
