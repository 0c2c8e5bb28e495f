"""The endpoint against a real server on loopback, with everything that goes wrong."""

import time
from email.utils import formatdate
from pathlib import Path

import pytest

from prefloop.configs.judge import RequestFields, ScorerConfig
from prefloop.errors import InputError
from prefloop.feedback.judges import (
    Cached,
    CallFailed,
    Endpoint,
    Limits,
    OverBudget,
    RequestForm,
    open_endpoint,
)
from prefloop.records import Message
from tests.feedback.judges.server import Server, answer

ASK = (Message(role="user", content="1 or 2?"),)
FAST = Limits(first_wait=0.001, attempts=4, timeout=5.0)


def test_an_answer_with_its_tokens(server: Server):
    server.judge = lambda request: answer("1", {"1": 0.75, " 2": 0.25}, tokens=(1000, 10))
    with Endpoint(server.url, "m", key="secret", limits=Limits(price_in=2.0, price_out=10.0)) as endpoint:
        reply = endpoint.complete(ASK, max_tokens=1)
    assert reply.text == "1"
    assert set(reply.first_token) == {"1", " 2"}
    assert endpoint.spent.cost == pytest.approx((1000 * 2 + 10 * 10) / 1e6)
    (request,) = server.requests
    assert request["messages"] == [{"role": "user", "content": "1 or 2?"}]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("m", 1, 0.0)
    assert (request["logprobs"], request["top_logprobs"]) == (True, 20)
    assert server.keys == ["Bearer secret"]
    assert "secret" not in repr(endpoint.identity)


@pytest.mark.parametrize(
    "fault",
    [
        (429, b"slow down", {}),
        (500, b"oops", {}),
        (503, b"", {}),
        (408, b"", {}),
        (200, b'{"choices": [{"message": {"content": "1', {}),  # cut off in the middle
        (200, b'{"choices": [{"mess', {"content-length": "500"}),  # and the connection with it
        (200, b"<html>a proxy's page</html>", {}),
        (200, b'{"choices": []}', {}),
        (200, b'{"error": "overloaded"}', {}),
        (200, b'{"choices": [{"message": {"content": null}}]}', {}),
    ],
)
def test_what_is_tried_again(server: Server, fault):
    server.faults = [fault, fault]
    with Endpoint(server.url, "m", limits=FAST) as endpoint:
        assert endpoint.complete(ASK, max_tokens=1).text == "1"
    assert len(server.requests) == 3
    assert (endpoint.spent.calls, endpoint.spent.retries) == (3, 2)
    assert sum(endpoint.spent.failures.values()) == 2
    assert endpoint.spent.prompt_tokens == 100  # of the answer alone


def test_a_timeout_is_tried_again(server: Server):
    server.faults = [1.0]
    with Endpoint(server.url, "m", limits=Limits(first_wait=0.001, timeout=0.2)) as endpoint:
        assert endpoint.complete(ASK, max_tokens=1).text == "1"
    assert endpoint.spent.failures == {"ReadTimeout": 1}


def test_attempts_end(server: Server):
    server.faults = [(500, b"still\nbroken", {})] * 4
    with (
        Endpoint(server.url, "m", limits=FAST) as endpoint,
        pytest.raises(CallFailed, match=r"4 attempts failed.*HTTP 500: still broken"),
    ):
        endpoint.complete(ASK, max_tokens=1)
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_another_attempt_would_not_change(server: Server, status: int):
    server.faults = [(status, b"no such model", {})]
    with (
        Endpoint(server.url, "m", key="secret", limits=FAST) as endpoint,
        pytest.raises(InputError, match=f"HTTP {status}: no such model") as error,
    ):
        endpoint.complete(ASK, max_tokens=1)
    assert len(server.requests) == 1
    assert "secret" not in str(error.value)


def test_nobody_listens():
    with (
        Endpoint("http://127.0.0.1:9", "m", limits=FAST) as endpoint,
        pytest.raises(CallFailed, match="ConnectError"),
    ):
        endpoint.complete(ASK, max_tokens=1)


def test_waits_double_and_the_servers_word_counts(server: Server):
    waits: list[float] = []
    server.faults = [
        (500, b"", {}),
        (500, b"", {}),
        (429, b"", {"retry-after": "17"}),
        (429, b"", {"retry-after": formatdate(time.time() + 30, usegmt=True)}),
        (429, b"", {"retry-after": "9999"}),
    ]
    with Endpoint(server.url, "m", limits=Limits(attempts=6, first_wait=1.0), sleep=waits.append) as endpoint:
        endpoint.complete(ASK, max_tokens=1)
    assert 0.5 <= waits[0] <= 1.5
    assert 1.0 <= waits[1] <= 3.0
    assert waits[2] == 17
    assert 20 < waits[3] <= 31
    assert waits[4] == 60


def test_the_rate_is_held(server: Server):
    waits: list[float] = []
    with Endpoint(
        server.url, "m", limits=Limits(per_minute=120), sleep=waits.append, clock=lambda: 0.0
    ) as endpoint:
        for _ in range(3):
            endpoint.complete(ASK, max_tokens=1)
    assert waits == [0.5, 1.0]  # the clock stands still, so each one waits for its place


def test_the_budget_is_held(server: Server):
    with Endpoint(server.url, "m", limits=Limits(max_calls=2)) as endpoint:
        endpoint.complete(ASK, max_tokens=1)
        endpoint.complete(ASK, max_tokens=1)
        with pytest.raises(OverBudget, match="max_calls is 2"):
            endpoint.complete(ASK, max_tokens=1)
    assert len(server.requests) == 2
    with Endpoint(server.url, "m", limits=Limits(max_cost=0.0001, price_in=1.0)) as endpoint:
        endpoint.complete(ASK, max_tokens=1)  # 100 tokens cost 0.0001
        with pytest.raises(OverBudget, match=r"max_cost is 0\.0001"):
            endpoint.complete(ASK, max_tokens=1)
    with pytest.raises(InputError, match="without a price"):
        Limits(max_cost=1.0)


