"""Other programs are told what happens: signed, until they accept it, and nowhere but where they may be."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import uuid4

import pytest

from prefloop.errors import InputError
from prefloop.studio import audit, outgoing, signing, webhooks
from prefloop.studio.outgoing import NotSent, check_url, is_public, post, read_networks
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from prefloop.studio.webhooks import MOST_ATTEMPTS, Deliveries, claim, deliver
from tests.studio.conftest import Clock
from tests.studio.web import Person, client_of

HERE = (ip_network("127.0.0.1/32"),)


@dataclass
class Receiver:
    """A program that is told things."""

    status: int = 204
    location: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.got.append((dict(self.headers), body))
            self.send_response(made.status)
            if made.location:
                self.send_header("location", made.location)
            self.send_header("content-length", "0")
            self.end_headers()
            made.arrived.set()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/hook?of=studio"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def told(studio: Studio, receiver: Receiver, *actions: str) -> tuple[int, str]:
    return webhooks.add(studio, receiver.url, actions, allowed=HERE, by=None)


def answer_one(studio: Studio) -> None:
    project = studio.create_project(ProjectSettings(name="Compare"))
    studio.add_tasks(project.id, studio.store.add_pairs().ids)
    ann = studio.store.add_annotator("person-1")
    item = studio.lease(project.id, ann)
    assert item is not None
    said = Answer(choice="first", rationale="a secret reason")
    studio.submit(item.token, ann, said, key=uuid4().hex)


# Signatures


def test_a_signature_is_that_of_the_specification() -> None:
    """The example that libraries of the Standard Webhooks specification test themselves with."""
    headers = signing.sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_refuses_what_was_not_signed_so() -> None:
    secret, body = signing.new_secret(), b'{"type": "submit"}'
    headers = signing.sign(secret, "m1", 1000, body)
    assert (
        signing.check(secret, {name.title(): value for name, value in headers.items()}, body, now=1100.0)
        == "m1"
    )
    for other, given, sent, now, why in (
        (signing.new_secret(), headers, body, 1100.0, "not signed with this secret"),
        (secret, headers, body + b" ", 1100.0, "was changed"),
        (secret, headers | {"webhook-id": "m2"}, body, 1100.0, "was changed"),
        (secret, headers | {"webhook-timestamp": "1001"}, body, 1100.0, "was changed"),
        (secret, headers, body, 1301.0, "more than 300 s ago"),
        (secret, headers, body, 699.0, "clocks differ"),
        (secret, {}, body, 1100.0, "is not signed"),
        ("whsec_?", headers, body, 1100.0, "not one of a webhook"),
    ):
        with pytest.raises(InputError, match=why):
            signing.check(other, given, sent, now=now)


# Where they may go


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("93.184.216.34", "2606:4700::1111")),
        *(
            (address, False)
            for address in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254")
        ),
        *(
            (address, False)
            for address in ("100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1")
        ),
        *((address, False) for address in ("::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:8.8.8.8")),
        *((address, False) for address in ("64:ff9b::a00:1", "2002:7f00:1::", "::ffff:127.0.0.1")),
    ],
)
def test_addresses_of_the_internet(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "empty"),
        ("https://a b", "space"),
        ("https://a\r\nX: 1", "special character"),
        ("https://" + "a" * 2000, "longer"),
        ("ftp://example.org", "in full"),
        ("https:///path", "in full"),
        ("https://example.org:99999/", "cannot be read"),
        ("https://user:password@example.org/", "a user"),
        ("https://example.org/#here", "fragment"),
        ("http://example.org/", "no TLS"),
        ("https://127.0.0.1/", "not a public one"),
        ("https://[::ffff:10.0.0.1]/", "not a public one"),
        ("https://169.254.169.254/latest/meta-data", "not a public one"),
    ],
)
def test_addresses_that_are_not_called(url: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_url(url, ())
    with pytest.raises(NotSent, match=why):
        post(url, b"{}", {})


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, ...]) -> list[str]:
    """Names resolve to these addresses, one answer after another; where connections went."""
    left, went = list(answers), list[str]()

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        went.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(outgoing.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(outgoing.socket, "create_connection", connect)
    return went


def test_a_name_is_looked_at_once_and_the_connection_goes_to_what_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    went = resolving(monkeypatch, ("93.184.216.34",), ("127.0.0.1",))
    with pytest.raises(NotSent, match="no answer"):
        post("https://rebinds.example/", b"{}", {})
    assert went == ["93.184.216.34"]


def test_a_name_with_an_address_inside_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    went = resolving(monkeypatch, ("93.184.216.34", "10.0.0.1"), ("127.0.0.1",), ("93.184.216.34",))
    for url in ("https://both.example/", "https://inside.example/"):
        with pytest.raises(NotSent, match="not a public one"):
            post(url, b"{}", {}, allowed=(ip_network("192.168.0.0/16"),))
    with pytest.raises(NotSent, match="no TLS"):
        post("http://public.example/", b"{}", {}, allowed=HERE)
    assert went == []


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.status, receiver.location = 302, receiver.url
    assert post(receiver.url, b"{}", {"content-type": "application/json"}, allowed=HERE) == 302
    assert len(receiver.got) == 1


def test_an_answer_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MOST_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(NotSent, match="no answer"):
            post(f"http://127.0.0.1:{port}/", b"{}", {}, allowed=HERE)


def test_networks_are_read() -> None:
    assert read_networks(["10.0.0.0/8", "::1/128"]) == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    with pytest.raises(InputError, match=r"webhook_networks has '10\.0\.0\.1/8'"):
        read_networks(["10.0.0.1/8"])


# Deliveries


def test_what_happens_is_told_signed_and_without_texts_or_names(studio: Studio, receiver: Receiver) -> None:
    _, secret = told(studio, receiver, "submit")
    answer_one(studio)
    (due,) = claim(studio)
    assert deliver(studio, due, HERE)
    ((headers, body),) = receiver.got
    assert signing.check(secret, headers, body).startswith("prefloop_")
    message = json.loads(body)
    assert (message["type"], message["data"]["entity"]) == ("submit", "assignment")
    assert message["data"]["detail"].keys() == {"project", "task", "judgement", "state"}
    for hidden in ("secret", "question", "answer 0", "policy"):
        assert hidden not in body.decode()
    assert claim(studio) == []
    (after,) = webhooks.webhooks(studio)
    assert (after.waiting, after.failed, after.delivered_at) == (0, 0, studio.clock())


def test_what_is_rolled_back_is_not_told(studio: Studio, receiver: Receiver) -> None:
    told(studio, receiver, "create")
    event: Any = {"now": studio.clock(), "annotator": None, "action": "create", "entity": "project", "id": 1}

    def fails() -> None:
        with studio.write() as session:
            audit.write(session, **event)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert webhooks.webhooks(studio)[0].waiting == 0
    with studio.write() as session:
        audit.write(session, **event)
    assert webhooks.webhooks(studio)[0].waiting == 1


def test_a_message_is_sent_again_later_until_it_was_sent_too_often(
    studio: Studio, receiver: Receiver, clock: Clock
) -> None:
    id, _ = told(studio, receiver, "create")
    studio.create_project(ProjectSettings(name="Compare"))
    receiver.status = 500
    waits = []
    for _ in range(MOST_ATTEMPTS):
        (due,) = claim(studio)
        assert not deliver(studio, due, HERE)
        assert claim(studio) == []  # not at once
        waits.append(webhooks.wait_after(due.attempts).total_seconds())
        clock.forward(6 * 3600)
    assert waits[0] <= 5
    assert 3 * 3600 <= waits[-1] <= 6 * 3600
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    (failed,) = webhooks.webhooks(studio)
    assert (failed.waiting, failed.failed, failed.problem) == (0, 1, "HTTP 500")
    receiver.status = 200
    assert webhooks.retry(studio, id, by=None) == 1
    (due,) = claim(studio)
    assert deliver(studio, due, HERE)
    assert webhooks.webhooks(studio)[0].failed == 0


def test_an_address_that_is_gone_is_told_nothing_more(studio: Studio, receiver: Receiver) -> None:
    told(studio, receiver)
    receiver.status = 410
    (due,) = claim(studio)
    assert not deliver(studio, due, HERE)
    assert not webhooks.webhooks(studio)[0].active
    assert claim(studio) == []


def test_on_each_database_a_delivery_is_one_process_at_a_time(
    on_each: Studio, receiver: Receiver, clock: Clock
) -> None:
    told(on_each, receiver, "create")
    for name in ("A", "B"):
        on_each.create_project(ProjectSettings(name=name))
    (first,) = claim(on_each)
    (second,) = claim(on_each)  # another process: the next message
    assert first.message != second.message
    assert claim(on_each) == []
    clock.forward(webhooks.CLAIM.total_seconds() + 1)
    assert [each.message for each in claim(on_each)] == [first.message]  # its process has died
    assert claim(on_each, busy=(first.webhook,)) == []


def test_the_server_tells_by_itself(studio: Studio, receiver: Receiver) -> None:
    id, _ = told(studio, receiver, "submit")
    running = Deliveries(studio, HERE).start()
    try:
        webhooks.test(studio, id, by=None)
        assert receiver.arrived.wait(20)
    finally:
        running.close()
    assert json.loads(receiver.got[0][1])["type"] == "test webhook"


# Who says so


def test_an_admin_adds_an_address_and_sees_its_secret_once(studio: Studio, receiver: Receiver) -> None:
    boss = Person(studio, "boss", "admin", client=client_of(studio, webhook_networks=HERE))
    made = boss.send("POST", "/webhooks", {"url": receiver.url, "actions": ["submit"]})
    assert made.status_code == 201
    secret = made.json()["secret"]
    listed = boss.send("GET", "/webhooks").text
    assert receiver.url in listed
    assert secret not in listed
    page = boss.client.get("/admin/webhooks").text
    assert "nothing accepted yet" in page
    assert secret not in page
    form = {"csrf": boss.csrf, "url": receiver.url, "submit": "on"}
    assert "whsec_" in boss.client.post("/admin/webhooks", data=form).text
    refused = boss.client.post("/admin/webhooks", data=form | {"url": "https://10.0.0.1/"})
    assert refused.status_code == 422
    assert "not a public one" in refused.text
    id = made.json()["id"]
    assert boss.send("POST", f"/webhooks/{id}/test").status_code == 204
    for what in ("pause", "resume", "test", "retry", "delete"):
        sent = boss.client.post(f"/admin/webhooks/{id}/{what}", data={"csrf": boss.csrf})
        assert sent.status_code == 303, (what, sent.text)
    assert [each["id"] for each in boss.send("GET", "/webhooks").json()] == [id + 1]
    assert boss.send("DELETE", f"/webhooks/{id}").status_code == 404


def test_nobody_else_sees_or_changes_them(studio: Studio, receiver: Receiver) -> None:
    id, _ = told(studio, receiver)
    ann = Person(studio, "ann")
    assert ann.send("GET", "/webhooks").status_code == 403
    assert ann.send("POST", "/webhooks", {"url": "https://example.org"}).status_code == 403
    assert ann.send("DELETE", f"/webhooks/{id}").status_code == 403
    assert ann.client.get("/admin/webhooks").status_code == 403
    assert ann.client.post(f"/admin/webhooks/{id}/delete", data={"csrf": ann.csrf}).status_code == 403
    boss = Person(studio, "boss", "admin", client=ann.client)
    assert boss.client.post(f"/admin/webhooks/{id}/delete", data={"csrf": "x"}).status_code == 403
    assert len(webhooks.webhooks(studio)) == 1
