"""Sessions that are listed and ended, and the second factor: codes of an app, recovery codes, and every way around it."""

import re
from typing import Any

import pytest
from pyotp.totp import TOTP
from sqlalchemy import select

from prefloop.cli import main
from prefloop.data.store import Store, studio_models
from prefloop.studio import accounts, passwords, sessions, two_factor
from prefloop.studio.service import Studio
from tests.studio.conftest import Clock
from tests.studio.web import PASSWORD, Person, client_of

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Safari/604.1"
)
EDGE = "Mozilla/5.0 (Windows NT 10.0; Win64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0"


@pytest.fixture
def ann(studio: Studio) -> Person:
    return Person(studio)


def code_at(studio: Studio, secret: str, steps: int = 0) -> str:
    """What the app shows, so many half minutes from now."""
    return TOTP(secret).at(studio.clock(), counter_offset=steps)


def set_up(studio: Studio, person: Person) -> tuple[str, list[str]]:
    """Turn the second factor on through the page; the secret and the recovery codes."""
    page = person.client.get("/settings/two-factor").text
    (secret,) = re.findall(r'name="secret" value="(\w+)"', page)
    form = {"csrf": person.csrf, "secret": secret, "code": code_at(studio, secret), "password": PASSWORD}
    told = person.client.post("/settings/two-factor", data=form)
    assert told.status_code == 200, told.text
    codes = re.findall(r"\b[0-9a-f]{5}(?:-[0-9a-f]{5}){3}\b", told.text)
    assert len(set(codes)) == 10
    return secret, codes


def give(person: Person, code: str) -> Any:
    """Type a code where signing in asks for it."""
    token = person.client.cookies["prefloop_form"]
    return person.client.post("/login/code", data={"form_token": token, "code": code, "next": "/history"})


# Sessions


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        (SAFARI, "Safari on iOS"),
        (EDGE, "Edge on Windows"),
        ("curl", "another browser"),
    ],
)
def test_a_browser_is_called_what_its_owner_calls_it(agent: str, name: str) -> None:
    assert sessions.browser_name(agent) == name


def test_sessions_are_listed_and_ended_by_their_owner(studio: Studio, ann: Person, clock: Clock) -> None:
    clock.forward(3600)
    other = client_of(studio)
    other.headers["user-agent"] = FIREFOX
    first, ann.client = ann.client, other
    assert ann.sign_in("ann", PASSWORD).status_code == 303
    clock.forward(3600)
    ann.client = first
    listed = ann.send("GET", "/me/sessions").json()
    assert [(each["browser"], each["here"]) for each in listed] == [
        ("another browser", True),  # used just now
        ("Firefox on Linux", False),
    ]
    assert "Firefox on Linux" in ann.client.get("/settings").text
    assert ann.send("DELETE", f"/me/sessions/{listed[1]['id']}").status_code == 204
    assert other.get("/api/v1/me").status_code == 401
    assert ann.send("GET", "/me").status_code == 200
    bea = Person(studio, "bea")
    assert bea.send("DELETE", f"/me/sessions/{listed[0]['id']}").status_code == 404
    assert bea.send("GET", "/me/sessions").json() != listed


def test_an_admin_signs_somebody_out_everywhere(studio: Studio, ann: Person) -> None:
    boss = Person(studio, "boss", "admin")
    path = f"/people/{ann.who.account}/sessions"
    assert ann.send("DELETE", path).status_code == 403
    assert boss.send("DELETE", path).status_code == 204
    assert ann.client.get("/api/v1/me").status_code == 401
    assert boss.send("GET", "/me").status_code == 200
    assert "end sessions" in boss.send("GET", "/audit").text


# The second factor


