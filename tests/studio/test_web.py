"""The security bar, line by line, over HTTP: accounts, sessions, forged requests, scopes, limits, headers, blindness, health."""

import re
from dataclasses import replace

import pytest
from argon2 import Type, extract_parameters
from sqlalchemy import event, select

from prefloop.data.store import studio_models
from prefloop.data.store.database import Unavailable
from prefloop.studio import accounts, invitations
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.conftest import HASHER, Clock
from tests.studio.web import BASE, PASSWORD, Person, client_of


@pytest.fixture
def project(studio: Studio) -> int:
    made = studio.create_project(ProjectSettings(name="Compare", gold_share=0.1, guidelines="# Be *fair*"))
    studio.add_tasks(made.id, studio.store.add_pairs().ids)
    return made.id


@pytest.fixture
def ann(studio: Studio) -> Person:
    return Person(studio)


@pytest.fixture
def boss(studio: Studio) -> Person:
    return Person(studio, "boss", "admin")


# Accounts


def test_the_setup_link_makes_one_admin_and_leads_to_the_first_comparison(
    studio: Studio, project: int
) -> None:
    secret = invitations.invite(studio, "admin", setup=True)
    spare = invitations.invite(studio, "admin", setup=True)
    browser = client_of(studio)
    page = browser.get(f"/join/{secret}")
    assert page.status_code == 200
    token = re.findall(r'name="form_token" value="([^"]+)"', page.text)[0]
    form = {"form_token": token, "login": "Me", "password": PASSWORD}
    made = browser.post(f"/join/{secret}", data=form)
    assert (made.status_code, made.headers["location"]) == (303, f"/label/{project}")
    assert browser.get(f"/label/{project}").status_code == 200
    # Neither it nor another link for the first account works any more.
    for used in (secret, spare):
        assert client_of(studio).get(f"/join/{used}", headers={"accept": "text/html"}).status_code == 404
    assert [(person.login, person.role) for person in accounts.people(studio)] == [("me", "admin")]


def test_an_invitation_is_for_once_and_for_a_week(studio: Studio, clock: Clock) -> None:
    secret = invitations.invite(studio, "annotator")
    invitations.accept(studio, secret, "bea", PASSWORD)
    with pytest.raises(Exception, match="used already"):
        invitations.accept(studio, secret, "cid", PASSWORD)
    late = invitations.invite(studio, "annotator")
    clock.forward(7 * 86400 + 1)
    with pytest.raises(Exception, match="has expired"):
        invitations.accept(studio, late, "cid", PASSWORD)


def test_there_is_no_password_that_works_before_set_up(studio: Studio) -> None:
    for login in ("admin", "root", "prefloop"):
        for password in ("", "admin", "password", "prefloop"):
            assert accounts.password_fits(studio, login, password) is None


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaa", "x" * 201])
def test_weak_passwords_are_refused(studio: Studio, password: str) -> None:
    with pytest.raises(Exception, match="password"):
        accounts.add_person(studio, "weak", password, "annotator")


def test_a_password_takes_64_mib_and_three_passes_to_try() -> None:
    parameters = extract_parameters(HASHER.hash(PASSWORD))
    assert parameters.type is Type.ID
    assert parameters.memory_cost >= 64 * 1024  # KiB
    assert parameters.time_cost >= 3


def test_what_opens_a_door_is_stored_as_a_hash(studio: Studio, ann: Person) -> None:
    token = accounts.new_token(studio, ann.who, "script", ["read"])
    cookie = ann.client.cookies["prefloop_session"]
    with studio.read() as session:
        account = session.scalars(select(studio_models.AccountRow)).one()
        assert account.password_hash.startswith("$argon2id$")
        assert PASSWORD not in account.password_hash
        assert session.scalars(select(studio_models.WebSessionRow.token_sha256)).one() == accounts.hash_of(
            cookie
        )
        assert session.scalars(select(studio_models.ApiTokenRow.token_sha256)).one() == accounts.hash_of(
            token
        )


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(studio: Studio) -> None:
    accounts.add_person(studio, "ann", PASSWORD, "annotator")
    for secure in (False, True):
        browser = client_of(studio, public_url="https://127.0.0.1:8100" if secure else "")
        page = browser.get("/login")
        token = re.findall(r'name="form_token" value="([^"]+)"', page.text)[0]
        form = {"form_token": token, "login": "ann", "password": PASSWORD}
        answer = browser.post("/login", data=form, headers={"cookie": f"prefloop_form={token}"})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert ("Secure" in cookie) == secure


