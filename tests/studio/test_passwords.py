"""A new password: changed by its owner, or by a link that an admin or the machine gives; sessions end, and no log holds one."""

import logging
import re
from typing import Any

import pytest
from sqlalchemy import select

from prefloop.cli import main
from prefloop.data.store import Store, studio_models
from prefloop.errors import InputError
from prefloop.studio import accounts, passwords, people_log
from prefloop.studio.service import Studio
from tests.studio.conftest import Clock
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.web import PASSWORD, Person, client_of

NEW = "four rather small words"


@pytest.fixture
def studio(on_each: Studio) -> Studio:
    return on_each


@pytest.fixture
def ann(studio: Studio) -> Person:
    return Person(studio)


@pytest.fixture
def boss(studio: Studio) -> Person:
    return Person(studio, "boss", "admin")


def change(person: Person, current: str, new: str, again: str | None = None) -> Any:
    form = {"csrf": person.csrf, "current": current, "new": new, "again": new if again is None else again}
    return person.client.post("/settings/password", data=form)


def is_in(person: Person) -> bool:
    return person.client.get("/api/v1/me").status_code == 200


def use(studio: Studio, path: str, password: str) -> Any:
    browser = client_of(studio)
    page = browser.get(path)
    if page.status_code != 200:
        return page
    (token,) = re.findall(r'name="form_token" value="([^"]+)"', page.text)
    return browser.post(path, data={"form_token": token, "password": password})


def test_a_password_is_changed_by_who_knows_it_and_other_browsers_are_signed_out(
    studio: Studio, ann: Person
) -> None:
    elsewhere = client_of(studio)
    elsewhere.cookies.set("prefloop_session", accounts.open_session(studio, ann.who.account))
    token = accounts.new_token(studio, ann.who, "script", ["read"])
    before = ann.client.cookies["prefloop_session"]
    answer = change(ann, PASSWORD, NEW)
    assert (answer.status_code, answer.headers["location"]) == (303, "/settings?changed=1#password")
    assert "has been changed" in ann.client.get("/settings?changed=1").text
    assert ann.client.cookies["prefloop_session"] != before
    assert accounts.of_session(studio, before) is None
    assert is_in(ann)
    assert elsewhere.get("/api/v1/me").status_code == 401
    assert accounts.of_token(studio, token) is not None
    assert accounts.password_fits(studio, "ann", PASSWORD) is None
    assert accounts.password_fits(studio, "ann", NEW) is not None


@pytest.mark.parametrize(
    ("current", "new", "again", "told"),
    [
        ("not this one", NEW, NEW, "is wrong"),
        (PASSWORD, "short", "short", "10 to 200 characters"),
        (PASSWORD, "aaaaaaaaaaaa", "aaaaaaaaaaaa", "too easily guessed"),
        (PASSWORD, PASSWORD, PASSWORD, "is the current one"),
        (PASSWORD, NEW, NEW + "x", "differ"),
    ],
)
def test_what_cannot_be_a_new_password_is_said_on_the_page(
    studio: Studio, ann: Person, current: str, new: str, again: str, told: str
) -> None:
    answer = change(ann, current, new, again)
    assert answer.status_code == 422
    assert told in answer.text
    assert current not in answer.text
    assert new not in answer.text
    assert is_in(ann)
    assert accounts.password_fits(studio, "ann", PASSWORD) is not None


def test_a_change_needs_the_pages_own_token_and_guesses_are_slowed_down(studio: Studio, ann: Person) -> None:
    ann.csrf, right = "another", ann.csrf
    assert change(ann, PASSWORD, NEW).status_code == 403
    ann.csrf = right
    codes = [change(ann, f"wrong {n}", NEW).status_code for n in range(12)]
    assert codes[0] == 422
    assert codes[-1] == 429


def test_an_admins_link_sets_a_new_password_once(
    studio: Studio, ann: Person, boss: Person, clock: Clock
) -> None:
    assert ann.send("POST", f"/people/{boss.who.account}/reset").status_code == 403
    first = boss.send("POST", f"/people/{ann.who.account}/reset").json()["path"]
    second = boss.send("POST", f"/people/{ann.who.account}/reset").json()["path"]
    assert not is_in(ann)  # signed out at once
    assert accounts.password_fits(studio, "ann", PASSWORD) is not None  # until the link is used
    assert use(studio, first, NEW).status_code == 404  # the later one holds
    weak = use(studio, second, "short")
    assert weak.status_code == 422
    assert "10 to 200 characters" in weak.text
    open_elsewhere = accounts.open_session(studio, ann.who.account)
    answer = use(studio, second, NEW)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert accounts.of_session(studio, open_elsewhere) is None
    assert accounts.password_fits(studio, "ann", PASSWORD) is None
    assert accounts.password_fits(studio, "ann", NEW) is not None
    assert use(studio, second, "yet another password").status_code == 404
    third = boss.send("POST", f"/people/{ann.who.account}/reset").json()["path"]
    clock.forward(24 * 3600 + 1)
    assert use(studio, third, "yet another password").status_code == 404


