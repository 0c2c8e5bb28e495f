"""Groups, skills and languages of people, and whom an item is kept for.

A tag is `group:NAME`, `skill:NAME` or `language:CODE`; an account has any number of them. An item is kept for everybody (empty), for whoever has a tag,
or for one person (`person:PSEUDONYM`).
"""

import re
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, literal, or_, select
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.studio import audit
from prefloop.studio.values import NotFound

KINDS = ("group", "skill", "language")
_TAG = re.compile(r"(group|skill|language):[\w][\w .+#-]{0,38}")
_Account, _Tag = studio_models.AccountRow, studio_models.AccountTagRow


def checked_tag(given: str) -> str:
    """A tag, or `InputError`."""
    tag = given.strip()
    if _TAG.fullmatch(tag) is None or tag != " ".join(tag.split()):
        raise InputError(
            f"tag is {given!r}; write group:NAME, skill:NAME or language:CODE, for example language:de"
        )
    return tag


def checked(session: Session, given: str) -> str:
    """Whom an item is kept for, or `InputError`; a person must have an account."""
    audience = given.strip()
    if not audience:
        return ""
    if not audience.startswith("person:"):
        return checked_tag(audience)
    name = audience.removeprefix("person:")
    there = (
        select(_Account.id)
        .join(models.AnnotatorRow, models.AnnotatorRow.id == _Account.annotator_id)
        .where(models.AnnotatorRow.name == name)
    )
    if session.scalar(there) is None:
        raise InputError(f"there is no account with the pseudonym {name!r}")
    return audience


def offered(annotator: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether an item may be offered to an annotator: it is kept for nobody, for them, or for a tag of theirs."""
    task, name = studio_models.TaskRow, models.AnnotatorRow
    tags = select(_Tag.tag).join(_Account, _Account.id == _Tag.account_id)
    person = select(literal("person:", name.name.type).concat(name.name)).where(name.id == annotator)
    return or_(
        task.audience == "",
        task.audience.in_(tags.where(_Account.annotator_id == annotator)),
        task.audience.in_(person),
    )


def set_tags(session: Session, account: int, tags: Collection[str], *, now: datetime, by: int | None) -> None:
    """Give somebody these tags and no others, within a transaction. Raises `NotFound`, and `InputError` for what is no tag."""
    wanted = sorted({checked_tag(tag) for tag in tags})
    if len(wanted) > 100:
        raise InputError("a person has 100 tags at most")
    if session.get(_Account, account) is None:
        raise NotFound("there is no such person")
    known = {row.tag: row for row in session.scalars(select(_Tag).where(_Tag.account_id == account))}
    if sorted(known) == wanted:
        return
    for tag, row in known.items():
        if tag not in wanted:
            session.delete(row)
    session.add_all(_Tag(account_id=account, tag=tag) for tag in wanted if tag not in known)
    session.flush()
    audit.write(
        session,
        now=now,
        annotator=by,
        action="set tags",
        entity="account",
        id=account,
        detail={"tags": wanted},
    )


def all_tags(session: Session) -> list[str]:
    """Every tag that somebody has."""
    return list(session.scalars(select(_Tag.tag).distinct().order_by(_Tag.tag)))


def tags_of(session: Session) -> dict[int, list[str]]:
    """Account -> its tags."""
    found: dict[int, list[str]] = {}
    for account, tag in session.execute(select(_Tag.account_id, _Tag.tag).order_by(_Tag.tag)):
        found.setdefault(account, []).append(tag)
    return found


def in_words(session: Session, audiences: Collection[str]) -> dict[str, str]:
    """Whom items are kept for, for whoever runs the project: a person by the login."""
    names = [audience.removeprefix("person:") for audience in audiences if audience.startswith("person:")]
    rows = session.execute(
        select(models.AnnotatorRow.name, _Account.login)
        .join(_Account, _Account.annotator_id == models.AnnotatorRow.id)
        .where(models.AnnotatorRow.name.in_(names))
    )
    logins = {f"person:{name}": f"person {login}" for name, login in rows}
    return {
        audience: logins.get(audience, audience.replace(":", " ", 1)) if audience else "everybody"
        for audience in audiences
    }
