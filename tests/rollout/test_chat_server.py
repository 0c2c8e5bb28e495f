"""A policy of ours behind the chat completions protocol: the process, its answers, its refusals, and its end."""

import json
import os
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from prefloop.configs.label import ChatAnswers
from prefloop.errors import InputError
from prefloop.models.weights import weights_sha256
from prefloop.records import Message, Prompt
from prefloop.studio.responders import EndpointResponder, NoAnswer, serving, two_answers, unseen
from prefloop.text import encode_prompt, load_tokenizer
from tests.tiny_project import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("served") / "model")


HELLO = [Message(role="user", content="hello")]


def test_a_checkpoint_is_served_from_a_process_that_ends_with_who_started_it(
    model: Path, tmp_path: Path
) -> None:
    answers = ChatAnswers(max_new_tokens=6, device="cpu")
    with serving([str(model)], answers) as (served,):
        assert served.policy == str(model)
        assert served.weights_sha256 == weights_sha256(str(model))
        responder = EndpointResponder(served, answers)
        a, b = two_answers([responder], HELLO)
        assert a.text != b.text
        assert a.policy == served.policy
        assert 1 <= a.tokens <= 6
        assert a.logprob < 0
        # Messages and seed fix the answer.
        assert responder.reply(HELLO, seed=a.seed, show=unseen) == a
        # Streamed and whole are the same answer, and it is seen to grow.
        url = f"{served.base_url}/chat/completions"
        key = {"Authorization": f"Bearer {os.environ[served.key_variable]}"}
        whole = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "seed": a.seed}
        choice = httpx.post(url, json=whole, headers=key).json()["choices"][0]
        assert choice["message"]["content"] == a.text
        assert choice["logprob"] == pytest.approx(a.logprob, abs=1e-4)
        seen = list[str]()
        responder.reply(HELLO, seed=a.seed, show=lambda text: seen.append(text) is None)
        assert seen[-1] == a.text
        assert len(set(seen)) > 2
        assert all(later.startswith(text) for text, later in pairwise(seen))
        cut = responder.reply(HELLO, seed=a.seed, show=lambda text: not text)
        assert a.text.startswith(cut.text)
        assert not cut.ended
        with pytest.raises(NoAnswer, match="too long"):
            responder.reply([Message(role="user", content="word " * 5000)], seed=1, show=unseen)
        assert httpx.post(url, json={"messages": []}).status_code == 401
        refused = httpx.post(url, json={"messages": [], "stream": True}, headers=key)
        assert refused.status_code == 400
        for body in (b"no JSON", b"[]", b"{}", b'{"messages": [{"role": "root", "content": "x"}]}'):
            refused = httpx.post(url, content=body, headers=key)
            assert refused.status_code == 400, body
            assert "error" in json.loads(refused.text)
        asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "stream": False}
        assert httpx.post(url, json=asked, headers=key).status_code == 200
        refused = httpx.post(url, json={**asked, "stop": ["."]}, headers=key)
        assert refused.status_code == 400
        assert "does not support stop" in refused.json()["error"]["message"]
        assert httpx.get(served.base_url, headers=key).status_code == 501
        assert httpx.post(served.base_url, json={}, headers=key).status_code == 404
    with pytest.raises(httpx.TransportError):
        httpx.post(url, json={}, headers=key)


def test_a_model_that_cannot_chat_is_refused_at_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = make_model(tmp_path / "model", chat=False)
    with (
        pytest.raises(InputError, match="cannot be served"),
        serving([str(plain)], ChatAnswers(device="cpu")),
    ):
        pass
    assert "no chat template" in capfd.readouterr().err


def test_an_answer_is_as_long_as_the_models_positions_allow(model: Path) -> None:
    """256 positions and 256 tokens an answer, the usual settings and the models of the recipes."""
    answers = ChatAnswers(device="cpu")
    assert answers.max_new_tokens == 256
    with serving([str(model)], answers) as (served,):
        responder = EndpointResponder(served, answers)
        drawn = [responder.reply(HELLO, seed=seed, show=unseen) for seed in range(4)]
        # Random weights over 300 tokens rarely stop: an answer that was cut fills what the prompt left.
        assert any(not each.ended for each in drawn)
        assert {each.tokens for each in drawn if not each.ended} == {256 - prompt_tokens(model)}


def prompt_tokens(model: Path) -> int:
    return len(encode_prompt(load_tokenizer(model), Prompt(content=tuple(HELLO))))
