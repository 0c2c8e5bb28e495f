"""Under a path of somebody else's address: pages, redirects, scripts and cookies keep to it, whatever the proxy does with it."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.label import ServeConfig
from prefloop.errors import InputError
from prefloop.studio import accounts, invitations, serve
from prefloop.studio.app import make_app
from prefloop.studio.security import Hosts
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import new_page, served, why_no_browser
from tests.studio.proxied import proxied
from tests.studio.web import PASSWORD, client_of

PREFIX = "/label"  # the most awkward one: pages of the studio begin so too


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
@pytest.mark.parametrize(("strips", "keeps_host"), [(True, False), (False, True)])
def test_the_studio_works_behind_a_proxy_under_a_path(
    studio: Studio, browser: Any, tmp_path: Path, strips: bool, keeps_host: bool
) -> None:
    project = studio.create_project(ProjectSettings(name="first")).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    secret = invitations.invite(studio, "admin")
    port = free_port()
    public = f"http://127.0.0.1:{port}{PREFIX}"
    rows = tmp_path / "more.jsonl"
    rows.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    with (
        served(studio, public_url=public) as target,
        proxied(target, PREFIX, port=port, strips=strips, keeps_host=keeps_host) as base,
    ):
        page, watch = new_page(browser, base)
        page.goto(f"{base}/join/{secret}")
        page.fill("[name=login]", "boss")
        page.fill("[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url(f"{base}/label/{project}")
        page.locator("#responses article, #responses > *").first.wait_for()
        assert [each["path"] for each in page.context.cookies() if each["name"] == "prefloop_session"] == [
            PREFIX
        ]
        color = page.evaluate("getComputedStyle(document.body).fontFamily")
        assert "Times" not in color  # the style sheet came
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        for _ in range(100):
            if studio.progress([project])[project].submitted:
                break
            page.wait_for_timeout(50)
        assert studio.progress([project])[project].submitted == 1
        page.goto(base)
        page.click("text=Admin")
        page.click("text=first")
        page.set_input_files("[name=file]", str(rows))
        page.click("text=Import")
        page.locator("#imported", has_text="1 of them new").wait_for()
        page.click("text=People")
        page.click("text=Make a link")
        page.locator("#invited code").wait_for()
        assert page.locator("#invited code").inner_text().startswith(f"{base}/join/")
        page.click("text=Quality")
        page.click("p.chips >> text=first")
        page.wait_for_url(f"{base}/admin/quality?project={project}")
        page.click("text=Sign out")
        page.wait_for_url(f"{base}/login")
        assert watch.wrong == []


@pytest.mark.parametrize("strips", [True, False])
def test_every_address_in_pages_is_within_the_path(studio: Studio, strips: bool) -> None:
    app_client = client_of(studio, public_url=f"http://127.0.0.1:8100{PREFIX}")
    at = "" if strips else PREFIX
    who = accounts.add_person(studio, "boss", PASSWORD, "admin")
    project = studio.create_project(ProjectSettings(name="first")).id
    app_client.cookies.set("prefloop_session", accounts.open_session(studio, who.account))
    for path in ("/", f"/label/{project}", "/history", "/settings", "/admin", f"/admin/projects/{project}",
                 "/admin/people", "/admin/quality", "/admin/webhooks", "/admin/audit", "/admin/new", "/adjudicate"):  # fmt: skip
        answer = app_client.get(f"{at}{path}")
        assert answer.status_code == 200, path
        for address in re.findall(r'(?:href|src|action)="(/[^"]*)"', answer.text):
            assert address.startswith(f"{PREFIX}/"), (path, address)
    assert app_client.get(f"{at}/login").headers["location"] == f"{PREFIX}/"
    app_client.cookies.clear()
    assert app_client.get(f"{at}/").headers["location"] == f"{PREFIX}/login"
    assert (
        app_client.get(f"{at}/settings", headers={"accept": "text/html"}).headers["location"]
        == f"{PREFIX}/login?next=/settings"
    )
    assert app_client.get(f"{at}/static/studio.css").status_code == 200
    assert app_client.get(f"{at}/openapi.json").json()["servers"] == [{"url": PREFIX}]
    if not strips:
        assert app_client.get(PREFIX).headers["location"] == f"{PREFIX}/login"


def test_every_form_leads_back_within_the_path(studio: Studio) -> None:
    browser = client_of(studio, public_url=f"http://127.0.0.1:8100{PREFIX}")
    accounts.add_person(studio, "boss", PASSWORD, "admin")

    def hidden(path: str, name: str) -> str:
        (value, *_) = re.findall(rf'name="{name}" value="([^"]+)"', browser.get(f"{PREFIX}{path}").text)
        return value

    def sent_to(path: str, **form: str) -> str:
        answer = browser.post(f"{PREFIX}{path}", data=form)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    token = hidden("/login", "form_token")
    assert sent_to("/login", form_token=token, login="boss", password=PASSWORD) == f"{PREFIX}/"
    csrf = hidden("/", "csrf")
    numbers = {
        "overlap": "1",
        "lease_minutes": "30",
        "daily_quota": "0",
        "qualify_items": "0",
        "qualify_percent": "80",
        "floor_percent": "0",
        "gold_window": "10",
        "least_seconds": "0",
        "quota": "0",
        "strength_levels": "0",
        "gold_percent": "0",
    }
    made = sent_to("/admin/new", csrf=csrf, name="P", **numbers)
    number = made.removeprefix(f"{PREFIX}/admin/projects/")
    assert number.isdecimal(), made
    assert sent_to(f"/admin/projects/{number}/edit", csrf=csrf, name="P", **numbers) == made
    assert sent_to(f"/admin/projects/{number}/delete", csrf=csrf, confirm="P") == f"{PREFIX}/admin"
    assert browser.get(f"{PREFIX}/settings/password").headers["location"] == f"{PREFIX}/settings"
    assert sent_to("/logout", csrf=csrf) == f"{PREFIX}/login"


def test_a_request_from_the_public_address_is_not_from_another_site(studio: Studio) -> None:
    browser = client_of(studio, public_url="https://host.example/label")
    headers = {"origin": "https://host.example", "host": "127.0.0.1:8100"}
    assert browser.post("/login", headers=headers).status_code == 403  # the form's own token is missing
    assert browser.post("/login", headers=headers).json()["detail"].startswith("the page has expired")
    other = browser.post("/login", headers=headers | {"origin": "https://elsewhere.example"})
    assert "another site" in other.json()["detail"]


@pytest.mark.parametrize(
    ("public_url", "told"),
    [
        ("label.example.org", "write the full address"),
        ("ftp://label.example.org", "write the full address"),
        ("https://label.example.org/?a=1", "and nothing else"),
        ("https://u:p@label.example.org", "and nothing else"),
        ("https://label.example.org/a b", "its path may hold"),
        ("https://label.example.org/admin", "a path of the studio's own"),
    ],
)
def test_a_public_url_that_cannot_be_is_refused(studio: Studio, public_url: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        make_app(studio, public_url=public_url)


# Which names the server answers to


def test_beyond_this_machine_only_own_names_and_numbers_are_answered(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.socket, "gethostname", lambda: "box")
    monkeypatch.setattr(serve.socket, "getfqdn", lambda: "box.lan")
    hosts = serve.Address(host="0.0.0.0", port=8100, public="").names()
    browser = client_of(studio, hosts=Hosts.of(*hosts, numbers=True))
    for host in ("127.0.0.1:8100", "192.168.1.5:8100", "[fe80::1]:8100", "box:8100", "box.lan", "localhost"):
        assert browser.get("/healthz", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "box.evil.example", "192.168.1.5.evil.example", ""):
        answer = browser.get("/healthz", headers={"host": host})
        assert answer.status_code == 421, host
        assert "--public_url" in answer.json()["detail"]
    # With a name, to that one and the machine itself.
    named = serve.Address(host="0.0.0.0", port=8100, public="https://label.example.org").names()
    browser = client_of(studio, hosts=Hosts.of(*named))
    assert browser.get("/healthz", headers={"host": "192.168.1.5"}).status_code == 421
    assert browser.get("/healthz", headers={"host": "label.example.org"}).status_code == 200


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "192.168.1.5"}, True),
        ({"host": "0.0.0.0", "public": "https://label.example.org"}, False),
        ({"public": "http://label.example.org"}, True),
        ({"public": "http://127.0.0.1:9000/label"}, False),
    ],
)
def test_clear_text_over_a_network_is_warned_of(settings: dict[str, str], warned: bool) -> None:
    where = {"host": ServeConfig().host, "public": "", **settings}
    warning = serve.Address(port=8100, **where).clear_text()
    assert ("without TLS" in warning) == warned