def test_no_link_for_who_is_shut_out_and_none_works_for_them(
    studio: Studio, ann: Person, boss: Person
) -> None:
    path = boss.send("POST", f"/people/{ann.who.account}/reset").json()["path"]
    accounts.set_active(studio, ann.who.account, False, by=None)
    assert use(studio, path, NEW).status_code == 404
    refused = boss.send("POST", f"/people/{ann.who.account}/reset")
    assert refused.status_code == 422
    assert "is deactivated" in refused.json()["detail"]
    assert boss.send("POST", "/people/9999/reset").status_code == 404


def test_only_the_hash_of_a_link_is_stored_and_it_goes_with_the_account(studio: Studio, ann: Person) -> None:
    secret = passwords.new_reset(studio, ann.who.account, by=None)
    table = studio_models.PasswordResetRow
    with studio.read() as session:
        assert session.scalars(select(table.token_sha256)).all() == [accounts.hash_of(secret)]
    accounts.add_person(studio, "boss", PASSWORD, "admin")
    accounts.anonymise(studio, ann.who.account, by=None)
    with studio.read() as session:
        assert session.scalars(select(table.id)).all() == []


def test_the_audit_log_has_it_and_no_log_has_a_secret(
    studio: Studio, ann: Person, boss: Person, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="prefloop"):
        change(ann, "a wrong present one", NEW)
        change(ann, PASSWORD, NEW)
        path = boss.send("POST", f"/people/{ann.who.account}/reset").json()["path"]
        use(studio, path, "short")
        use(studio, path, "five rather small new words")
    events = people_log.events(studio, before=None, limit=50)
    mine = [(each.action, each.entity_id) for each in events]
    for action in ("change password", "reset link", "reset password"):
        assert (action, ann.who.account) in mine
    secret = path.rpartition("/")[2]
    # The client's own log has the path it asked for; the server's has the route.
    logged = "\n".join(each.getMessage() for each in caplog.records if not each.name.startswith("http"))
    assert "/reset/{secret}" in logged
    for told in (secret, PASSWORD, NEW, "a wrong present one", "five rather small new words"):
        assert told not in logged
        assert all(told not in str(each.detail) for each in events)


def test_the_machines_own_command_makes_a_link(
    store_url: str, studio: Studio, ann: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["label", "user", "reset"]
    place = ["--store", store_url, "--public_url", "https://host.example/label"]
    assert main([*base, "Ann", *place]) == 0
    said = capsys.readouterr().out
    (secret,) = re.findall(r"https://host\.example/label/reset/(\S+)", said)
    assert not is_in(ann)
    assert use(studio, f"/reset/{secret}", NEW).status_code == 303
    assert accounts.password_fits(studio, "ann", NEW) is not None
    assert main([*base, "nobody", *place]) == 2
    assert "there is no login 'nobody'; known logins: ann" in capsys.readouterr().err
    with Store.open(store_url) as store:
        (event,) = [
            each
            for each in people_log.events(Studio(store), before=None, limit=9)
            if each.action == "reset link"
        ]
    assert event.pseudonym == ""


def test_a_link_for_nobody_is_refused(studio: Studio) -> None:
    with pytest.raises(InputError, match="used already, or has expired"):
        passwords.reset_login(studio, "guess")


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_an_admin_gives_a_link_and_its_owner_sets_and_changes_the_password_in_the_browser(
    studio: Studio, browser: Any
) -> None:
    accounts.add_person(studio, "ann", PASSWORD, "annotator")
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "boss", "admin")
        page.goto(f"{base}/admin/people")
        page.click("tr:has-text('ann') >> text=Reset password")
        page.locator("#reset-made code").wait_for()
        link = page.locator("#reset-made code").inner_text()
        other, watch_other = new_page(browser, base)
        other.goto(link)
        other.fill("[name=password]", NEW)
        other.click("text=Set the password and sign in")
        other.wait_for_url(f"{base}/")
        other.click("text=Settings")
        for name, word in (("current", NEW), ("new", PASSWORD), ("again", PASSWORD)):
            other.fill(f"[name={name}]", word)
        other.click("text=Change the password")
        other.locator("text=Your password has been changed").wait_for()
        assert watch.wrong == watch_other.wrong == []
    assert accounts.password_fits(studio, "ann", PASSWORD) is not None
