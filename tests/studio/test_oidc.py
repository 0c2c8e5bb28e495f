"""Single sign-on: whose word counts, who gets in, and every way to get in as somebody else."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("joserfc")
from fastapi.testclient import TestClient
from sqlalchemy import select

from prefloop.configs.label import ServeConfig
from prefloop.configs.sign_in import SignIn
from prefloop.data.store import Store, studio_models
from prefloop.errors import InputError
from prefloop.studio import accounts, erasure
from prefloop.studio.oidc import Provider
from prefloop.studio.pages_oidc import offer
from prefloop.studio.security import HEADERS
from prefloop.studio.serve import serve
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.conftest import Clock
from tests.studio.idp import CLIENT, ISSUER, SECRET, Idp
from tests.studio.test_two_factor import code_at, give, set_up
from tests.studio.web import PASSWORD, Person, client_of


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOOP_OIDC_SECRET", SECRET)


@pytest.fixture(scope="module")
def made() -> Idp:
    return Idp()


@pytest.fixture
def idp(made: Idp, clock: Clock) -> Idp:
    """As new, with the keys it has: making them takes long."""
    fresh = Idp.__new__(Idp)
    fresh.__dict__ |= {
        name: value()
        for name, value in {"lies": dict, "discovery": dict, "asked": list, "codes": dict}.items()
    }
    fresh.user = {"sub": "u-1", "email": "Ann@Example.org", "email_verified": True}
    fresh.keys, fresh.signing, fresh.at = [*made.keys], made.keys[0], clock.now.timestamp()
    fresh.in_token, fresh.algorithm = True, "RS256"
    return fresh


def browser(studio: Studio, idp: Idp, clock: Clock, **settings: Any) -> TestClient:
    """Somebody's browser at a studio with single sign-on, which has an admin."""
    if not accounts.is_set_up(studio):
        accounts.add_person(studio, "boss", PASSWORD, "admin")
    client = client_of(studio)
    given: Any = {"domains": ("example.org",), "name": "Example"} | settings
    provider = Provider(
        SignIn(issuer=ISSUER, client_id=CLIENT, **given), transport=idp, now=lambda: clock.now.timestamp()
    )
    offer(client.app, provider)  # type: ignore[arg-type]
    return client


def sign_in(client: TestClient, idp: Idp, *, to: str = "/history") -> Any:
    """There and back."""
    away = client.get("/login/oidc", params={"next": to})
    assert away.status_code == 303
    assert away.headers["location"].startswith(f"{ISSUER}/authorize?tenant=1&response_type=code&")
    return client.get(f"/login/oidc/back?{idp.agree(away.headers['location'])}")


def test_a_verified_address_of_the_domain_makes_an_account_once(
    studio: Studio, idp: Idp, clock: Clock
) -> None:
    project = studio.create_project(ProjectSettings(name="Team", access="members")).id
    client = browser(studio, idp, clock, role="adjudicator", projects=("Team",))
    page = client.get("/login?next=/history").text
    assert 'href="/login/oidc?next=/history">Sign in with Example' in page
    answer = sign_in(client, idp)
    assert (answer.status_code, answer.headers["location"]) == (303, "/history")
    me = client.get("/api/v1/me").json()
    assert (me["login"], me["role"]) == ("ann@example.org", "adjudicator")
    assert [each["id"] for each in client.get("/api/v1/projects").json()] == [project]
    assert all(answer.headers[name] == value for name, value in HEADERS.items())
    cookie = answer.headers.get_list("set-cookie")[0]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    other = browser(studio, idp, clock)
    idp.user["email"] = "ann.renamed@example.org"  # the person is the subject, not the address
    sign_in(other, idp)
    assert other.get("/api/v1/me").json()["login"] == "ann@example.org"
    assert client.get("/api/v1/me").status_code == 200  # the first browser stays signed in
    assert idp.asked.count("/keys") == 2  # once for each server