def test_answers_are_kept_by_content(server: Server, tmp_path: Path):
    path = tmp_path / "deep" / "cache.db"
    with Endpoint(server.url, "m") as endpoint:
        first = Cached(endpoint, path).complete(ASK, max_tokens=1)
    with Endpoint(server.url, "m") as endpoint:
        cached = Cached(endpoint, path)
        assert cached.complete(ASK, max_tokens=1) == first
        assert (cached.hits, endpoint.spent.calls) == (1, 0)
        cached.complete((Message(role="user", content="1 or 2? "),), max_tokens=1)  # another question
        cached.complete(ASK, max_tokens=2)
        assert endpoint.spent.calls == 2
    for other in (Endpoint(server.url, "n"), Endpoint(server.url, "m", form=RequestForm(temperature=1.0))):
        with other:
            Cached(other, path).complete(ASK, max_tokens=1)
            assert other.spent.calls == 1  # another model, or sampled otherwise


def test_a_failure_is_not_kept(server: Server, tmp_path: Path):
    server.faults = [(500, b"", {})] * 4
    with Endpoint(server.url, "m", limits=FAST) as endpoint:
        cached = Cached(endpoint, tmp_path / "c.db")
        with pytest.raises(CallFailed):
            cached.complete(ASK, max_tokens=1)
        assert cached.complete(ASK, max_tokens=1).text == "1"


def test_a_file_that_is_no_cache(tmp_path: Path, server: Server):
    (tmp_path / "c.db").write_text("this is text, and more of it than a header has " * 10)
    with Endpoint(server.url, "m") as endpoint, pytest.raises(InputError, match="cannot be used"):
        Cached(endpoint, tmp_path / "c.db")


def test_an_address_that_is_none():
    with pytest.raises(InputError, match="must begin with http"):
        Endpoint("localhost:8000", "m")


def test_fields_of_the_request(server: Server):
    """Models that reason want another name for the limit, room in it, and no temperature."""
    request = RequestFields(
        max_tokens=2000,
        limit_field="max_completion_tokens",
        extra=(
            "reasoning_effort=low",
            "top_p=0.9",
            "temperature=null",
            "logprobs=null",
            'metadata={"a": [1]}',
        ),
    )
    config = ScorerConfig(base_url=server.url, model="m", request=request)
    with open_endpoint(config) as endpoint:
        endpoint.complete(ASK, max_tokens=1)
    (sent,) = server.requests
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "1 or 2?"}],
        "max_completion_tokens": 2000,
        "reasoning_effort": "low",
        "top_p": 0.9,
        "metadata": {"a": [1]},
    }


def test_the_cache_and_the_annotator_know_the_fields(server: Server, tmp_path: Path):
    """Another limit, temperature or field is another question; without any, answers kept before there were such settings are found."""
    settings = [
        RequestFields(),
        RequestFields(max_tokens=50),
        RequestFields(temperature=0.5),
        RequestFields(extra=("top_p=0.9",)),
    ]
    identities = []
    for request in settings:
        with open_endpoint(ScorerConfig(base_url=server.url, model="m", request=request)) as endpoint:
            identities.append(endpoint.identity)
            for _ in range(2):
                Cached(endpoint, tmp_path / "cache.db").complete(ASK, max_tokens=1)
    assert len(server.requests) == len(settings)
    assert [sent["temperature"] for sent in server.requests] == [0.0, 0.0, 0.5, 0.0]
    assert [sent["max_tokens"] for sent in server.requests] == [1, 50, 1, 1]
    assert set(identities[0]) == {"base_url", "model", "temperature", "logprobs"}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("effort", "write NAME=VALUE"),
        ("max_tokens=5", "request.extra has 'max_tokens=5'; set request.max_tokens"),
        ("max_completion_tokens=5", "set request.max_tokens and request.limit_field"),
        ("temperature=1", "set request.temperature"),
        ("n=2", "one answer is read"),
        ("messages=[]", "they are the question"),
    ],
)
def test_fields_that_have_a_setting_of_their_own(extra: str, said: str):
    with pytest.raises(InputError, match=said):
        RequestFields(extra=(extra,))
    with pytest.raises(InputError, match="temperature=null; leave one of them out"):
        RequestFields(temperature=0.5, extra=("temperature=null",))
    with pytest.raises(InputError, match="request applies to an address"):
        ScorerConfig(checkpoint="m", request=RequestFields(max_tokens=5))


def test_an_answer_without_text_is_billed(server: Server):
    """All tokens went into reasoning: tried again as before, and every try is counted with its tokens and its cost."""
    empty = b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}], "usage": {"prompt_tokens": 100, "completion_tokens": 64}}'
    server.faults = [(200, empty, {})] * 3
    limits = Limits(first_wait=0.001, attempts=3, timeout=5.0, price_in=1.0, price_out=10.0)
    with Endpoint(server.url, "m", limits=limits) as endpoint:
        with pytest.raises(
            CallFailed, match=r"64 tokens without text \(finish_reason length\); raise request.max_tokens"
        ):
            endpoint.complete(ASK, max_tokens=1)
        spent = endpoint.spent
    assert (spent.prompt_tokens, spent.completion_tokens) == (300, 192)
    assert spent.cost == pytest.approx((300 * 1 + 192 * 10) / 1e6)
    assert spent.failures == {"answer without text": 3}