def test_sessions_end_by_signing_out_by_time_and_by_an_admin(
    studio: Studio, ann: Person, boss: Person, clock: Clock
) -> None:
    assert ann.send("GET", "/me").status_code == 200
    ann.client.post("/logout", data={"csrf": ann.csrf})
    assert ann.client.get("/api/v1/me").status_code == 401
    ann.sign_in("ann", PASSWORD)
    assert ann.client.get("/api/v1/me").status_code == 200
    assert boss.send("PUT", f"/people/{ann.who.account}/active", {"active": False}).status_code == 204
    assert ann.client.get("/api/v1/me").status_code == 401
    assert ann.sign_in("ann", PASSWORD).status_code == 401
    clock.forward(15 * 86400)
    assert boss.send("GET", "/me").status_code == 401


def test_the_last_admin_cannot_shut_themselves_out(boss: Person) -> None:
    assert boss.send("PUT", f"/people/{boss.who.account}/active", {"active": False}).status_code == 409
    assert boss.send("POST", f"/people/{boss.who.account}/anonymise").status_code == 409
    assert boss.send("PUT", f"/people/{boss.who.account}/role", {"role": "annotator"}).status_code == 409


def test_a_role_changes_at_once_and_is_written_down(studio: Studio, ann: Person, boss: Person) -> None:
    path = f"/people/{ann.who.account}/role"
    assert ann.send("PUT", path, {"role": "admin"}).status_code == 403
    plain = boss.client.put(f"/api/v1{path}", json={"role": "admin"})
    assert plain.status_code == 403  # without the CSRF token
    assert boss.send("PUT", path, {"role": "owner"}).status_code == 422
    assert boss.send("PUT", "/people/999/role", {"role": "admin"}).status_code == 404
    assert ann.client.get("/admin").status_code == 403
    assert boss.send("PUT", path, {"role": "admin"}).status_code == 204
    assert boss.send("PUT", path, {"role": "admin"}).status_code == 204  # again: nothing is written
    assert ann.client.get("/admin").status_code == 200
    assert ann.send("PUT", f"/people/{boss.who.account}/role", {"role": "adjudicator"}).status_code == 204
    assert boss.client.get("/admin").status_code == 403
    assert boss.client.get("/adjudicate").status_code == 200
    assert ann.send("PUT", path, {"role": "annotator"}).status_code == 409  # the only admin by now
    changes = [each for each in ann.send("GET", "/audit").json() if each["action"] == "change role"]
    assert [(each["entity_id"], each["detail"]) for each in changes] == [
        (boss.who.account, {"from": "admin", "to": "adjudicator"}),
        (ann.who.account, {"from": "annotator", "to": "admin"}),
    ]


def test_guessing_passwords_is_slowed_down(studio: Studio) -> None:
    ann = Person(studio, client=client_of(studio, limits={"sign in": (4, 60.0)}))
    ann.client.cookies.clear()
    answers = [ann.sign_in("ann", "wrong password") for _ in range(5)]
    assert answers[0].status_code == 401
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert ann.sign_in("ann", PASSWORD).status_code == 429  # for the right one too


# Forged requests


def test_without_the_csrf_token_nothing_changes(studio: Studio, ann: Person, project: int) -> None:
    body = {"project": project, "have": []}
    for headers in ({}, {"X-CSRF-Token": "wrong"}):
        assert ann.client.post("/api/v1/assignments/next", json=body, headers=headers).status_code == 403
    assert ann.client.post("/logout", data={}).status_code == 403
    assert studio.progress([project])[project].leased == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_requests_from_other_sites_are_refused_even_with_the_token(
    ann: Person, project: int, headers: dict[str, str]
) -> None:
    answer = ann.client.post(
        "/api/v1/assignments/next",
        json={"project": project},
        headers={"X-CSRF-Token": ann.csrf, **headers},
    )
    assert answer.status_code == 403
    own = {"X-CSRF-Token": ann.csrf, "Origin": BASE}
    assert (
        ann.client.post("/api/v1/assignments/next", json={"project": project}, headers=own).status_code == 200
    )


