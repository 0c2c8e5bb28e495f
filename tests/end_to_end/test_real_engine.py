"""Rollouts drawn by a real vLLM server, where an environment with one is found (`make engine`): weights by each way, and what a server does not say.

The server takes minutes to start on a CPU, so this runs with `make scale-test`, and where PREFLOOP_ENGINE names an environment.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.engine import EngineServeConfig, OnlineSampling
from prefloop.configs.pretrain import Architecture
from prefloop.errors import EngineLost, InputError
from prefloop.models.load import new_language_model, save_policy
from prefloop.rollout.engine import weights
from prefloop.rollout.engine.client import EngineClient
from prefloop.rollout.engine.environment import VARIABLE, find_environment
from prefloop.rollout.engine.routes import ServedWeights
from prefloop.rollout.engine.server import Server, serving
from tests.algorithms.small import metrics_of, sharpen, train
from tests.algorithms.tiny import prompts
from tests.tiny_project import tokenizer

if not os.environ.get(VARIABLE):
    pytest.skip(
        f"{VARIABLE} names no environment with vLLM (`make engine` makes one)", allow_module_level=True
    )
SIZE = Architecture(
    hidden_size=128, layers=2, heads=2, ffn_size=256, vocab_size=300, max_positions=256
)  # vLLM on a CPU wants heads of 32 or more
SAMPLING = OnlineSampling(max_new_tokens=12, temperature=1.3)
_SAMPLING = {field.name for field in fields(OnlineSampling)}
REWARD = "tests.algorithms.tiny:small_letters"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    policy = new_language_model(SIZE, tokenizer(), Compute(device="cpu"), seed=0)
    save_policy(policy, tokenizer(), folder / "start")
    sharpen(folder / "start")
    prompts(folder / "words.jsonl", count=8)
    return folder


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = EngineServeConfig(model=str(project / "start"), port=port, log=str(project / "engine.log"))
    with serving(settings, find_environment("")) as started:
        yield started


def grpo(project: Path, out: Path, server: Server, **changes: Any) -> GRPOConfig:
    """`changes` are fields of the configuration, or of its sampling."""
    drawn = {name: changes.pop(name) for name in list(changes) if name in _SAMPLING}
    basic = GRPOConfig(
        run=RunSettings(out=str(out), seed=1, tune=False),
        data=Data(source=str(project / "words.jsonl"), heldout=0.0),
        model=str(project / "start"),
        reward_model=REWARD,
        sampling=replace(SAMPLING, engine=server.url, **drawn),
        steps=3,
        batch_prompts=4,
        completions_per_prompt=4,
        optim=Optim(lr=1e-2, schedule="constant"),
        compute=Compute(device="cpu"),
    )
    return replace(basic, **changes)


@pytest.mark.parametrize("way", ["adapter", "disk", "gloo"])  # an adapter first: the others change its base
def test_the_engine_has_the_weights_of_each_step(
    project: Path, tmp_path: Path, server: Server, way: str
) -> None:
    train(grpo(project, tmp_path / "run", server, sync=way, lora=LoRA(rank=8 if way == "adapter" else 0)))
    rows = metrics_of(tmp_path / "run")
    assert rows[-1]["kl"] > 1e-3  # so the weights have moved
    assert all(row["engine_gap_max"] < 1e-4 and row["sampler_gap_max"] < 1e-4 for row in rows)


def test_half_of_the_weights_stops_the_run_until_a_whole_update(
    project: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM says 200 to all of it."""
    whole = weights.weights_of
    monkeypatch.setattr(weights, "weights_of", lambda policy, dtype: islice(whole(policy, dtype), 10))
    # The start's first half is what the server may have already.
    with pytest.raises(EngineLost, match=r"weights of step [01] after 2 attempts"):
        train(grpo(project, tmp_path / "half", server, sync="gloo"))
    monkeypatch.undo()
    train(grpo(project, tmp_path / "whole", server, sync="gloo", steps=2))
    assert all(row["engine_gap_max"] < 1e-4 for row in metrics_of(tmp_path / "whole"))


@pytest.mark.parametrize("refused", [True, False], ids=["refused by vLLM", "not ended by the run"])
def test_an_update_that_breaks_off_is_made_good_by_the_next_attempt(
    project: Path, tmp_path: Path, server: Server, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM by itself could then take no other: it keeps the shapes that it refused, or says that an update is under way."""
    deliver, times = weights.MemorySender._deliver, []

    def breaks_off(self: Any, bucket: Any) -> None:
        times.append(len(bucket))
        if len(times) == 2:
            deliver(self, [(name, torch.zeros(3) if refused else value) for name, value in bucket[:5]])
            raise EngineLost("broken off")
        deliver(self, bucket)

    monkeypatch.setattr(weights.MemorySender, "_deliver", breaks_off)
    train(grpo(project, tmp_path / "run", server, sync="gloo"))
    assert len(times) == 4
    assert all(row["engine_gap_max"] < 1e-4 for row in metrics_of(tmp_path / "run"))


def test_interrupted_completions_go_on_with_the_new_weights(
    project: Path, tmp_path: Path, server: Server
) -> None:
    """With a learning rate of almost nothing all versions are the trainer's weights, whatever has drawn a token."""
    sampling = {"sync": "gloo", "staleness": 2, "partial": True, "max_new_tokens": 200}
    still = Optim(lr=1e-12, schedule="constant")
    train(grpo(project, tmp_path / "run", server, **sampling, steps=5, optim=still))
    rows = metrics_of(tmp_path / "run")
    assert sum(row["engine_interrupted"] for row in rows) > 0
    assert all(row["sampler_gap_max"] < 1e-4 for row in rows)


def test_a_tied_head_that_is_not_sent_stops_the_run(
    project: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM keeps the old head, says 200, and has a line in its log."""
    monkeypatch.setattr(weights, "add_tied_head", lambda policy, folder: None)
    with pytest.raises(
        # The step is 0 where an earlier run has left its head.
        EngineLost,
        match=r"weights of step [01] after 2 attempts: log-probabilities of start differ",
    ):
        train(grpo(project, tmp_path / "run", server, sync="disk"))


def test_completions_of_a_prompt_differ_and_come_again_by_their_seed(
    project: Path, server: Server
) -> None:  # D7
    client = EngineClient(server.url, minutes=2)
    asked: dict[str, Any] = {
        "weights": lambda: ServedWeights(name=client.about().model, adapter=False, version=0),
        "k": 8,
        "stop_ids": [tokenizer().eos_token_id],
        "sampling": SAMPLING,
        "seed": 3,
    }
    ids = tokenizer()("ba", add_special_tokens=False).input_ids
    first, other = client.sample([ids, ids], row_keys=[0, 1], **asked)
    texts = {tuple(one.tokens) for one in (*first, *other)}
    assert len(texts) == 16
    (again,) = client.sample([ids], row_keys=[1], **asked)
    assert [one.tokens for one in again] == [one.tokens for one in other]
    with pytest.raises(InputError, match="refuses /v1/completions with HTTP 404"):
        client.sample(
            [ids],
            row_keys=[0],
            **{**asked, "weights": lambda: ServedWeights(name="none", adapter=False, version=0)},
        )
    client.close()