@pytest.mark.parametrize(
    ("user", "settings", "told"),
    [
        ({"email_verified": False}, {}, "Example names no e-mail address of yours that it has verified"),
        ({"email_verified": "true"}, {}, "names no e-mail address"),
        ({"email": None}, {}, "names no e-mail address"),
        ({"email": "ann@evil.org"}, {}, "ann@evil.org may not sign in here"),
        ({"email": "ann@sub.example.org"}, {}, "may not sign in here"),
        ({"email": "ann@evil.org@example.org"}, {}, "names no e-mail address"),
        ({}, {"domains": ()}, "ann@example.org has no account here"),
        ({"email": "boss"}, {"domains": ("*",)}, "names no e-mail address"),
    ],
)
def test_nobody_else_gets_in(
    studio: Studio, idp: Idp, clock: Clock, user: Any, settings: Any, told: str
) -> None:
    idp.user |= user
    client = browser(studio, idp, clock, **settings)
    answer = sign_in(client, idp)
    assert (answer.status_code, told in answer.text) == (403, True), answer.text
    assert "prefloop_session" not in client.cookies
    with studio.read() as session:
        assert session.scalars(select(studio_models.AccountRow.login)).all() == ["boss"]


@pytest.mark.parametrize(
    "lie",
    [
        {"iss": "https://evil.example.org"},
        {"aud": "another program"},
        {"aud": [CLIENT, "another program"]},
        {"azp": "another program"},
        {"nonce": "of another browser"},
        {"nonce": None},
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"iat": 10**11},
    ],
    ids=str,
)
def test_a_token_that_is_not_for_this_browser_and_studio_is_refused(
    studio: Studio, idp: Idp, clock: Clock, lie: Any
) -> None:
    client = browser(studio, idp, clock)
    idp.lies = lie
    answer = sign_in(client, idp)
    assert answer.status_code == 403, answer.text
    assert "prefloop_session" not in client.cookies
    idp.lies = {}
    assert sign_in(client, idp).status_code == 303


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_that_anybody_could_sign_is_refused(
    studio: Studio, idp: Idp, clock: Clock, algorithm: str
) -> None:
    client = browser(studio, idp, clock)
    idp.algorithm = algorithm
    answer = sign_in(client, idp)
    assert (answer.status_code, "cannot be trusted" in answer.text) == (403, True)


def test_new_keys_are_fetched_and_strange_ones_refused(studio: Studio, idp: Idp, clock: Clock) -> None:
    client = browser(studio, idp, clock)
    assert sign_in(client, idp).status_code == 303
    idp.signing = idp.new_key("two")
    assert sign_in(client, idp).status_code == 403
    assert idp.asked.count("/keys") == 1  # not as often as somebody likes to make us ask
    clock.forward(31)
    idp.at += 31
    assert sign_in(client, idp).status_code == 403
    idp.keys.append(idp.signing)
    clock.forward(31)
    idp.at += 31
    assert sign_in(client, idp).status_code == 303


def test_another_browsers_answer_is_refused_and_none_counts_twice(
    studio: Studio, idp: Idp, clock: Clock
) -> None:
    client, victim = browser(studio, idp, clock), browser(studio, idp, clock)
    address = client.get("/login/oidc").headers["location"]
    query = idp.agree(address)
    victim.get("/login/oidc")  # which has a cookie of its own
    for stranger in (victim, browser(studio, idp, clock)):
        answer = stranger.get(f"/login/oidc/back?{query}")
        assert (answer.status_code, "began in another browser" in answer.text) == (403, True)
        assert "prefloop_session" not in stranger.cookies
    assert client.get(f"/login/oidc/back?{query}").status_code == 303
    assert client.get(f"/login/oidc/back?{query}").status_code == 403
    address = client.get("/login/oidc").headers["location"]
    query = idp.agree(address).replace(ISSUER, "https://evil.example.org")
    assert "another provider" in client.get(f"/login/oidc/back?{query}").text


