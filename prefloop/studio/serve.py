"""`prefloop label serve`: from an empty folder to the first comparison on the screen."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from prefloop.configs.label import ChatAnswers, ServeConfig
from prefloop.configs.sign_in import SignIn
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.studio import accounts, demo, invitations
from prefloop.studio.app import make_app
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.oidc import Provider
from prefloop.studio.outgoing import read_networks
from prefloop.studio.pages_oidc import offer
from prefloop.studio.pages_runs import follow_runs
from prefloop.studio.prefix import parsed
from prefloop.studio.responders import EndpointResponder, Served, serving
from prefloop.studio.run_folders import RunFolders
from prefloop.studio.security import Hosts
from prefloop.studio.service import Studio
from prefloop.studio.telemetry import (
    Watch,
    counting,
    log_request,
    parse_address,
    serving_metrics,
    set_up_logs,
)
from prefloop.studio.webhooks import Deliveries

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ENVIRONMENT = "PREFLOOP_STUDIO_"
"""What worker processes are told, by environment: they import the application themselves."""
SHUTDOWN_SECONDS = 10
IDLE_SECONDS = 75
"""A connection is kept this long between two answers: people read for longer than the five seconds that uvicorn waits."""


def serve(config: ServeConfig) -> None:
    """Prepare the store, say where to go, and serve until stopped.

    Raises:
        InputError: The address is taken, or is none of this machine's, or there is no folder of runs; nothing is made then.
    """
    _check_address(config.host, config.port)
    watched = parse_address(config.metrics)
    read_networks(config.webhook_networks)
    if config.runs:
        RunFolders(Path(config.runs))
    address = Address(host=config.host, port=config.port, public=config.public_url)
    provider_of(asdict(config.oidc))  # says now what could not work later
    with serving(config.chat, config.answers) as served, Store.open(config.store) as store:
        studio = Studio(store)
        for name in config.oidc.projects:
            studio.find_project(name)
        if config.demo:
            print(_fill(store))
        if store.counts()["completion"]:
            demo.first_project(studio)
        if served:
            demo.chat_project(studio)
        _greet(studio, address.base)
        if warning := address.clear_text():
            print(warning, flush=True)
        told = {
            "STORE": config.store,
            "CHAT": json.dumps(
                {
                    "served": [asdict(replace(link, policy=store.name_of(link.policy))) for link in served],
                    "answers": asdict(config.answers),
                }
            ),
            "HOSTS": " ".join(address.names()),
            "NUMBERS": _flag(address.by_number),
            "PUBLIC": config.public_url,
            "MEDIA": config.media,
            "RUNS": config.runs,
            "OIDC": json.dumps(asdict(config.oidc)),
            "METRICS": config.metrics,
            "WEBHOOK_NETWORKS": " ".join(config.webhook_networks),
            "LOG_FORMAT": config.log_format,
            "LOG_REQUESTS": _flag(config.log_requests),
        }
        with serving_metrics(watched, store):
            _run(address, told, workers=config.workers)


def _flag(on: bool) -> str:
    """As an environment variable."""
    return "1" if on else ""


def _fill(store: Store) -> str:
    """Put the toy world's questions into an empty store; what was done."""
    there = store.counts()["completion"]
    if there:
        return f"{store.label}: holds {there} completions already, so demo adds none"
    return f"{store.label}: {demo.fill(store)} questions of the toy world, with two replies each"


def _run(address: "Address", told: Mapping[str, str], *, workers: int) -> None:
    """Serve until stopped; `told` is what every worker process must know."""
    import uvicorn

    os.environ.update({f"{_ENVIRONMENT}{name}": value for name, value in told.items()})
    set_up_logs(json=told["LOG_FORMAT"] == "json")
    uvicorn.run(
        f"{__name__}:from_environment",
        factory=True,
        host=address.host,
        port=address.port,
        workers=workers,
        log_level="warning",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        timeout_keep_alive=IDLE_SECONDS,
        proxy_headers=bool(address.public),
    )


def from_environment() -> FastAPI:
    """The application of one worker process."""
    given = {
        name.removeprefix(_ENVIRONMENT): value
        for name, value in os.environ.items()
        if name.startswith(_ENVIRONMENT)
    }
    set_up_logs(json=given["LOG_FORMAT"] == "json")
    watches: list[Watch] = [log_request] if given["LOG_REQUESTS"] else []
    if given["METRICS"]:
        watches.append(counting())
    store = Store.open(given["STORE"])
    studio = Studio(store)
    networks = read_networks(given["WEBHOOK_NETWORKS"].split())
    Deliveries(studio, networks).start()  # its thread ends with the process
    app = make_app(
        studio,
        hosts=Hosts.of(*given["HOSTS"].split(), numbers=bool(given["NUMBERS"])),
        public_url=given["PUBLIC"],
        media=Path(given["MEDIA"]) if given["MEDIA"] else None,
        chat=_chat_work(studio, given["CHAT"]),
        watches=watches,
        webhook_networks=networks,
    )
    follow_runs(app, RunFolders(Path(given["RUNS"])) if given["RUNS"] else None)
    provider = provider_of(json.loads(given["OIDC"]))
    if provider is not None:
        offer(app, provider)
    return app


def provider_of(given: Mapping[str, Any]) -> Provider | None:
    """Who signs people in; None without one."""
    return Provider(SignIn(**given)) if given["issuer"] else None


def _chat_work(studio: Studio, given: str) -> ChatWork | None:
    """The models of live chats, as the environment tells of them."""
    told: dict[str, Any] = json.loads(given) if given else {"served": []}
    if not told["served"]:
        return None
    answers = ChatAnswers(**told["answers"])
    responders = [EndpointResponder(Served(**chat), answers) for chat in told["served"]]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where the studio listens, and where people find it."""

    host: str
    port: int
    public: str
    """Address before a proxy; empty if there is none."""

    def __post_init__(self) -> None:
        parsed(self.public)

    @property
    def base(self) -> str:
        """What its links begin with."""
        return self.public.rstrip("/") or f"http://{_shown(self.host)}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether nobody but this machine reaches it."""
        return (parsed(self.public).hostname or self.host) in LOOPBACK

    @property
    def by_number(self) -> bool:
        """Whether people may come by the machine's numeric address."""
        return not self.public and not self.local

    def names(self) -> list[str]:
        """Names to answer to: the public one, or the machine's own; numeric addresses are besides these."""
        named = parsed(self.public).hostname
        if named:
            return [named, *LOOPBACK]
        if self.local:
            return list(LOOPBACK)
        own = socket.gethostname()
        return list(dict.fromkeys((*LOOPBACK, self.host, own, f"{own}.local", socket.getfqdn())))

    def clear_text(self) -> str:
        """A warning where passwords and answers would cross a network unprotected; else empty."""
        if parsed(self.public).scheme == "https" or self.local:
            return ""
        where = f"public_url is {self.public}" if self.public else f"host is {self.host}"
        return (
            f"warning: {where}, so other machines reach this server without TLS: passwords and answers are sent unencrypted.\n"
            "  Put a TLS proxy in front of it and name its address, for example --public_url https://label.example.org"
        )


def _shown(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
