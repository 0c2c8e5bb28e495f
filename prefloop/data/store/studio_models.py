"""The tables that a labelling server needs beside those of the loop: projects, leases, drafts, chats, accounts, sessions and the audit log.

A judgement is the same row whoever made it, in the studio or elsewhere. What the studio adds is who may be asked what (`task`), who is being
asked (`assignment`), what else was said (`judgement_detail`), and who people are (`account`): an annotator's name is a pseudonym from the
beginning, and the person behind it stands in `account` alone, so that removing the person changes no judgement and no export.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from prefloop.data.store.models import Base


class ProjectRow(Base):
    """A kind of question put to people, with its guidelines and rules."""

    __tablename__ = "project"
    __table_args__ = (
        CheckConstraint(
            "kind IN ('pair', 'rank', 'best_worst', 'rate', 'binary', 'edit', 'clip', 'chat')", name="kind"
        ),
        CheckConstraint("state IN ('open', 'paused', 'closed', 'archived', 'deleted')", name="state"),
        CheckConstraint("access IN ('members', 'everyone', 'public')", name="access"),
        CheckConstraint("daily_quota >= 0 AND quota >= 0", name="quotas"),
        CheckConstraint("gold_window >= 1 AND gold_floor >= 0 AND gold_floor <= 1", name="gold_floor"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    guidelines: Mapped[str]
    """Markdown."""
    overlap: Mapped[int]
    """How many annotators judge each item."""
    lease_seconds: Mapped[int]
    """How long an annotator may take before the item is offered to others."""
    strength_levels: Mapped[int]
    """Steps of preference on each side; 0 = not asked."""
    allow_tie: Mapped[bool]
    allow_both_bad: Mapped[bool]
    flags: Mapped[Any]
    """Words an annotator can mark an item with."""
    scales: Mapped[Any]
    """Questions of a `rate` project: `[{"name", "levels"}]`."""
    render: Mapped[str] = mapped_column(String(16))
    """`plain` or `markdown`."""
    gold_share: Mapped[float]
    """Share of questions whose answer is known."""
    state: Mapped[str] = mapped_column(String(16))
    """A deleted project is a row without questions, to which only withdrawn answers lead; see `removal` in the studio."""
    access: Mapped[str] = mapped_column(String(16))
    """Whether its members belong to it, everybody with an account, or whoever comes."""
    daily_quota: Mapped[int]
    """Answers that a person may give in a day (UTC); 0 = any number."""
    quota: Mapped[int]
    """Answers that a person may give in all; 0 = any number."""
    qualify_items: Mapped[int]
    """Known answers that a person is asked before anything else; 0 = none."""
    qualify_share: Mapped[float]
    """Share of them that must be right."""
    gold_floor: Mapped[float]
    """A person is paused who gets less than this share of the last known answers right; 0 = nobody is."""
    gold_window: Mapped[int]
    """How many of the last known answers count for it."""
    least_seconds: Mapped[float]
    """Answers given in less time are marked as too fast; 0 = only those faster than anybody reads."""
    questions: Mapped[Any]
    """What is asked beside the main question: a list of `questions.Question` as JSON."""
    suggest_from: Mapped[str]
    """Name of the judge whose verdicts people are shown; empty for none."""
    suggest_share: Mapped[float]
    """Share of assignments that show one."""
    reveal: Mapped[bool]
    """Of a chat: whether people are told which models answered, once they have voted."""
    visitor_messages: Mapped[int]
    """Messages a day of a visitor without an account."""
    visitor_chats: Mapped[int]
    """Visitors who talk at a time."""
    visitor_tokens: Mapped[int]
    """Tokens of answers to visitors in a day, all together."""
    visitor_length: Mapped[int]
    """Characters of a visitor's message."""
    created_at: Mapped[datetime]