def test_a_form_made_for_another_browser_is_refused(studio: Studio) -> None:
    accounts.add_person(studio, "ann", PASSWORD, "annotator")
    browser = client_of(studio)
    browser.get("/login")
    form = {"form_token": "x" * 32, "login": "ann", "password": PASSWORD}
    assert browser.post("/login", data=form).status_code == 403


def test_another_name_for_this_server_is_refused(studio: Studio) -> None:
    """DNS rebinding: a page elsewhere whose name is made to point at 127.0.0.1."""
    assert client_of(studio).get("/healthz", headers={"host": "evil.example"}).status_code == 421


# Scopes and roles


def test_a_token_can_do_what_its_scopes_say(studio: Studio, ann: Person, boss: Person, project: int) -> None:
    reading = accounts.new_token(studio, ann.who, "reads", ["read"])
    working = accounts.new_token(studio, ann.who, "works", ["read", "annotate"])
    ruling = accounts.new_token(studio, boss.who, "rules", ["read", "admin"])
    browser = client_of(studio)

    def ask(token: str, method: str, path: str, body: object = None) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return browser.request(method, f"/api/v1{path}", json=body, headers=headers).status_code

    assert ask(reading, "GET", "/projects") == 200
    assert ask(reading, "POST", "/assignments/next", {"project": project}) == 403
    assert ask(working, "POST", "/assignments/next", {"project": project}) == 200
    assert ask(working, "POST", "/projects", {"name": "mine"}) == 403
    assert ask(ruling, "POST", "/projects", {"name": "mine"}) == 201
    assert ask(reading, "POST", "/tokens", {"name": "more", "scopes": ["annotate"]}) == 403
    assert ask("pf_00000000_nothing", "GET", "/projects") == 401
    (info,) = [each for each in accounts.tokens_of(studio, ann.who) if each.name == "reads"]
    accounts.revoke_token(studio, ann.who, info.id)
    assert ask(reading, "GET", "/projects") == 401


def test_an_annotators_token_cannot_be_an_admins(studio: Studio, ann: Person) -> None:
    assert ann.send("POST", "/tokens", {"name": "x", "scopes": ["admin"]}).status_code == 403


def test_admin_pages_are_for_admins(ann: Person, boss: Person, project: int) -> None:
    pages = [
        "/admin",
        "/admin/quality",
        "/admin/datasets",
        f"/admin/quality?project={project}",
        "/admin/new",
        f"/admin/projects/{project}",
        "/admin/people",
        "/admin/audit",
        "/admin/webhooks",
    ]
    pages.append(f"/admin/projects/{project}/edit")
    for page in pages:
        assert ann.client.get(page, headers={"accept": "text/html"}).status_code == 403, page
        assert boss.client.get(page).status_code == 200, page


def test_somebody_elses_assignment_is_not_there(
    studio: Studio, ann: Person, boss: Person, project: int
) -> None:
    token = ann.next(project)["token"]
    assert boss.submit(token, {"choice": "first"}).status_code == 404
    assert boss.send("POST", f"/assignments/{token}/undo").status_code == 404


# What the pages hold


def test_the_page_and_the_api_are_blind(studio: Studio, ann: Person, project: int) -> None:
    item = ann.next(project)
    told = [ann.client.get(f"/label/{project}").text, str(item), ann.client.get("/history").text]
    told += [ann.send("GET", path).text for path in ("/projects", f"/projects/{project}", "/me/history")]
    ann.submit(item["token"], {"choice": "first"})
    told += [ann.client.get("/history").text, ann.send("GET", "/me/history").text]
    for text in told:
        for secret in ("secret-policy", "temperature", "0.7", "order_shown", "gold", "seed", "slot"):
            assert secret not in text, secret


def test_sides_are_drawn_for_every_assignment(studio: Studio, project: int) -> None:
    orders = set()
    for number in range(4):
        person = studio.store.add_annotator(f"p{number}")
        for _ in range(3):
            have = [each for each in orders if isinstance(each, str)]
            got = studio.lease(project, person, have=have)
            if got is not None:
                orders.add(got.completions[0].split()[-1])
    assert orders == {"0", "1"}


def test_every_answer_has_the_headers(ann: Person) -> None:
    for path in ("/", "/login", "/healthz", "/static/studio.css", "/nowhere", "/api/v1/me"):
        headers = ann.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http:" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "server" not in headers
    assert ann.client.get("/").headers["cache-control"] == "no-store"