def test_a_password_is_not_enough_and_a_code_works_once(studio: Studio, ann: Person, clock: Clock) -> None:
    secret, _ = set_up(studio, ann)
    ann.client.cookies.clear()
    answer = ann.sign_in("ann", PASSWORD)
    assert answer.headers["location"].startswith("/login/code")
    assert "prefloop_session" not in ann.client.cookies
    assert ann.client.get("/api/v1/me").status_code == 401
    assert give(ann, code_at(studio, secret)).status_code == 401  # it was taken when it was set up
    clock.forward(30)
    for wrong in ("", "000000x", "12345", "１２３４５６"):
        assert give(ann, wrong).status_code == 401
    answer = give(ann, code_at(studio, secret))
    assert (answer.status_code, answer.headers["location"]) == (303, "/history")
    assert ann.client.get("/api/v1/me").status_code == 200
    ann.client.cookies.delete("prefloop_session")
    ann.sign_in("ann", PASSWORD)
    assert give(ann, code_at(studio, secret)).status_code == 401  # again
    assert give(ann, code_at(studio, secret, 1)).status_code == 303  # the app's clock is ahead


def test_codes_of_too_long_ago_and_too_far_ahead_are_refused(
    studio: Studio, ann: Person, clock: Clock
) -> None:
    secret, _ = set_up(studio, ann)
    clock.forward(3600)
    for steps, status in ((-2, 401), (2, 401), (-1, 303)):
        ann.client.cookies.clear()
        ann.sign_in("ann", PASSWORD)
        assert give(ann, code_at(studio, secret, steps)).status_code == status, steps


def test_a_recovery_code_works_once_however_it_is_typed(studio: Studio, ann: Person) -> None:
    _, codes = set_up(studio, ann)
    for code, status in ((f" {codes[0].upper().replace('-', ' ')}", 303), (codes[0], 401), (codes[1], 303)):
        ann.client.cookies.clear()
        ann.sign_in("ann", PASSWORD)
        assert give(ann, code).status_code == status
    assert two_factor.recovery_left(studio, ann.who.account) == 8
    bea = Person(studio, "bea")
    set_up(studio, bea)
    bea.client.cookies.clear()
    bea.sign_in("bea", PASSWORD)
    assert give(bea, codes[2]).status_code == 401  # somebody else's


def test_guessing_codes_is_stopped_across_sign_ins(studio: Studio, clock: Clock) -> None:
    limits = {"sign in": (10**6, 60.0)}
    ann = Person(studio, client=client_of(studio, limits=limits))
    secret, codes = set_up(studio, ann)
    clock.forward(60)
    for number in range(two_factor.MOST_FAILURES):
        if number % 4 == 0:
            ann.client.cookies.clear()
            ann.sign_in("ann", PASSWORD)
        assert "is wrong" in give(ann, "000000").text
    for code in (code_at(studio, secret), codes[0]):
        assert "try again in 15 minutes" in give(ann, code).text
    clock.forward(15 * 60)
    ann.client.cookies.clear()
    ann.sign_in("ann", PASSWORD)
    assert give(ann, code_at(studio, secret)).status_code == 303


def test_the_step_between_ends_by_time_and_needs_the_forms_token(
    studio: Studio, ann: Person, clock: Clock
) -> None:
    secret, _ = set_up(studio, ann)
    ann.client.cookies.clear()
    assert ann.client.get("/login/code").headers["location"] == "/login"
    ann.sign_in("ann", PASSWORD)
    assert ann.client.post("/login/code", data={"code": code_at(studio, secret)}).status_code == 403
    clock.forward(two_factor.STEP_MINUTES * 60 + 1)
    answer = give(ann, code_at(studio, secret))
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "prefloop_session" not in ann.client.cookies


def test_a_new_password_by_a_link_does_not_go_around_it(studio: Studio, ann: Person) -> None:
    set_up(studio, ann)
    secret = passwords.new_reset(studio, ann.who.account, by=None)
    browser = client_of(studio)
    page = browser.get(f"/reset/{secret}").text
    token = re.findall(r'name="form_token" value="([^"]+)"', page)[0]
    answer = browser.post(f"/reset/{secret}", data={"form_token": token, "password": "quite another one"})
    assert answer.headers["location"].startswith("/login/code")
    assert browser.get("/api/v1/me").status_code == 401


