"""Implicit Q-learning: what its heads learn steers what is drawn from the saved folder; without beta that is the plain policy."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefloop.algorithms.sample import sample_completions
from prefloop.configs.common import Data, Optim, RunSettings, Sampling
from prefloop.configs.ilql import ILQLConfig
from prefloop.configs.sample import SampleConfig
from prefloop.data.store import Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.models.load import load_policy
from prefloop.models.q_heads import FOLDER, load_q_heads
from prefloop.records import Completion
from tests.algorithms import tiny
from tests.algorithms.small import weights_of, write
from tests.algorithms.tiny import CPU, WORDS, logged, prompts

FAST = Optim(lr=1e-2, schedule="linear")
TEMPLATE = ("oo", "oa", "ao", "aa")


def data(file: Path) -> Path:
    """Every two letters of o and a after every word, as often; the score is how many a there are."""
    write(
        file,
        [
            {"prompt": word, "completion": text, "score": float(text.count("a"))}
            for word in WORDS[:12]
            for text in TEMPLATE
        ],
    )
    return file


def config(project: Path, tmp_path: Path, **changes: Any) -> ILQLConfig:
    basic = ILQLConfig(
        run=RunSettings(out=str(tmp_path / "run"), seed=1),
        data=Data(source=str(data(tmp_path / "scores.jsonl")), heldout=0.0),
        model=str(project / "start"),
        batch_size=24,
        epochs=50,
        target_rate=0.2,
        optim=FAST,
        heads_optim=FAST,
        compute=CPU,
    )
    return replace(basic, **changes)


def drawn(model: Path, tmp_path: Path, store: str, **changes: Any) -> list[Completion]:
    settings = SampleConfig(
        model=str(model),
        data=Data(source=str(prompts(tmp_path / "prompts.jsonl", 12)), heldout=0.0),
        store=str(tmp_path / store),
        completions_per_prompt=8,
        sampling=Sampling(max_new_tokens=4),
        compute=CPU,
    )
    sample_completions(replace(settings, **changes))
    with Store.open(settings.store, create=False) as opened:
        return opened.completions()


def sha256_of(store: Path, policy: str) -> str:
    """The store's identity of a policy."""
    with Store.open(str(store), create=False) as opened:
        return lineage(opened, policy).facts["weights_sha256"]


def letters(completions: Sequence[Completion]) -> float:
    return sum(one.text.count("a") for one in completions) / len(completions)


@tiny.seeds(1, 2, 3)
def test_it_learns_and_more_beta_is_better(seed: int, project: Path, tmp_path: Path):
    """The data has one a of two on average; by Q nearly all are found, though the policy was trained on good and bad alike."""
    rows = logged(config(project, tmp_path, run=RunSettings(out=str(tmp_path / "run"), seed=seed)))
    assert rows[0]["cql"] == pytest.approx(
        2
        * torch.log(
            torch.tensor(float(load_q_heads(tmp_path / "run/final", torch.device("cpu")).vocabulary))
        ).item(),
        abs=1e-3,
    )
    final = tmp_path / "run/final"
    found = [letters(drawn(final, tmp_path, f"{beta}.db", ilql_beta=beta)) for beta in (0.0, 1.0, 8.0)]
    assert found[0] == pytest.approx(1.0, abs=0.35)
    assert found[0] + 0.1 < found[1] < found[2]
    assert found[2] > 1.7


def test_beta_zero_draws_what_the_plain_policy_draws(project: Path, tmp_path: Path):
    """The folder is an ordinary causal model with heads beside it; what beta draws is another policy to the store."""
    logged(config(project, tmp_path, max_steps=3))
    final = tmp_path / "run/final"
    assert {file.name for file in (final / FOLDER).iterdir()} == {"heads.safetensors", "config.json"}
    without = tmp_path / "without"
    without.mkdir()
    for file in final.iterdir():
        if file.is_file():
            (without / file.name).write_bytes(file.read_bytes())
    plain, zero = drawn(without, tmp_path, "plain.db"), drawn(final, tmp_path, "zero.db")
    assert [one.text for one in plain] == [one.text for one in zero]
    steered = drawn(final, tmp_path, "zero.db", ilql_beta=4.0)
    assert len(steered) == 2 * len(zero)
    assert len({one.policy for one in steered}) == 2
    assert len(drawn(final, tmp_path, "zero.db", ilql_beta=4.0)) == len(steered)  # drawn already
    stronger = drawn(final, tmp_path, "zero.db", ilql_beta=5.0)
    assert len(stronger) == 3 * len(zero)
    # Each beta, and each heads, is a policy of its own, not a name for the same one.
    other = tmp_path / "other"
    shutil.copytree(final, other)
    heads = {name: tensor + 1 for name, tensor in load_file(final / FOLDER / "heads.safetensors").items()}
    save_file(heads, other / FOLDER / "heads.safetensors")
    others = drawn(other, tmp_path, "other.db", ilql_beta=4.0)
    found = {sha256_of(tmp_path / "zero.db", one.policy) for one in stronger}
    assert len(found) == 3
    assert not found & {sha256_of(tmp_path / "other.db", one.policy) for one in others}
    with pytest.raises(InputError, match="has no Q heads"):
        drawn(without, tmp_path, "none.db", ilql_beta=1.0)


def test_without_likelihood_and_critic_gradients_nothing_of_the_policy_moves(project: Path, tmp_path: Path):
    logged(config(project, tmp_path, max_steps=2, optim=replace(FAST, lr=0.0)))
    before, after = (load_policy(str(folder), CPU) for folder in (project / "start", tmp_path / "run/final"))
    for (name, a), (_, b) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    heads = weights_of(tmp_path / "run/final" / FOLDER)
    assert any(tensor.any() for name, tensor in heads.items() if "target" in name and "outer.weight" in name)


def test_the_last_tokens_value_is_its_reward(project: Path, tmp_path: Path):
    """Whitened: one a of two is the mean, 0. After the stop token nothing follows."""
    rows = logged(config(project, tmp_path, tau=0.5, epochs=60))
    assert abs(rows[-1]["v"]) < 0.25
    assert abs(rows[-1]["advantage"]) < 0.25
    assert rows[-1]["nll"] < rows[0]["nll"]


def test_scores_that_are_all_equal_are_refused(project: Path, tmp_path: Path):
    write(tmp_path / "equal.jsonl", [{"prompt": word, "completion": "a", "score": 2} for word in WORDS[:4]])
    with pytest.raises(InputError, match="all 4 scores are 2"):
        logged(config(project, tmp_path, data=Data(source=str(tmp_path / "equal.jsonl"), heldout=0.0)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tau": 1.0}, "tau is 1.0"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"target_rate": 0.0}, "target_rate is 0.0"),
        ({"cql_coef": -0.1}, "cql_coef is -0.1"),
        ({"heads_optim": Optim(max_grad_norm=2.0)}, "give both the same"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], named: str):
    with pytest.raises(InputError, match=named):
        ILQLConfig(run=RunSettings(out="x"), data=Data(source="y"), model="m", **changes)