def test_pages_load_nothing_from_elsewhere_and_hold_no_script(boss: Person, project: int) -> None:
    paths = ["/", f"/label/{project}", "/history", "/settings", "/admin", f"/admin/projects/{project}"]
    for path in [*paths, "/admin/people", "/admin/webhooks", "/admin/audit", "/admin/new"]:
        text = boss.client.get(path).text
        assert not re.search(r"""(src|href|action)\s*=\s*["'](https?:)?//""", text), path
        assert not re.search(r"""\son\w+\s*=|\sstyle\s*=|<style""", text), path
        for attributes, inside in re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL):
            assert "application/json" in attributes or not inside.strip(), path


def test_a_large_request_is_refused(ann: Person, project: int) -> None:
    token = ann.next(project)["token"]
    answer = ann.send("PUT", f"/assignments/{token}/draft", {"rationale": "x" * 2_000_000})
    assert answer.status_code == 413


# Work over HTTP


def test_an_answer_sent_twice_is_stored_once(studio: Studio, ann: Person, project: int) -> None:
    token = ann.next(project)["token"]
    body = {"choice": "second", "strength": 2, "rationale": "kinder", "flags": ["untrue"]}
    first = ann.submit(token, body, key="the-same-key")
    again = ann.submit(token, body, key="the-same-key")
    assert (
        first.json() == again.json() == {"token": token, "state": "submitted", "feedback": None, "models": []}
    )
    assert ann.submit(token, body | {"strength": 1}, key="the-same-key").status_code == 409
    assert ann.submit(token, body).status_code == 409
    assert studio.store.counts()["judgement"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"choice": "cant_tell"},
        {"choice": "good"},
        {"choice": "first", "strength": 3},
        {"choice": "tie", "strength": 1},
        {"choice": "first", "flags": ["no such flag"]},
        {"choice": "first", "ranking": [[0], [1]]},
        {"choice": "first", "ratings": {"helpful": 3}},
        {"choice": "tie", "edited": "better"},
        {"choice": "second", "edited": "better", "edited_from": "first"},
        {"choice": "first", "edited_from": "first"},
        {"choice": "first", "rationale": "\ud800"},
        {"choice": "first", "surprise": 1},
        {},
    ],
)
def test_answers_that_make_no_sense_are_refused(
    studio: Studio, ann: Person, project: int, body: dict[str, object]
) -> None:
    import json

    token = ann.next(project)["token"]
    answer = ann.client.post(
        f"/api/v1/assignments/{token}/submit",
        content=json.dumps(body),
        headers={"X-CSRF-Token": ann.csrf, "Idempotency-Key": "12345678", "content-type": "application/json"},
    )
    assert answer.status_code == 422, answer.text
    assert studio.store.counts()["judgement"] == 0


def test_undo_gives_the_item_back_with_what_was_said(ann: Person, project: int) -> None:
    item = ann.next(project)
    ann.submit(item["token"], {"choice": "second", "strength": 2, "rationale": "kinder"})
    back = ann.send("POST", f"/assignments/{item['token']}/undo").json()
    assert back["responses"] == item["responses"]
    assert back["draft"] == {"choice": "second", "strength": 2, "rationale": "kinder"}
    assert ann.submit(item["token"], {"choice": "first"}).json()["state"] == "submitted"