def test_it_leads_on_to_a_page_of_ours_only(studio: Studio, idp: Idp, clock: Clock) -> None:
    client = browser(studio, idp, clock)
    for given in ("https://evil.example.org", "//evil.example.org", "/logout", "/login"):
        assert sign_in(client, idp, to=given).headers["location"] == "/"


def test_an_account_is_linked_by_its_address_and_what_opened_it_before_no_longer_does(
    studio: Studio, idp: Idp, clock: Clock
) -> None:
    squatter = Person(studio, "ann@example.org")
    token = accounts.new_token(studio, squatter.who, "mine", ["read"])
    client = browser(studio, idp, clock, domains=())
    assert sign_in(client, idp).status_code == 303
    assert client.get("/api/v1/me").json()["login"] == "ann@example.org"
    assert squatter.client.get("/api/v1/me").status_code == 401
    assert accounts.of_token(studio, token) is None
    assert accounts.password_fits(studio, "ann@example.org", PASSWORD) is None
    boss = Person(studio, "chief", "admin")
    assert "link sign-in" in boss.send("GET", "/audit").text


def test_an_unverified_address_links_nothing(studio: Studio, idp: Idp, clock: Clock) -> None:
    ann = Person(studio, "ann@example.org")
    idp.user["email_verified"] = False
    answer = sign_in(browser(studio, idp, clock, domains=()), idp)
    assert (answer.status_code, "has verified" in answer.text) == (403, True)
    assert ann.client.get("/api/v1/me").status_code == 200


def test_a_second_factor_is_asked_for_all_the_same(studio: Studio, idp: Idp, clock: Clock) -> None:
    ann = Person(studio, "ann@example.org")
    secret, _ = set_up(studio, ann)
    clock.forward(60)
    idp.at += 60
    client = browser(studio, idp, clock, domains=())
    answer = sign_in(client, idp)
    assert answer.headers["location"] == "/login/code?next=/history"
    assert client.get("/api/v1/me").status_code == 401
    client.get("/login/code")
    ann.client = client
    assert give(ann, code_at(studio, secret)).status_code == 303
    assert client.get("/api/v1/me").status_code == 200


def test_who_is_shut_out_stays_out_and_who_is_erased_is_forgotten(
    studio: Studio, idp: Idp, clock: Clock
) -> None:
    client = browser(studio, idp, clock)
    sign_in(client, idp)
    account = accounts.password_fits(studio, "boss", PASSWORD)
    with studio.read() as session:
        (ann,) = session.scalars(
            select(studio_models.AccountRow.id).where(studio_models.AccountRow.id != account)
        )
    accounts.set_active(studio, ann, False, by=None)
    assert client.get("/api/v1/me").status_code == 401
    assert "deactivated" in sign_in(client, idp).text
    erasure.erase(studio, ann, by=None)
    with studio.read() as session:
        assert session.scalars(select(studio_models.IdentityRow)).all() == []


def test_signing_out_ends_the_session_and_offers_to_end_the_providers(
    studio: Studio, idp: Idp, clock: Clock
) -> None:
    client = browser(studio, idp, clock)
    sign_in(client, idp)
    csrf = re.findall(r'name="csrf" value="([^"]+)"', client.get("/history").text)[0]
    answer = client.post("/logout", data={"csrf": csrf})
    assert client.get("/api/v1/me").status_code == 401
    assert 'href="/logout/oidc"' in client.get(answer.headers["location"]).text
    assert client.get("/logout/oidc").headers["location"] == (
        f"{ISSUER}/end?client_id=the+studio&post_logout_redirect_uri=http%3A%2F%2F127.0.0.1%3A8100%2Flogin"
    )


def test_an_address_that_is_not_in_the_token_is_asked_for(studio: Studio, idp: Idp, clock: Clock) -> None:
    idp.in_token = False
    client = browser(studio, idp, clock)
    assert sign_in(client, idp).status_code == 303
    idp.user["sub"] = "somebody else"
    idp.lies = {"sub": "u-2"}
    assert sign_in(client, idp).status_code == 403


