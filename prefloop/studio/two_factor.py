"""A second factor for signing in: time-based codes of an authenticator app (TOTP, RFC 6238), and recovery codes for when it is lost.

A code works once. After ten wrong ones in a row no code is taken for a quarter of an hour: so a thousand guesses a day, of which each is right
with probability 3e-6. What the app shares with the server has to be stored as it is; recovery codes are kept as SHA-256.
"""

import re
import secrets
from datetime import datetime, timedelta
from hmac import compare_digest
from math import ceil

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models
from prefloop.errors import InputError
from prefloop.studio import audit
from prefloop.studio.accounts import Who, account_of, hash_of, verify
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound

PERIOD = 30
"""Seconds for which an app shows a code."""
WINDOW = 1
"""Codes before and after the current one that are taken too, for clocks that are not quite right."""
STEP_MINUTES = 5
"""How long after the password the code may come."""
MOST_FAILURES, BLOCK_MINUTES = 10, 15
RECOVERY_CODES = 10
_SECRET = re.compile(r"[A-Z2-7]{32}")
_Step, _Recovery = studio_models.SecondStepRow, studio_models.RecoveryCodeRow


def new_secret() -> str:
    """What an app and the server will share, if it is confirmed: 160 bits in base 32."""
    import pyotp  # here and below, as few start a server for it

    return pyotp.random_base32()


def sound_secret(given: str) -> str:
    """The secret that a form came with, to be shown again; a new one where it is none."""
    return given if _SECRET.fullmatch(given) else new_secret()


def picture(secret: str, login: str) -> str:
    """The QR code that an app reads, as an image's address."""
    import segno
    from pyotp.totp import TOTP

    address = TOTP(secret).provisioning_uri(name=login, issuer_name="prefloop")
    return segno.make(address, error="m").svg_data_uri(scale=5, border=3, light="white")


def is_on(studio: Studio, account: int) -> bool:
    """Whether signing in asks for a code."""
    with studio.read() as session:
        return bool(account_of(session, account).totp_secret)


def recovery_left(studio: Studio, account: int) -> int:
    """How many recovery codes there are still."""
    with studio.read() as session:
        return session.scalar(select(func.count()).where(_Recovery.account_id == account)) or 0


def turn_on(studio: Studio, who: Who, secret: str, code: str, password: str) -> tuple[str, ...]:
    """Ask for a code from now on, where the app shows the right one already; recovery codes, shown this once."""
    if not _SECRET.fullmatch(secret):
        raise InputError("the page has expired; reload it")
    codes = tuple("-".join(re.findall(".{5}", secrets.token_hex(10))) for _ in range(RECOVERY_CODES))
    _check_password(studio, who, password)
    now = studio.clock()
    with studio.write() as session:
        row = account_of(session, who.account)
        if row.totp_secret:
            raise InputError("two-factor sign-in is on already; turn it off first")
        step = _step_of(secret, code, now, after=0)
        if step is None:
            raise InputError("the code is wrong; check that the clock of your phone is right")
        row.totp_secret, row.totp_step = secret, step
        row.totp_failures, row.totp_blocked_until = 0, None
        session.execute(delete(_Recovery).where(_Recovery.account_id == row.id))
        session.add_all(
            _Recovery(account_id=row.id, code_sha256=_hash(row.id, one_code)) for one_code in codes
        )
        audit.write(
            session, now=now, annotator=who.annotator, action="second factor on", entity="account", id=row.id
        )
    return codes


def turn_off(studio: Studio, account: int, *, by: int | None) -> None:
    """Ask for the password alone again: for its owner, after `check_owner`, and for an admin where the app is lost."""
    with studio.write() as session:
        row = account_of(session, account)
        if not row.totp_secret:
            raise NotFound("two-factor sign-in is off already")
        row.totp_secret, row.totp_step = "", 0
        row.totp_failures, row.totp_blocked_until = 0, None
        for table in (_Recovery, _Step):
            session.execute(delete(table).where(table.account_id == account))
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action="second factor off",
            entity="account",
            id=account,
        )