def test_what_is_left_is_what_this_person_can_still_be_asked(studio: Studio, ann: Person) -> None:
    """Places that others will fill, items answered elsewhere, and projects that are not open count for nobody else."""
    items = studio.store.add_pairs().ids
    other = studio.create_project(ProjectSettings(name="other")).id
    studio.add_tasks(other, items[:1])
    project = studio.create_project(ProjectSettings(name="three", overlap=3)).id
    studio.add_tasks(project, items, gold={items[5]: "a"})
    bea = accounts.add_person(studio, "bea", PASSWORD, "annotator").annotator

    def left() -> int:
        said = ann.send("POST", "/assignments/next", {"project": project, "have": []}).json()
        assert (said["left"] > 0) == (said["assignment"] is not None)
        return said["left"]

    ann.submit(
        ann.next(other)["token"], {"choice": "first"}
    )  # the same item is not asked again in the other project
    assert left() == 4
    for wanted in (3, 2):
        assert ann.submit(ann.next(project)["token"], {"choice": "first"}).status_code == 200
        assert left() == wanted
    for _ in range(4):
        got = studio.lease(project, bea)
        assert got is not None
        studio.submit(got.token, bea, Answer(choice="first"), key="12345678")
    assert left() == 2  # others' answers take nothing away while there are places
    token = ann.next(project)["token"]
    assert ann.send("POST", f"/assignments/{token}/skip", {}, Idempotency_Key="12345678").status_code == 200
    assert left() == 1
    ann.send("POST", f"/assignments/{token}/undo")
    assert left() == 2
    assert "2 left for you" in ann.client.get("/").text
    settings = studio.project(project).settings
    studio.change_project(project, settings, state="paused")
    assert left() == 0
    studio.change_project(project, settings, state="open")
    for wanted in (1, 0):
        ann.submit(ann.next(project)["token"], {"choice": "first"})
        assert left() == wanted
    assert studio.progress([project])[project].submitted < 15  # places are free, for others
    assert "Nothing for you right now" in ann.client.get("/").text


def test_drafts_are_kept(ann: Person, project: int) -> None:
    item = ann.next(project)
    assert ann.send("PUT", f"/assignments/{item['token']}/draft", {"rationale": "so far"}).status_code == 204
    assert ann.next(project)["draft"] == {"rationale": "so far"}


def test_a_better_reply_becomes_a_demonstration_and_a_comparison(
    studio: Studio, ann: Person, project: int
) -> None:
    item = ann.next(project)
    better = "a much better reply"
    assert ann.submit(item["token"], {"choice": "first", "edited": better}).status_code == 200
    said = studio.store.comparisons().records
    assert {(each.chosen, each.rejected) for each in said} == {
        tuple(item["sources"]),
        (better, item["sources"][0]),
    }
    export = studio.store.export("demonstrations")
    assert [each.completion for each in studio.store.exported(export.id)] == [better]  # type: ignore[union-attr]
    ann.send("POST", f"/assignments/{item['token']}/undo")
    assert studio.store.comparisons().records == ()


def test_an_edit_of_the_other_reply_or_of_none_is_refused_and_stores_nothing(  # P1
    studio: Studio, ann: Person, project: int
) -> None:
    item = ann.next(project)
    for text in item["sources"]:
        for edited in (text, f"\r\n {text}\n"):
            for body in ({"choice": "second"}, {"choice": "first", "edited_from": "first"}):
                answer = ann.submit(item["token"], body | {"edited": edited})
                assert answer.status_code == 422
                assert "equals a reply that was shown" in answer.json()["detail"]
    answer = ann.submit(item["token"], {"choice": "second", "edited": "mine", "edited_from": "first"})
    assert "choose first, or leave edited out" in answer.json()["detail"]
    assert studio.store.counts()["judgement"] == 0
    body = {"choice": "second", "edited": "mine", "edited_from": "second"}
    assert ann.submit(item["token"], body).status_code == 200
    one, two = item["sources"]
    said = {(each.chosen, each.rejected) for each in studio.store.comparisons().records}
    assert said == {(two, one), ("mine", two)}
    back = ann.send("POST", f"/assignments/{item['token']}/undo").json()
    assert back["draft"]["edits"] == {"second": "mine"}


def test_a_draft_keeps_rewrites_by_their_side_and_none_that_is_a_reply(
    ann: Person, project: int
) -> None:  # P1
    item = ann.next(project)
    one, two = item["sources"]
    kept = [
        ({"choice": "second", "edits": {"first": "mine", "second": one}}, {"first": "mine"}),
        ({"choice": "second", "edited": f"{one}\n"}, None),
        ({"choice": "second", "edited": "mine"}, {"second": "mine"}),
        ({"edits": {"first": two, "second": " "}}, None),
    ]
    for draft, edits in kept:
        assert ann.send("PUT", f"/assignments/{item['token']}/draft", draft).status_code == 204
        shown = ann.next(project)["draft"]
        assert (shown.get("edits"), "edited" in shown) == (edits, False)