def test_it_is_set_up_and_turned_off_by_who_has_both(studio: Studio, ann: Person, clock: Clock) -> None:
    page = ann.client.get("/settings/two-factor").text
    (secret,) = re.findall(r'name="secret" value="(\w+)"', page)
    good = {"csrf": ann.csrf, "secret": secret, "code": code_at(studio, secret), "password": PASSWORD}
    for wrong, status in (
        ({"csrf": "x"}, 403),
        ({"password": "no"}, 422),
        ({"code": "000000"}, 422),
        ({"secret": "A"}, 422),
    ):
        assert ann.client.post("/settings/two-factor", data=good | wrong).status_code == status, wrong
        assert not two_factor.is_on(studio, ann.who.account)
    _, codes = set_up(studio, ann)
    assert ann.client.post("/settings/two-factor", data=good).status_code == 422  # on already
    clock.forward(90)
    off = {"csrf": ann.csrf, "password": PASSWORD, "code": codes[0]}
    for wrong, status in (({"csrf": "x"}, 403), ({"password": "no"}, 422), ({"code": "000000"}, 422)):
        assert ann.client.post("/settings/two-factor/off", data=off | wrong).status_code == status
        assert two_factor.is_on(studio, ann.who.account)
    assert ann.client.post("/settings/two-factor/off", data=off).status_code == 303
    ann.client.cookies.clear()
    assert ann.sign_in("ann", PASSWORD).headers["location"] == "/"


def test_an_admin_and_the_machine_turn_it_off_for_who_lost_everything(
    studio: Studio, ann: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    boss = Person(studio, "boss", "admin")
    set_up(studio, ann)
    path = f"/people/{ann.who.account}/second_factor"
    assert ann.send("DELETE", path).status_code == 403
    assert boss.send("DELETE", path).status_code == 204
    assert boss.send("DELETE", path).status_code == 404
    set_up(studio, ann)
    command = ["label", "user", "reset", "ann", "--store", studio.store.label]
    assert main(command) == 0
    assert two_factor.is_on(studio, ann.who.account)
    assert main([*command, "--second_factor_off", "true"]) == 0
    assert not two_factor.is_on(studio, ann.who.account)
    capsys.readouterr()


def test_nothing_of_it_is_told(studio: Studio, ann: Person) -> None:
    boss = Person(studio, "boss", "admin")
    secret, codes = set_up(studio, ann)
    told = [boss.send("GET", path).text for path in ("/people", "/audit")]
    told += [boss.client.get("/admin/people").text, ann.client.get("/settings").text]
    told += [ann.client.get("/settings/two-factor").text, ann.send("GET", "/me").text]
    assert not [text for text in told for hidden in (secret, *codes) if hidden in text]
    with studio.read() as session:
        stored = session.scalars(select(studio_models.RecoveryCodeRow.code_sha256)).all()
    assert len(stored) == 10
    assert not set(stored) & set(codes)
    accounts.anonymise(studio, ann.who.account, by=None)
    with studio.read() as session:
        assert session.scalars(select(studio_models.RecoveryCodeRow)).all() == []


def test_sessions_and_accounts_of_an_older_store_go_on(store: Store) -> None:
    studio = Studio(store)
    who = accounts.add_person(studio, "ann", PASSWORD, "annotator")
    cookie = accounts.open_session(studio, who.account, "Firefox on Linux")
    store.database.migrate("0007")
    store.database.migrate()
    assert accounts.of_session(studio, cookie) is not None
    (info,) = sessions.sessions_of(studio, who, cookie)
    assert (info.browser, info.here) == ("unknown", True)
    assert accounts.password_fits(studio, "ann", PASSWORD) == who.account
    assert not two_factor.is_on(studio, who.account)