def check_owner(studio: Studio, who: Who, password: str, code: str) -> None:
    """Raise `InputError` unless somebody has both the password and a code, before the second factor goes."""
    _check_password(studio, who, password)
    now = studio.clock()
    with studio.write() as session:
        wrong = _refused(session, account_of(session, who.account), code, now)
    if wrong:
        raise InputError(wrong)


def begin(studio: Studio, account: int) -> str:
    """A secret for the browser that gave the password: with it and a code, within some minutes, it gets a session."""
    secret, now = secrets.token_urlsafe(32), studio.clock()
    with studio.write() as session:
        session.execute(delete(_Step).where(_Step.expires_at <= now))
        session.add(
            _Step(
                token_sha256=hash_of(secret),
                account_id=account,
                expires_at=now + timedelta(minutes=STEP_MINUTES),
            )
        )
    return secret


def finish(studio: Studio, secret: str, code: str) -> int:
    """The account of a browser that owes a code, where it is right; `NotFound` where it owes none, `InputError` for a wrong one."""
    now = studio.clock()
    with studio.write() as session:
        step = session.scalars(
            select(_Step).where(_Step.token_sha256 == hash_of(secret), _Step.expires_at > now)
        ).one_or_none()
        if step is None:
            raise NotFound("signing in took too long; start again with your password")
        row = account_of(session, step.account_id)
        if not row.active:
            raise NotFound("signing in took too long; start again with your password")
        wrong = _refused(session, row, code, now)
        if not wrong:
            session.delete(step)
            return row.id
    raise InputError(wrong)  # after the failure was written down


def owes(studio: Studio, secret: str) -> bool:
    """Whether a browser gave a password and owes a code."""
    with studio.read() as session:
        found = select(_Step.id).where(
            _Step.token_sha256 == hash_of(secret), _Step.expires_at > studio.clock()
        )
        return session.scalar(found) is not None


def _refused(session: Session, row: studio_models.AccountRow, code: str, now: datetime) -> str:
    """Take a code, app's or recovery, and write down that it is used; why it is not taken, empty if it is."""
    # One code of an account after the other: none is taken twice, no failure is forgotten.
    session.refresh(row, with_for_update=True)
    if row.totp_blocked_until is not None and row.totp_blocked_until > now:
        minutes = ceil((row.totp_blocked_until - now) / timedelta(minutes=1))
        return f"too many wrong codes; try again in {minutes} minutes"
    step = _step_of(row.totp_secret, code, now, after=row.totp_step)
    if step is not None:
        row.totp_step = step
    elif not _use_recovery(session, row, code, now):
        row.totp_failures += 1
        if row.totp_failures >= MOST_FAILURES:
            row.totp_failures, row.totp_blocked_until = 0, now + timedelta(minutes=BLOCK_MINUTES)
        return "this code is wrong, or was used already"
    row.totp_failures, row.totp_blocked_until = 0, None
    return ""


def _step_of(secret: str, code: str, now: datetime, *, after: int) -> int | None:
    """The half minute that a code is of, later than `after`; None for a wrong one."""
    from pyotp.totp import TOTP

    digits = re.sub(r"\s", "", code)
    if not secret or not re.fullmatch(r"[0-9]{6}", digits):
        return None
    present, codes = int(now.timestamp()) // PERIOD, TOTP(secret)
    for step in range(present - WINDOW, present + WINDOW + 1):
        if step > after and compare_digest(codes.generate_otp(step), digits):
            return step
    return None


def _use_recovery(session: Session, row: studio_models.AccountRow, code: str, now: datetime) -> bool:
    found = session.scalars(
        select(_Recovery).where(_Recovery.account_id == row.id, _Recovery.code_sha256 == _hash(row.id, code))
    ).one_or_none()
    if found is None:
        return False
    session.delete(found)
    audit.write(
        session, now=now, annotator=row.annotator_id, action="recovery code", entity="account", id=row.id
    )
    return True


def _hash(account: int, code: str) -> str:
    """What is stored of a recovery code, however it is typed."""
    return hash_of(f"{account} {re.sub(r'[^0-9a-f]', '', code.lower())}")


def _check_password(studio: Studio, who: Who, password: str) -> None:
    with studio.read() as session:
        stored = account_of(session, who.account).password_hash
    if not verify(stored, password):
        raise InputError("the password is wrong")
