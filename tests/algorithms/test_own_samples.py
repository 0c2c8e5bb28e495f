"""Expert iteration and online DPO learn, keep what they should keep, and begin where they must."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefloop.algorithms import expert, online_dpo
from prefloop.configs.common import RunSettings, Sampling
from prefloop.configs.own_samples import ExpertConfig, OnlineDPOConfig
from prefloop.configs.ppo import ScoreShaping
from prefloop.errors import InputError
from prefloop.loop import online
from prefloop.models.load import load_policy
from prefloop.models.packing import pack
from prefloop.models.roles import Policy
from prefloop.runtime import World
from tests.algorithms import tiny
from tests.algorithms.tiny import CPU, FAST, logged

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def shared(project: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """From a model that has learned nothing, towards small letters."""
    of_ppo = tiny.ppo(project, out)
    settings = {
        "run": of_ppo.run,
        "data": of_ppo.data,
        "model": of_ppo.model,
        "reward_model": of_ppo.reward_model,
        "sampling": of_ppo.sampling,
        "steps": 1,
        "batch_prompts": 16,
        "optim": FAST,
        "compute": CPU,
    }
    return settings | changes


@tiny.seeds(1, 2, 3)
@pytest.mark.parametrize("keep", ["best", "above"])
def test_expert_iteration_learns(keep: Any, seed: int, project: Path, tmp_path: Path):
    config = ExpertConfig(
        **shared(project, tmp_path, steps=12, run=RunSettings(out=str(tmp_path / "run"), seed=seed)),
        completions_per_prompt=4,
        keep=keep,
        quantile=0.75,
        minibatches=2,
    )
    rows = logged(config)
    assert sum(row["score"] for row in rows[-3:]) / 3 > rows[0]["score"] + 1.0
    assert all(row["score_kept"] >= row["score"] for row in rows)
    if keep == "best":
        assert rows[0]["kept"] == 0.25
        assert rows[0]["best_of_kl"] == pytest.approx(0.6363, abs=1e-4)  # log 4 - 3/4
    else:
        assert rows[0]["kept"] >= 0.25  # of equal scores all are kept


def test_what_is_kept_by_hand():
    scores = torch.tensor([[0.0, 2.0, 1.0], [3.0, 3.0, -1.0]])
    assert expert.best_of(scores) == [(0, 1), (1, 0)]
    assert expert.above(scores, 0.5, ALONE) == [(0, 1), (1, 0), (1, 1)]
    assert np.quantile([0, 2, 1, 3, 3, -1], 0.5, method="higher") == 2


def shared_names() -> dict[str, Any]:
    return {"run": RunSettings(out="x"), "data": tiny.Data(source="y"), "model": "m", "reward_model": "r"}


def test_another_likelihood_than_the_samplers_stops_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # D2 K1
    """The model learns from tokens that are not those it drew."""
    real = expert.alone

    def moved(group: Any, sample: int) -> Any:
        return real(group, (sample + 1) % len(group.completions))

    monkeypatch.setattr(expert, "alone", moved)
    config = ExpertConfig(
        **shared(project, tmp_path / "run", model=str(project / "stopping/final")),
        completions_per_prompt=4,
    )
    with pytest.raises(InputError, match="step 0: nll is"):
        logged(config)


@tiny.seeds(1, 2, 3)
@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_online_dpo_learns(alpha: float, seed: int, project: Path, tmp_path: Path):
    config = OnlineDPOConfig(
        **shared(project, tmp_path, steps=20, run=RunSettings(out=str(tmp_path / "run"), seed=seed)),
        beta=0.1,
        xpo_alpha=alpha,
        minibatches=2,
    )
    rows = logged(config)
    # With XPO half of the completions are the reference's, which do not get better.
    gain = 1.0 if alpha == 0 else 0.5
    assert sum(row["score"] for row in rows[-3:]) / 3 > rows[0]["score"] + gain
    assert abs(rows[0]["kl"]) < 1e-4
    assert rows[-1]["kl"] > 0.1
    assert ("xpo" in rows[0]) == (alpha > 0)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """(reference, rollout, scores, pairs) of every step."""
    seen: list[tuple[Any, ...]] = []
    roles: list[Any] = []
    real, real_logprobs = online_dpo._compare, online_dpo.logprobs_of

    def logprobs(policies: Any, *rest: Any, **options: Any) -> Any:
        roles[:] = policies
        return real_logprobs(policies, *rest, **options)

    def compare(rollout: Any, scores: Any, *rest: Any, **options: Any) -> Any:
        pairs = real(rollout, scores, *rest, **options)
        seen.append((roles[1], rollout, scores, pairs))
        return pairs

    monkeypatch.setattr(online_dpo, "logprobs_of", logprobs)
    monkeypatch.setattr(online_dpo, "_compare", compare)
    return seen


def has_an_e(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """0 or 1."""
    return [float("e" in text or "a" in text) for text in completions]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_higher_score_is_chosen_and_ties_are_left_out(
    alpha: float, project: Path, tmp_path: Path, judged: list[tuple[Any, ...]]
):
    config = OnlineDPOConfig(
        **shared(project, tmp_path / "run", reward_model="tests.algorithms.test_own_samples:has_an_e"),
        xpo_alpha=alpha,
    )
    (row,) = logged(config)
    ((reference, rollout, scores, pairs),) = judged
    rows = scores.view(-1, 2)
    differ = (rows[:, 0] != rows[:, 1]).nonzero().flatten().tolist()
    assert 0 < len(differ) < len(rows)
    assert row["equal"] == pytest.approx(1 - len(differ) / len(rows))
    assert pairs.places == pairs.everyone == differ
    for group, i, foreign in zip(pairs.groups, differ, pairs.foreign.tolist(), strict=True):
        chosen = int(rows[i].argmax())
        drawn = rollout.groups[i].completions
        assert group.completions == (drawn[chosen], drawn[1 - chosen])
        # The second completion drawn is the reference's where XPO asks for one.
        assert foreign == ([float(chosen == 1), float(chosen == 0)] if alpha else [0.0, 0.0])
    with torch.no_grad():
        theirs = reference(pack(pairs.groups, "cpu"), temperature=config.sampling.temperature)
    torch.testing.assert_close(theirs.sum(1).view(-1, 2), pairs.reference, rtol=1e-4, atol=1e-4)


def letters(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """More of them are better, before lengths are paid for."""
    return [float(len(text)) for text in completions]


LENGTHS_COST = ScoreShaping(length_penalty=100.0)


def test_the_choice_goes_by_shaped_scores(project: Path, tmp_path: Path, judged: list[tuple[Any, ...]]):
    """Where a token costs more than it brings, the shorter completion is chosen, and the worse ones by score are kept."""
    settings = {
        "model": str(project / "stopping/final"),
        "reward_model": "tests.algorithms.test_own_samples:letters",
        "reward": LENGTHS_COST,
    }
    logged(OnlineDPOConfig(**shared(project, tmp_path / "dpo", **settings)))
    pairs = judged[0][-1]
    lengths = [[len(completion) for completion in group.completions] for group in pairs.groups]
    assert any(chosen < rejected for chosen, rejected in lengths)
    assert all(chosen <= rejected for chosen, rejected in lengths)
    for keep in ("best", "above"):
        folder = tmp_path / keep
        config = ExpertConfig(
            **shared(project, folder, run=RunSettings(out=str(folder)), **settings),
            completions_per_prompt=4,
            keep=keep,
        )
        (row,) = logged(config)
        assert row["score_kept"] < row["score"]


def test_where_all_scores_tie_no_update_is_made(project: Path, tmp_path: Path):
    config = OnlineDPOConfig(
        **shared(project, tmp_path / "run", reward_model="tests.algorithms.test_critic_free:nothing_matters")
    )
    (row,) = logged(config)
    assert row["equal"] == 1
    assert "loss" not in row


def test_a_wrong_reference_stops_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # K9
    other = load_policy(str(project / "other"), CPU)
    monkeypatch.setattr(online, "reference_of", lambda *_: other)
    with pytest.raises(InputError, match="step 0: kl is"):
        logged(OnlineDPOConfig(**shared(project, tmp_path / "run")))


def test_a_forgotten_temperature_stops_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # K1
    real = Policy.forward

    def forgetful(self: Policy, batch: Any, *, temperature: float = 1.0) -> Any:
        return real(self, batch, temperature=1.0 if torch.is_grad_enabled() else temperature)

    monkeypatch.setattr(Policy, "forward", forgetful)
    config = OnlineDPOConfig(
        **shared(
            project,
            tmp_path / "run",
            model=str(project / "stopping/final"),
            sampling=Sampling(max_new_tokens=5, temperature=0.5),
        ),
        beta=1.0,
    )
    with pytest.raises(InputError, match="step 0: dpo is"):
        logged(config)


@pytest.mark.parametrize(
    ("cls", "changes", "named"),
    [
        (ExpertConfig, {"completions_per_prompt": 1}, "completions_per_prompt is 1"),
        (ExpertConfig, {"quantile": 1.0}, "quantile is 1.0"),
        (ExpertConfig, {"sampling": Sampling(temperature=0.0)}, "temperature is 0"),
        (OnlineDPOConfig, {"beta": 0.0}, "beta is 0.0"),
        (OnlineDPOConfig, {"label_smoothing": 0.5}, "label_smoothing is 0.5"),
        (OnlineDPOConfig, {"xpo_alpha": -1.0}, "xpo_alpha is -1.0"),
        (OnlineDPOConfig, {"sampling": Sampling(temperature=0.0)}, "temperature is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(cls: Any, changes: dict[str, Any], named: str):
    with pytest.raises(InputError, match=named):
        cls(**shared_names() | changes)