class GuidelineVersionRow(Base):
    """Guidelines as they once stood. Every judgement keeps the version that its annotator had read."""

    __tablename__ = "guideline_version"

    project_id: Mapped[int] = mapped_column(
        ForeignKey("project.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    version: Mapped[str] = mapped_column(String(12), primary_key=True)
    text: Mapped[str]
    created_at: Mapped[datetime]


class GuidelineReadingRow(Base):
    """An annotator said that they have read a version of the guidelines."""

    __tablename__ = "guideline_reading"
    __table_args__ = (UniqueConstraint("project_id", "annotator_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    version: Mapped[str] = mapped_column(String(12))
    at: Mapped[datetime]


class StandingRow(Base):
    """Whether an annotator may go on in a project. Who has no row has neither qualified nor been paused."""

    __tablename__ = "standing"
    __table_args__ = (
        UniqueConstraint("project_id", "annotator_id"),
        CheckConstraint("state IN ('working', 'paused', 'failed')", name="state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    state: Mapped[str] = mapped_column(String(16))
    qualified: Mapped[bool]
    """Whether practice and qualification are behind them."""
    why: Mapped[str]
    """What a person is told who may not go on, and whoever runs the project with them."""
    gold_since: Mapped[datetime | None]
    """Known answers given before this no longer count against them."""
    changed_at: Mapped[datetime]


class TaskRow(Base):
    """An item that a project asks about. `taken` counts submitted answers and running leases; the database itself keeps it within the overlap."""

    __tablename__ = "task"
    __table_args__ = (
        UniqueConstraint("project_id", "item_id"),
        CheckConstraint("taken >= 0 AND taken <= overlap", name="taken"),
        CheckConstraint("stage IN ('', 'practice', 'qualification')", name="stage"),
        Index(
            "ix_task_queue",
            # The whole order in which items are offered: the first that fits is found without sorting those behind it.
            *("project_id", "gold", "queue", "taken", "position", "id"),
            sqlite_where=text("open = 1"),
            postgresql_where=text("open"),
        ),
        Index("ix_task_stage", "project_id", "stage"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), index=True)
    queue: Mapped[float]
    """Lower is asked first: minus the priority."""
    position: Mapped[int]
    """Random, for the order among equals."""
    overlap: Mapped[int]
    taken: Mapped[int]
    open: Mapped[bool]
    """Whether it can be offered: `taken < overlap`, and it is not archived."""
    gold: Mapped[str] = mapped_column(String(16))
    """The choice that is known to be right; empty if none is."""
    stage: Mapped[str] = mapped_column(String(16))
    """Of a known answer: `practice` and `qualification` come before a person's work, the others among it."""
    gold_note: Mapped[str]
    """Why that choice is right: shown after a practice item."""
    archived: Mapped[bool]
    """An archived item is not asked, and its answers are in no export."""
    audience: Mapped[str]
    """Whom it is kept for: a tag, or `person:PSEUDONYM`; empty for everybody."""


class AssignmentRow(Base):
    """An item in front of an annotator. `token` is all that the annotator's page knows of it."""

    __tablename__ = "assignment"
    __table_args__ = (
        UniqueConstraint("task_id", "annotator_id"),
        CheckConstraint(
            "state IN ('leased', 'submitted', 'skipped', 'expired', 'returned', 'surplus')", name="state"
        ),
        Index("ix_assignment_state_expires_at", "state", "expires_at"),
        Index("ix_assignment_of", "annotator_id", "project_id", "state"),
        # What was answered, newest first: by whom, and in which project.
        *(
            Index(
                f"ix_assignment_{name}",
                *(first, "finished_at", "id"),
                sqlite_where=text("judgement_id IS NOT NULL"),
                postgresql_where=text("judgement_id IS NOT NULL"),
            )
            for name, first in (("history", "annotator_id"), ("newest", "project_id"))
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(32), unique=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    project_id: Mapped[int]
    """The task's, so that what somebody has done in a project is counted without reading its tasks."""
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"))
    state: Mapped[str] = mapped_column(String(16))
    order_shown: Mapped[Any]
    """Slots as they stand on the page, first to last; drawn when the assignment is made."""
    leased_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    judgement_id: Mapped[int | None] = mapped_column(ForeignKey("judgement.id"), index=True)
    """The annotator's current judgement through this assignment."""
    draft: Mapped[Any]
    """What the page had when it was left: an unfinished answer, `{}` for none."""


class TallyRow(Base):
    """A number that belongs to a sum: all rows of a project, an annotator and a name. Triggers add them; they are folded now and then."""

    __tablename__ = "tally"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    project_id: Mapped[int | None] = mapped_column(index=True)
    """None for `judgements`, which are counted over all projects."""
    annotator_id: Mapped[int | None]
    """None for what is counted of items."""
    what: Mapped[str] = mapped_column(String(16))
    n: Mapped[int] = mapped_column(BigInteger)


class NoteRow(Base):
    """A word on an answer, between its annotator and whoever runs the project. The last one says where the answer stands. Rows are only ever added."""

    __tablename__ = "note"
    __table_args__ = (CheckConstraint("kind IN ('sent_back', 'revised', 'dispute', 'settled')", name="kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"), index=True)
    annotator_id: Mapped[int | None] = mapped_column(ForeignKey("annotator.id"), index=True)
    """Who wrote it."""
    kind: Mapped[str] = mapped_column(String(16))
    text: Mapped[str]
    at: Mapped[datetime]


class JudgementDetailRow(Base):
    """What an annotator said besides the choice. Rows are only ever added."""

    __tablename__ = "judgement_detail"

    judgement_id: Mapped[int] = mapped_column(
        ForeignKey("judgement.id"), primary_key=True, autoincrement=False
    )
    assignment_id: Mapped[int | None] = mapped_column(ForeignKey("assignment.id"), index=True)
    rationale: Mapped[str]
    flags: Mapped[Any]
    ratings: Mapped[Any]
    """Scale -> level, from 1."""
    edited: Mapped[str]
    """The better reply that the annotator wrote; empty for none."""
    edit_judgement_id: Mapped[int | None] = mapped_column(ForeignKey("judgement.id"), index=True)
    """The judgement that prefers that reply to the one it was made from."""


class QuestionAnswerRow(Base):
    """What an annotator answered to a further question, with a judgement. Rows are only ever added."""

    __tablename__ = "question_answer"
    __table_args__ = (UniqueConstraint("judgement_id", "question", "completion_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    judgement_id: Mapped[int] = mapped_column(ForeignKey("judgement.id"))
    completion_id: Mapped[int | None] = mapped_column(ForeignKey("completion.id"), index=True)
    """The reply it is about; None if it is about the item."""
    question: Mapped[str] = mapped_column(String(40))
    """Name of the question."""
    value: Mapped[Any]
    """A level, an option, or a text."""


class SpanRow(Base):
    """A part of a completion that an annotator marked, with a judgement. Rows are only ever added."""

    __tablename__ = "span"
    __table_args__ = (CheckConstraint("start >= 0 AND stop > start", name="part"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    judgement_id: Mapped[int] = mapped_column(ForeignKey("judgement.id"), index=True)
    completion_id: Mapped[int] = mapped_column(ForeignKey("completion.id"), index=True)
    question: Mapped[str] = mapped_column(String(40))
    """Name of the question."""
    start: Mapped[int]
    """First character, from 0."""
    stop: Mapped[int]
    """The character after the last."""
    label: Mapped[str]
    comment: Mapped[str]


class SuggestionRow(Base):
    """A judge's verdict on the item of an assignment, and whether the annotator was shown it. Drawn when the assignment is made."""

    __tablename__ = "suggestion"

    assignment_id: Mapped[int] = mapped_column(
        ForeignKey("assignment.id"), primary_key=True, autoincrement=False
    )
    judgement_id: Mapped[int] = mapped_column(ForeignKey("judgement.id"), index=True)
    shown: Mapped[bool]


class ChatRow(Base):
    """A conversation of an annotator with the models that are served. Each turn's two candidates are an item like any other."""

    __tablename__ = "chat"
    __table_args__ = (CheckConstraint("state IN ('open', 'ended')", name="state"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(32), unique=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    state: Mapped[str] = mapped_column(String(16))
    draft: Mapped[str]
    """A message that was begun and not sent."""
    started_at: Mapped[datetime]


class ChatTurnRow(Base):
    """A message of the annotator and, once they are written, the assignment that asks which of two answers is better."""

    __tablename__ = "chat_turn"
    __table_args__ = (
        UniqueConstraint("chat_id", "position"),
        UniqueConstraint("chat_id", "idempotency_key"),
        CheckConstraint("state IN ('waiting', 'failed', 'asked')", name="state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(ForeignKey("chat.id"))
    position: Mapped[int]
    message: Mapped[str]
    idempotency_key: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))
    problem: Mapped[str]
    """Why there are no answers; empty unless it failed."""
    claimed_until: Mapped[datetime]
    """Until then somebody is waiting for the models; later another process may ask them again."""
    assignment_id: Mapped[int | None] = mapped_column(ForeignKey("assignment.id"), index=True)
    partial: Mapped[Any]
    """While it waits: the two answers so far, in the order they will be shown; empty before and after."""
    stopping: Mapped[bool]
    """Whether the annotator wants the answers as they are now."""
    created_at: Mapped[datetime]


class AdjudicationRow(Base):
    """Marks a judgement that decides where people disagreed, made in sight of what they said. Rows are only ever added."""

    __tablename__ = "adjudication"

    judgement_id: Mapped[int] = mapped_column(
        ForeignKey("judgement.id"), primary_key=True, autoincrement=False
    )
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    """Who decided, as an annotator. The judgement itself stands under a name of its own, so that it is not a vote of theirs."""


class AccountRow(Base):
    """A person who can sign in. Removing the row makes the annotator anonymous."""

    __tablename__ = "account"
    __table_args__ = (CheckConstraint("role IN ('admin', 'annotator', 'adjudicator', 'guest')", name="role"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), unique=True)
    login: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    """Argon2id."""
    role: Mapped[str] = mapped_column(String(16))
    active: Mapped[bool]
    settings: Mapped[Any]
    """Keys and appearance, as the person set them."""
    created_at: Mapped[datetime]
    totp_secret: Mapped[str]
    """What an authenticator app shares with the server, in base 32; empty while there is no second factor. It cannot be a hash."""
    totp_step: Mapped[int]
    """The last half minute whose code was taken: a code works once."""
    totp_failures: Mapped[int]
    """Wrong codes in a row."""
    totp_blocked_until: Mapped[datetime | None]


class AccountTagRow(Base):
    """A group, a skill or a language of a person: `group:NAME`, `skill:NAME`, `language:CODE`."""

    __tablename__ = "account_tag"
    __table_args__ = (UniqueConstraint("account_id", "tag"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    tag: Mapped[str]


class RecoveryCodeRow(Base):
    """A code that takes the place of an authenticator app's, once: the row goes when it is used."""

    __tablename__ = "recovery_code"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    code_sha256: Mapped[str] = mapped_column(String(64), unique=True)


class SecondStepRow(Base):
    """A browser that gave the right password and owes the second factor. It can do nothing else."""

    __tablename__ = "second_step"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime]


class MembershipRow(Base):
    """A person's role in a project. Admins need none."""

    __tablename__ = "membership"
    __table_args__ = (
        UniqueConstraint("project_id", "account_id"),
        CheckConstraint("role IN ('annotator', 'adjudicator', 'manager')", name="role"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]


class WebSessionRow(Base):
    """A browser that is signed in. The cookie's value is not stored, only its hash."""

    __tablename__ = "web_session"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    csrf: Mapped[str] = mapped_column(String(64))
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    """When it last asked for something, to within some minutes."""
    browser: Mapped[str] = mapped_column(String(60))
    """Kind of browser and system, for its owner to know it by; never a version or an address."""


class ApiTokenRow(Base):
    """A key for programs, shown once. `prefix` finds it in a list, the hash checks it."""

    __tablename__ = "api_token"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(String(16))
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    scopes: Mapped[Any]
    """Of `read`, `annotate`, `admin`."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class InvitationRow(Base):
    """A link that makes accounts, so many and until then."""

    __tablename__ = "invitation"
    __table_args__ = (
        CheckConstraint("role IN ('admin', 'annotator', 'adjudicator', 'manager')", name="role"),
        CheckConstraint("uses >= 0 AND uses <= most_uses", name="uses"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    """In the link's projects; of the account itself where it names none."""
    setup: Mapped[bool]
    """Whether it is the first one of all, which works only while there is no account."""
    note: Mapped[str]
    """What the admin calls it."""
    uses: Mapped[int]
    most_uses: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    """The last time."""
    revoked_at: Mapped[datetime | None]


class InvitationProjectRow(Base):
    """A project that who comes by a link belongs to."""

    __tablename__ = "invitation_project"

    invitation_id: Mapped[int] = mapped_column(
        ForeignKey("invitation.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    project_id: Mapped[int] = mapped_column(
        ForeignKey("project.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )


class StudyRow(Base):
    """A link for people whom a recruiting platform sends to a project."""

    __tablename__ = "study"
    __table_args__ = (
        CheckConstraint("platform IN ('prolific', 'mturk')", name="platform"),
        CheckConstraint("places >= 1", name="places"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), index=True)
    token: Mapped[str] = mapped_column(String(32), unique=True)
    """Stands in the link, which the platform shows to whoever it likes."""
    platform: Mapped[str] = mapped_column(String(16))
    places: Mapped[int]
    """How many people it takes."""
    code: Mapped[str]
    """What a person is shown who is done, to be paid at the platform; of Prolific the same for all."""
    open: Mapped[bool]
    created_at: Mapped[datetime]


class ParticipantRow(Base):
    """Somebody whom a platform sent, by the number that it gives them."""

    __tablename__ = "participant"
    __table_args__ = (UniqueConstraint("study_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"))
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), unique=True)
    name: Mapped[str]
    """The platform's number of the person: all that is known of them."""
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]


class IdentityRow(Base):
    """A person at a sign-in provider, and their account here."""

    __tablename__ = "identity"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    issuer: Mapped[str]
    subject: Mapped[str]
    """What the provider calls them, for ever; no address and no name."""
    created_at: Mapped[datetime]


class PasswordResetRow(Base):
    """A link that sets a new password for an account, once: the row goes when it is used."""

    __tablename__ = "password_reset"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class AuditEventRow(Base):
    """Who did what, written in the transaction that did it. People stand in it by number, so it holds no name. Rows are only ever added."""

    __tablename__ = "audit_event"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    annotator_id: Mapped[int | None] = mapped_column(ForeignKey("annotator.id"), index=True)
    """None for the command line and for people who are not signed in."""
    action: Mapped[str] = mapped_column(String(32))
    entity: Mapped[str] = mapped_column(String(32))
    entity_id: Mapped[int]
    detail: Mapped[Any]
