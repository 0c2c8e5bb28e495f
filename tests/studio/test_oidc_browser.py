"""Single sign-on in a browser, through a provider that is a program of its own: oidc-provider-mock, made of Authlib's server side.

It is not among prefloop's requirements: pip install oidc-provider-mock, or name the program in OIDC_PROVIDER.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

pytest.importorskip("joserfc")
from prefloop.configs.sign_in import SignIn
from prefloop.studio import accounts
from prefloop.studio.oidc import Provider
from prefloop.studio.service import Studio
from tests.studio.live import PASSWORD, new_page, served, why_no_browser

PROGRAM = os.environ.get("OIDC_PROVIDER") or shutil.which("oidc-provider-mock") or ""
pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="oidc-provider-mock is not installed"),
    pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser"),
]


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """The provider's address, where ann has a verified address and bea has not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PROGRAM, "--port", str(port), "--require-nonce", "true"]
    for name, verified in (("ann", True), ("bea", False)):
        user = {"sub": name, "email": f"{name}@example.org", "email_verified": verified}
        command += ["--user-claims", json.dumps(user)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                httpx.get(f"http://127.0.0.1:{port}/.well-known/openid-configuration")
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def at_provider(page: Any, who: str) -> None:
    """Sign in at the provider, and come back."""
    page.click("text=Sign in with Example")
    page.fill("input[name=sub]", who)
    page.click("button[type=submit]")


def test_there_and_back_out_and_in_again(
    studio: Studio, browser: Any, issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFLOOP_OIDC_SECRET", "any: this provider takes all of them")
    accounts.add_person(studio, "boss", PASSWORD, "admin")
    provider = Provider(SignIn(issuer=issuer, client_id="studio", name="Example", domains=("example.org",)))
    with closing(provider), served(studio, provider=provider) as base:
        page, watch = new_page(browser, base)
        page.goto(f"{base}/history")
        at_provider(page, "ann")
        page.wait_for_url(f"{base}/history")
        assert page.inner_text(".who .muted") == "ann@example.org"
        page.click("text=Sign out")
        page.click("text=sign out there too")
        page.wait_for_url(f"{issuer}/**")
        page.goto(f"{base}/login")
        at_provider(page, "bea")
        page.wait_for_selector(".error")
        assert "has verified" in page.inner_text(".error")
        at_provider(page, "ann")
        page.wait_for_url(f"{base}/")
        # The provider's own pages load a style from elsewhere; ours broke no policy on the way.
        assert [
            each for each in watch.wrong if "Content Security Policy" in each or "error " in each[:6]
        ] == []
