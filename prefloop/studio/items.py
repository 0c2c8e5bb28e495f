"""Finding items of a project, and doing something with many of them at once.

A page of the browser is found by its last item's number, so it costs memory for its own rows only, whatever the project holds. Words are looked for
with LIKE in prompts, completions and reasons: nothing has to be kept up to date for it, and a search reads the texts of the project's items until
the page is full, so rare words read all of them. docs/studio.md has measured times.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, Text, case, cast, func, or_, select
from sqlalchemy.orm import Session

from prefloop.data.store import judging, models, studio_models
from prefloop.data.store.writing import chunks
from prefloop.errors import InputError
from prefloop.feedback.judged import checkpoint_names
from prefloop.records import Prompt
from prefloop.studio import access, assign, audit, people_tags, projects
from prefloop.studio.at_work import READABLE
from prefloop.studio.service import Studio
from prefloop.studio.values import Project

_Task, _Assignment, _Judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow
_Detail, _Item, _Slot, _Completion = (
    studio_models.JudgementDetailRow,
    models.ItemRow,
    models.ItemCompletionRow,
    models.CompletionRow,
)
State = Literal["", "open", "complete", "unanswered", "archived"]
Known = Literal["", "work", "known", "practice", "qualification"]
Action = Literal["archive", "restore", "requeue", "priority", "overlap", "assign"]
ACTIONS: tuple[Action, ...] = get_args(Action)
PAGE = 50
MOST_COUNTED = 10_000
"""Items that were found are counted up to here: pages show `10000 or more`."""
MOST_WORDS = 10
LOOKED_AT = 20_000
"""Items, the newest of a project, whose models, strategies and rounds the page offers to filter by."""
_ANSWERED = ("submitted", "surplus")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which items; empty and None ask for nothing."""

    text: str = ""
    """Words that all must be in the prompt, a reply or a reason; several words in double quotes are looked for as they stand."""
    state: State = ""
    """Archived items are shown only where they are asked for."""
    known: Known = ""
    model: int | None = None
    """Number of a checkpoint, one of whose completions is in the item."""
    annotator: str = ""
    """Pseudonym of somebody who answered."""
    divided: bool = False
    """Whether people chose differently."""
    flag: str = ""
    too_fast: bool = False
    """Whether an answer came faster than it can have been given; see `at_work.is_too_fast`."""
    strategy: str = ""
    """How the item was picked; `import` for files."""
    round: int | None = None
    least_score: float | None = None
    """Of its priority: what `label select` scored it, or what a bulk action set."""
    most_score: float | None = None
    audience: str = ""
    """Whom it is kept for."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("state", self.state, get_args(State)),
            ("known", self.known, get_args(Known)),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}; it must be one of {', '.join(filter(None, known))}")
        if len(words_of(self.text)) > MOST_WORDS:
            raise InputError(f"text has more than {MOST_WORDS} words; look for fewer")

    def plain(self) -> dict[str, str]:
        """As the fields of a form or an address, without what asks for nothing."""
        return {
            name: "1" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in asdict(self).items()
            if value not in ("", None, False)
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundItems:
    """An item in the browser."""

    task: int
    item: int
    prompt: Prompt
    completions: tuple[str, ...]
    models: tuple[str, ...]
    """Who wrote each completion."""
    said: Mapping[str, int]
    """Choice, in slots -> how many people made it."""
    taken: int
    overlap: int
    score: float
    known: str
    """The known answer, in slots; empty if there is none."""
    stage: str
    archived: bool
    audience: str
    """In words: `everybody`, or whom it is kept for."""
    flags: tuple[str, ...]


def words_of(text: str) -> list[str]:
    """The words of a search; what stands in double quotes is one."""
    found = []
    for at, part in enumerate(text.split('"')):
        found += [part] if at % 2 else part.split()
    return [word for word in found if word.strip()]


def find(
    studio: Studio, project: int, wanted: Wanted, *, before: int | None = None, limit: int = PAGE
) -> list[FoundItems]:
    """A project's items, the newest first; of those before one, the next page."""
    with studio.read() as session:
        asked = projects.project_of(session, project)
        statement = _matching(asked, wanted).order_by(_Task.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(_Task.id < before)
        tasks = list(session.scalars(select(_Task).where(_Task.id.in_(statement)).order_by(_Task.id.desc())))
        return _shown(session, tasks)


def count(studio: Studio, project: int, wanted: Wanted) -> int:
    """How many items are wanted, at most `MOST_COUNTED`."""
    with studio.read() as session:
        asked = projects.project_of(session, project)
        some = _matching(asked, wanted).limit(MOST_COUNTED).subquery()
        return session.scalar(select(func.count()).select_from(some)) or 0


def _matching(project: Project, wanted: Wanted) -> Select[int]:
    """The numbers of the tasks that are wanted."""
    answers = _answers()
    conditions: list[ColumnElement[bool]] = [_Task.project_id == project.id]
    conditions += [_has(word) for word in words_of(wanted.text)]
    conditions.append(_Task.archived.is_(wanted.state == "archived"))
    if wanted.state == "open":
        conditions.append(_Task.open.is_(True))
    if wanted.state == "complete":
        conditions.append(_Task.taken >= _Task.overlap)
    if wanted.state == "unanswered":
        conditions.append(~answers.exists())
    if wanted.known == "work":
        conditions.append(_Task.gold == "")
    elif wanted.known:
        conditions += [_Task.gold != "", _Task.stage == ("" if wanted.known == "known" else wanted.known)]
    if wanted.model is not None:
        conditions.append(
            select(_Slot.item_id)
            .join(_Completion, _Completion.id == _Slot.completion_id)
            .where(_Slot.item_id == _Task.item_id, _Completion.checkpoint_id == wanted.model)
            .exists()
        )
    if wanted.annotator:
        named = select(models.AnnotatorRow.id).where(models.AnnotatorRow.name == wanted.annotator)
        conditions.append(answers.where(_Assignment.annotator_id.in_(named)).exists())
    if wanted.divided:
        choices = select(func.count(_Judgement.choice.distinct())).select_from(_Assignment)
        conditions.append(_of_task(choices).scalar_subquery() > 1)
    if wanted.flag:
        with_flag = answers.join(_Detail, _Detail.judgement_id == _Assignment.judgement_id)
        conditions.append(with_flag.where(_like(cast(_Detail.flags, Text), json.dumps(wanted.flag))).exists())
    if wanted.too_fast:
        conditions.append(_too_fast(project.settings.least_seconds))
    if wanted.least_score is not None:
        conditions.append(_Task.queue <= -wanted.least_score)
    if wanted.most_score is not None:
        conditions.append(_Task.queue >= -wanted.most_score)
    if wanted.audience:
        conditions.append(_Task.audience == wanted.audience)
    statement = select(_Task.id).where(*conditions)
    if wanted.strategy or wanted.round is not None:
        statement = statement.join(_Item, _Item.id == _Task.item_id)
    if wanted.strategy:
        statement = statement.where(_Item.strategy == wanted.strategy)
    if wanted.round is not None:
        statement = statement.where(_Item.round == wanted.round)
    return statement


def _of_task(statement: Select[Any]) -> Select[Any]:
    """Restricted to the answers of the task at hand that stand."""
    return (
        statement.join(_Judgement, _Judgement.id == _Assignment.judgement_id)
        .where(_Assignment.task_id == _Task.id, _Assignment.state.in_(_ANSWERED))
        .correlate(_Task)
    )


def _answers() -> Select[int]:
    return _of_task(select(_Assignment.id))


def _too_fast(least_seconds: float) -> ColumnElement[bool]:
    """Whether an answer of the task came faster than it can have been given."""
    characters = (
        select(func.sum(func.length(_Completion.text)))
        .join(_Slot, _Slot.completion_id == _Completion.id)
        .where(_Slot.item_id == _Task.item_id)
        .correlate(_Task)
        .scalar_subquery()
    )
    bound = 1000 * characters / READABLE
    least = 1000 * least_seconds
    fastest = case((bound > least, bound), else_=least)
    return _answers().where(_Judgement.duration_ms > 0, _Judgement.duration_ms < fastest).exists()


def _like(column: Any, text: str) -> ColumnElement[bool]:
    """Whether a text holds another, whatever the case of its letters (on SQLite, of Latin letters without marks)."""
    return column.icontains(text, autoescape=True)


def _has(word: str) -> ColumnElement[bool]:
    """Whether a word is in the prompt, in a completion, or in a reason for an answer."""
    prompt = (
        select(_Item.id)
        .join(models.PromptRow, models.PromptRow.id == _Item.prompt_id)
        # As JSON, in which other characters than ASCII stand as numbers; so does the word here.
        .where(_Item.id == _Task.item_id, _like(cast(models.PromptRow.content, Text), json.dumps(word)[1:-1]))
    )
    completion = (
        select(_Slot.item_id)
        .join(_Completion, _Completion.id == _Slot.completion_id)
        .where(_Slot.item_id == _Task.item_id, _like(_Completion.text, word))
    )
    why = (
        _answers()
        .join(_Detail, _Detail.judgement_id == _Assignment.judgement_id)
        .where(_like(_Detail.rationale, word))
    )
    return or_(prompt.exists(), completion.exists(), why.exists())


def _shown(session: Session, tasks: Sequence[studio_models.TaskRow]) -> list[FoundItems]:
    ids = [task.id for task in tasks]
    choices: dict[int, dict[str, int]] = {}
    flags: dict[int, list[str]] = {}
    for task, choice, marked in session.execute(
        select(_Assignment.task_id, _Judgement.choice, _Detail.flags)
        .join(_Judgement, _Judgement.id == _Assignment.judgement_id)
        .outerjoin(_Detail, _Detail.judgement_id == _Judgement.id)
        .where(_Assignment.task_id.in_(ids), _Assignment.state.in_(_ANSWERED))
    ):
        counts = choices.setdefault(task, {})
        counts[choice] = counts.get(choice, 0) + 1
        flags.setdefault(task, []).extend(marked or ())
    authors = authors_of(session, [task.item_id for task in tasks])
    words = people_tags.in_words(session, {task.audience for task in tasks})
    return [
        FoundItems(
            task=task.id,
            item=task.item_id,
            prompt=item.prompt,
            completions=item.completions,
            models=tuple(name for _, name in authors[task.item_id]),
            said=choices.get(task.id, {}),
            taken=task.taken,
            overlap=task.overlap,
            score=-task.queue or 0.0,
            known=task.gold,
            stage=task.stage,
            archived=task.archived,
            audience=words[task.audience],
            flags=tuple(dict.fromkeys(flags.get(task.id, ()))),
        )
        for task, item in zip(tasks, judging.items(session, [task.item_id for task in tasks]), strict=True)
    ]


def authors_of(session: Session, items: Iterable[int]) -> dict[int, list[tuple[int, str]]]:
    """Item -> number and name of the checkpoint behind each slot."""
    called = checkpoint_names(session)
    found: dict[int, list[tuple[int, str]]] = {}
    for item, checkpoint in session.execute(
        select(_Slot.item_id, _Completion.checkpoint_id)
        .join(_Completion, _Completion.id == _Slot.completion_id)
        .where(_Slot.item_id.in_(list(items)))
        .order_by(_Slot.item_id, _Slot.slot)
    ):
        found.setdefault(item, []).append((checkpoint, called[checkpoint]))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What a project's items can be filtered by."""

    models: tuple[tuple[int, str], ...]
    annotators: tuple[tuple[str, str], ...]
    """Pseudonym and login."""
    strategies: tuple[str, ...]
    rounds: tuple[int, ...]


def choices(studio: Studio, project: int) -> Choices:
    """What is there to filter by: who answered, and what stands in the project's newest items."""
    account, annotator, tally = studio_models.AccountRow, models.AnnotatorRow, studio_models.TallyRow
    newest = select(_Task.item_id).where(_Task.project_id == project).order_by(_Task.item_id.desc())
    lately = select(newest.limit(LOOKED_AT).subquery().c.item_id)
    with studio.read() as session:
        called = checkpoint_names(session)
        of_models = session.scalars(
            select(_Completion.checkpoint_id)
            .join(_Slot, _Slot.completion_id == _Completion.id)
            .where(_Slot.item_id.in_(lately))
            .distinct()
        )
        answered = select(tally.annotator_id).where(tally.project_id == project)
        people = session.execute(
            select(annotator.name, account.login)
            .outerjoin(account, account.annotator_id == annotator.id)
            .where(annotator.id.in_(answered))
        )
        picked = session.execute(
            select(_Item.strategy, _Item.round).where(_Item.id.in_(lately)).distinct()
        ).all()
        return Choices(
            models=tuple(sorted(((id, called[id]) for id in of_models), key=lambda option: option[1])),
            annotators=tuple(
                sorted(((name, login or name) for name, login in people), key=lambda option: option[1])
            ),
            strategies=tuple(sorted({strategy for strategy, _ in picked})),
            rounds=tuple(sorted({number for _, number in picked})),
        )


# Doing something with many


def act(
    studio: Studio,
    project: int,
    action: Action,
    tasks: Sequence[int] | Wanted,
    *,
    value: str = "",
    by: int | None,
) -> int:
    """Do something with these items of a project, or with all that are wanted; how many. All of it or nothing.

    `archive` takes items out of the queue, of exports and of agreement, `restore` brings them back; `requeue` takes back the answers to them, as undo
    does, and asks them first of all, of the same people too; `priority` sets the number by which they are asked (higher first), `overlap` asks so many
    more people each, `assign` keeps them for some people (`value` as in `people_tags`; empty for everybody).

    Raises `InputError` for a value that the action cannot use, and for an item that is not the project's.
    """
    if action not in ACTIONS:
        raise InputError(f"action is {action!r}; it must be one of {', '.join(ACTIONS)}")
    number = _number(action, value)

    def work(session: Session) -> int:
        if by is not None:
            access.check(session, project, by, "manager")
        asked = projects.project_of(session, project)
        if asked.settings.kind == "chat" and action in ("requeue", "overlap", "assign"):
            raise InputError(f"{action} makes no sense in a chat: its items are made as one person talks")
        audience = people_tags.checked(session, value) if action == "assign" else ""
        first = session.scalar(select(func.min(_Task.queue)).where(_Task.project_id == project)) or 0.0
        done = 0
        for ids in _chunks_of(session, asked, tasks):
            if action in ("archive", "requeue"):  # assignments before tasks, as everywhere
                given = select(_Assignment.id).where(_Assignment.task_id.in_(ids))
                session.execute(given.order_by(_Assignment.id).with_for_update())
            rows = session.scalars(
                select(_Task).where(_Task.id.in_(ids)).order_by(_Task.id).with_for_update()
            ).all()
            for row in rows:
                _change(session, row, action, number=number, audience=audience, first=first)
            session.flush()
            done += len(rows)
            session.expunge_all()
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action=f"items: {action}",
            entity="project",
            id=project,
            detail={"items": done} | ({"value": value} if value else {}),
        )
        return done

    with studio.write(bulk=True) as session:
        return work(session)