@pytest.mark.parametrize(
    ("discovery", "logged"),
    [
        ({"issuer": f"{ISSUER}/"}, "write it as it says"),
        ({"token_endpoint": "http://id.example.org/token"}, "names no token_endpoint that can be used"),
        ({"authorization_endpoint": None}, "names no authorization_endpoint"),
        ({"jwks_uri": "file:///etc/passwd"}, "names no jwks_uri"),
    ],
)
def test_a_provider_that_cannot_be_used_is_told_to_the_log_and_not_to_the_person(
    studio: Studio, idp: Idp, clock: Clock, discovery: Any, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    idp.discovery = discovery
    client = browser(studio, idp, clock)
    answer = client.get("/login/oidc")
    if answer.status_code == 303:
        answer = client.get(f"/login/oidc/back?{idp.agree(answer.headers['location'])}")
    assert answer.status_code == 502
    assert "provider cannot be used now" in answer.text
    assert ISSUER not in answer.text
    assert logged in caplog.text


def test_a_provider_says_no_and_its_words_cannot_act(studio: Studio, idp: Idp, clock: Clock) -> None:
    client = browser(studio, idp, clock)
    state = re.findall(r"state=([^&]+)", client.get("/login/oidc").headers["location"])[0]
    answer = client.get("/login/oidc/back", params={"state": state, "error": "<script>access_denied"})
    assert answer.status_code == 403
    assert "did not sign you in (&lt;script&gt;access_denied)" in answer.text


def test_no_account_is_made_before_the_first_admins(studio: Studio, idp: Idp, clock: Clock) -> None:
    provider = Provider(SignIn(issuer=ISSUER, client_id=CLIENT, domains=("*",)), transport=idp)
    client = client_of(studio)
    assert client.get("/login/oidc").status_code == 404
    offer(client.app, provider)  # type: ignore[arg-type]
    assert client.get("/login/oidc").status_code == 409
    assert client.get("/login/oidc/back").status_code == 409


def test_the_secret_comes_from_a_file_or_the_environment_and_is_in_no_page(
    studio: Studio,
    idp: Idp,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("PREFLOOP_OIDC_SECRET", "another")
    client = browser(studio, idp, clock, secret_file=str(tmp_path / "secret"))
    assert sign_in(client, idp).status_code == 303
    client = browser(studio, idp, clock)
    answer = sign_in(client, idp)
    assert (answer.status_code, "invalid_grant" in answer.text) == (403, True)
    assert SECRET not in caplog.text + answer.text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"client_id": "c"}, "oidc.issuer is empty"),
        ({"issuer": "http://id.example.org", "client_id": "c"}, "must be an https:// address"),
        ({"issuer": ISSUER}, "oidc.client_id is empty"),
        (
            {"issuer": ISSUER, "client_id": "c", "domains": ("@example.org",)},
            "oidc.domains has '@example.org'",
        ),
        ({"issuer": ISSUER, "client_id": "c", "projects": ("P",)}, "oidc.domains is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: Any, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        SignIn(**given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"secret_file": "nowhere"}, "oidc.secret_file is nowhere"),
        ({"domains": ("*",), "projects": ("None",)}, "None"),
    ],
)
def test_serve_says_at_once_what_is_not_there(
    tmp_path: Path, given: Any, told: str, empty_store: Callable[[Path], Store]
) -> None:
    with empty_store(tmp_path) as store:
        where = store.label
    with pytest.raises(InputError, match=told):
        serve(ServeConfig(store=where, port=8199, oidc=SignIn(issuer=ISSUER, client_id="c", **given)))


def test_a_store_of_the_version_before_has_accounts_without_a_provider(store: Store) -> None:
    studio = Studio(store)
    accounts.add_person(studio, "ann", PASSWORD, "admin")
    store.database.migrate("0016")
    store.database.migrate()
    assert accounts.password_fits(studio, "ann", PASSWORD) is not None
    with studio.read() as session:
        assert session.scalars(select(studio_models.IdentityRow)).all() == []
