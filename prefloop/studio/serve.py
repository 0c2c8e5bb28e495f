"""`prefloop label serve`: from an empty folder to the first comparison on the screen."""

import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from prefloop.configs.label import ChatAnswers, ServeConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.studio import accounts, demo, invitations
from prefloop.studio.app import make_app
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.prefix import parsed
from prefloop.studio.responders import EndpointResponder, Served, serving
from prefloop.studio.service import Studio

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ENVIRONMENT = "PREFLOOP_STUDIO_"
"""What worker processes are told, by environment: they import the application themselves."""
SHUTDOWN_SECONDS = 10
log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> None:
    """Prepare the store, say where to go, and serve until stopped.

    Raises:
        InputError: The address is taken, or is none of this machine's; nothing is made then.
    """
    _check_address(config.host, config.port)
    parsed(config.public_url)
    base = config.public_url.rstrip("/") or f"http://{_shown(config.host)}:{config.port}"
    with serving(config.chat, config.answers) as served, Store.open(config.store) as store:
        studio = Studio(store)
        if config.demo and (there := store.counts()["completion"]):
            print(f"{store.label}: holds {there} completions already, so demo adds none")
        elif config.demo:
            print(f"{store.label}: {demo.fill(store)} questions of the toy world, with two replies each")
        if config.demo or store.counts()["completion"]:
            demo.first_project(studio)
        if config.chat:
            demo.chat_project(studio)
        _greet(studio, base)
        if warning := _clear_text(config):
            print(warning, flush=True)
        _run(config, [replace(each, policy=store.name_of(each.policy)) for each in served])


def _run(config: ServeConfig, served: Sequence[Served]) -> None:
    """Serve until stopped."""
    import uvicorn

    os.environ[f"{_ENVIRONMENT}STORE"] = config.store
    os.environ[f"{_ENVIRONMENT}CHAT"] = json.dumps(
        {"served": [asdict(each) for each in served], "answers": asdict(config.answers)}
    )
    os.environ[f"{_ENVIRONMENT}HOSTS"] = " ".join(_hosts(config))
    os.environ[f"{_ENVIRONMENT}NUMBERS"] = "" if config.public_url or config.host in LOOPBACK else "1"
    os.environ[f"{_ENVIRONMENT}PUBLIC"] = config.public_url
    os.environ[f"{_ENVIRONMENT}MEDIA"] = config.media
    uvicorn.run(
        f"{__name__}:from_environment",
        factory=True,
        host=config.host,
        port=config.port,
        workers=config.workers,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        proxy_headers=bool(config.public_url),
    )


def from_environment() -> FastAPI:
    """The application of one worker process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    given = {
        name: os.environ.get(_ENVIRONMENT + name, "")
        for name in ("STORE", "HOSTS", "NUMBERS", "PUBLIC", "MEDIA", "CHAT")
    }
    store = Store.open(given["STORE"])
    studio = Studio(store)
    return make_app(
        studio,
        hosts=given["HOSTS"].split(),
        numbers=bool(given["NUMBERS"]),
        public_url=given["PUBLIC"],
        media=Path(given["MEDIA"]) if given["MEDIA"] else None,
        chat=_chat_work(studio, given["CHAT"]),
    )


def _chat_work(studio: Studio, given: str) -> ChatWork | None:
    """The models of live chats, as the environment tells of them."""
    told: dict[str, Any] = json.loads(given) if given else {"served": []}
    if not told["served"]:
        return None
    answers = ChatAnswers(**told["answers"])
    responders = [EndpointResponder(Served(**each), answers) for each in told["served"]]
    return ChatWork(studio, responders, patience=60 + answers.attempts * 3 * answers.timeout)


def _greet(studio: Studio, base: str) -> None:
    """Where to go: the one-time link while nobody has an account."""
    print(f"store: {studio.store.label}")
    if accounts.is_set_up(studio):
        print(f"studio: {base}    (Ctrl-C stops it; what was submitted is stored)")
        return
    secret = invitations.invite(studio, "admin", setup=True)
    print("Open this link to choose your login and password. It works once, within a day:\n")
    print(f"    {base}/join/{secret}\n", flush=True)


def _check_address(host: str, port: int) -> None:
    """Listen for a moment, before a link is shown that leads nowhere."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; name another with --port, or stop what listens there"
        ) from error


def _hosts(config: ServeConfig) -> list[str]:
    """Names to answer to: that of `public_url`, or the machine's own; numeric addresses are besides these."""
    named = parsed(config.public_url).hostname
    if named:
        return [named, *LOOPBACK]
    if config.host in LOOPBACK:
        return list(LOOPBACK)
    own = socket.gethostname()
    return list(dict.fromkeys((*LOOPBACK, config.host, own, f"{own}.local", socket.getfqdn())))


def _clear_text(config: ServeConfig) -> str:
    """A warning where passwords and answers would cross a network unprotected."""
    public = parsed(config.public_url)
    if public.scheme == "https" or (public.hostname or config.host) in LOOPBACK:
        return ""
    where = f"public_url is {config.public_url}" if config.public_url else f"host is {config.host}"
    return (
        f"warning: {where}, so others reach this server without TLS: passwords and answers cross the network in clear text.\n"
        "  Put a proxy with TLS before it and name its address, for example --public_url https://label.example.org"
    )


def _shown(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