def _number(action: Action, value: str) -> float:
    if action not in ("priority", "overlap"):
        return 0.0
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if action == "priority" and not abs(number) <= 1e9:
        raise InputError(f"priority is {value!r}; it must be a number")
    if action == "overlap" and not (number.is_integer() and 1 <= number <= 1000):
        raise InputError(f"overlap is {value!r}; it must be a whole number of further answers, 1 to 1000")
    return number


def _chunks_of(session: Session, project: Project, tasks: Sequence[int] | Wanted) -> Iterator[Sequence[int]]:
    """The tasks' numbers, some hundred at a time."""
    if not isinstance(tasks, Wanted):
        mine = _Task.project_id == project.id
        for ids in chunks(sorted(set(tasks))):
            known = session.scalars(select(_Task.id).where(_Task.id.in_(ids), mine)).all()
            if len(known) != len(ids):
                strange = min(set(ids) - set(known))
                raise InputError(f"item {strange} is not in this project; load the page again")
            yield ids
        return
    # Those that an action takes out of the search are not looked for again.
    last = 0
    while True:
        statement = _matching(project, tasks).where(_Task.id > last).order_by(_Task.id).limit(500)
        ids = session.scalars(statement).all()
        if not ids:
            return
        last = ids[-1]
        yield ids


def _change(
    session: Session,
    row: studio_models.TaskRow,
    action: Action,
    *,
    number: float,
    audience: str,
    first: float,
) -> None:
    if action == "archive":
        row.archived = True
    elif action == "restore":
        row.archived = False
    elif action == "priority":
        row.queue = -number
    elif action == "overlap":
        row.overlap = min(row.overlap + int(number), 1_000_000)
    elif action == "assign":
        row.audience = audience
    else:
        row.queue = first - 1
        _take_answers_back(session, row)
    row.open = assign.is_open(row)
    if action == "archive":
        assign.give_back_task(session, row)


def _take_answers_back(session: Session, row: studio_models.TaskRow) -> None:
    """Withdraw what was answered, so that everybody can be asked again."""
    for given in session.scalars(
        select(_Assignment).where(_Assignment.task_id == row.id, _Assignment.judgement_id.is_not(None))
    ).all():
        assert given.judgement_id is not None
        assign.withdraw_answer(session, session.get_one(_Judgement, given.judgement_id))
        if given.state == "submitted":
            row.taken -= 1
        given.state, given.judgement_id, given.finished_at, given.draft = "returned", None, None, {}