def test_signing_in_leads_back_to_a_page_of_ours_only(studio: Studio, ann: Person) -> None:
    browser = client_of(studio)
    for to, then in (("/label/1", "/label/1"), ("https://evil.example/label/1", "/")):
        browser.cookies.clear()
        browser.cookies.set("prefloop_session", "over")
        page = browser.get("/login", params={"next": to}).text
        assert "Your session has ended" in page
        token = re.findall(r'name="form_token" value="([^"]+)"', page)[0]
        form = {"form_token": token, "login": "ann", "password": PASSWORD, "next": to}
        wrong = browser.post("/login", data=form | {"password": "no"})
        assert wrong.status_code == 401
        assert f'name="next" value="{then}"' in wrong.text
        answer = browser.post("/login", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, then)
        # Signed in already, in another window: straight on.
        assert ann.client.get("/login", params={"next": to}).headers["location"] == then
    ours = (
        "/adjudicate?project=1",
        "/adjudicate/1/2",
        "/admin/quality?project=1",
        "/history?offset=50",
        "/settings",
    )
    for to in ours:
        assert ann.client.get("/login", params={"next": to}).headers["location"] == to
    for to in (
        "",
        "//evil.example",
        "/\\evil.example",
        "/label//evil.example\r\nx: y",
        "/logout",
        "javascript:alert(1)",
    ):
        assert ann.client.get("/login", params={"next": to}).headers["location"] == "/"


def test_a_page_that_needs_signing_in_is_come_back_to(studio: Studio) -> None:
    browser = client_of(studio)
    answer = browser.get("/adjudicate?project=3", headers={"accept": "text/html"})
    assert answer.headers["location"] == "/login?next=/adjudicate%3Fproject%3D3"
    page = browser.get("/login?next=/history").text
    assert "Your session has ended" not in page


# Operation


def test_health_and_readiness(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = client_of(studio)
    assert browser.get("/healthz").json() == {"status": "ok"}
    assert browser.get("/readyz").status_code == 200

    def away() -> str:
        raise Unavailable("gone: postgresql://me@host")

    monkeypatch.setattr(studio.store.database, "schema", away)
    answer = browser.get("/readyz")
    assert answer.status_code == 503
    assert "postgresql" not in answer.text
    monkeypatch.setattr(studio.store.database, "schema", lambda: "0001")
    assert browser.get("/readyz").status_code == 503


def test_everything_done_is_in_the_audit_log_and_names_nobody(
    studio: Studio, ann: Person, boss: Person, project: int
) -> None:
    item = ann.next(project)
    ann.submit(item["token"], {"choice": "first", "rationale": "private words"})
    ann.send("POST", f"/assignments/{item['token']}/undo")
    boss.send("POST", "/invitations", {"role": "annotator"})
    settings = studio.project(project).settings
    studio.change_project(project, replace(settings, overlap=2), by=boss.who.annotator)
    events = boss.send("GET", "/audit").json()
    actions = {event["action"] for event in events}
    assert {"submit", "undo", "invite", "change", "create", "sign in"} <= actions
    text = str(events)
    assert "private words" not in text
    assert "'ann'" not in text
    assert "boss" not in text


def test_an_anonymised_annotator_leaves_judgements_and_exports_as_they_were(
    studio: Studio, ann: Person, boss: Person, project: int
) -> None:
    ann.submit(ann.next(project)["token"], {"choice": "first"})
    export = studio.store.export("comparisons")
    before = studio.store.exported(export.id)
    pseudonym = boss.send("POST", f"/people/{ann.who.account}/anonymise").json()["pseudonym"]
    assert ann.client.get("/api/v1/me").status_code == 401
    assert studio.store.exported(export.id) == before
    assert before[0].annotator == pseudonym  # type: ignore[union-attr]
    with studio.read() as session:
        assert "ann" not in session.scalars(select(studio_models.AccountRow.login)).all()


def test_the_next_item_and_an_answer_ask_the_database_for_little(
    studio: Studio, ann: Person, project: int
) -> None:
    """Each statement is a journey to the database: with many people these are what they wait for."""
    said: list[str] = []
    ann.submit(ann.next(project)["token"], {"choice": "first"})
    engine = studio.store.database._engine
    event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    transactions: list[object] = []
    event.listen(engine, "begin", transactions.append)
    ann.submit(ann.next(project)["token"], {"choice": "first"})
    asked = [statement for statement in said if not statement.startswith(("BEGIN", "PRAGMA", "SET LOCAL"))]
    assert len(asked) <= 19, "\n".join(asked)
    assert len(transactions) <= 4  # who asks, and one transaction, for each of the two
