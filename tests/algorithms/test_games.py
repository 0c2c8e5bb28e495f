"""Nash-MD and SPPO learn, from scores and from preferences that no score can say; what they compare with is what they say."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms import nash_md, sppo
from prefloop.configs.common import RunSettings, Sampling
from prefloop.configs.games import NashMDConfig, SPPOConfig
from prefloop.errors import InputError
from prefloop.loop import payoff
from prefloop.models.load import load_policy
from prefloop.records import Prompt
from tests.algorithms import tiny
from tests.algorithms.tiny import CPU, FAST, logged, small_letters


def shared(project: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """From a model that has learned nothing, towards small letters."""
    of_ppo = tiny.ppo(project, out)
    settings = {
        "run": of_ppo.run,
        "data": of_ppo.data,
        "model": of_ppo.model,
        "sampling": of_ppo.sampling,
        "steps": 1,
        "batch_prompts": 16,
        "optim": FAST,
        "compute": CPU,
    }
    if "preference" not in changes:
        settings["reward_model"] = of_ppo.reward_model
    return settings | changes


def letters_win(prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[float]:
    """A preference function: more small letters win with 0.9; a first place is liked, too, by 0.05."""
    ours, theirs = small_letters(prompts, first), small_letters(prompts, second)
    return [min(1.0, 0.55 + 0.4 * ((a > b) - (a < b))) for a, b in zip(ours, theirs, strict=True)]


def letters_of(rows: list[dict[str, Any]], out: Path) -> tuple[float, float]:
    """Mean small letters of the first and the last shown samples."""
    import json

    files = sorted((out / "samples").glob("step-*.jsonl"), key=lambda file: int(file.stem.split("-")[1]))
    means = []
    for file in (files[0], files[-1]):
        texts = [json.loads(line)["completion"] for line in file.read_text().splitlines()]
        means.append(sum(small_letters([], texts)) / len(texts))
    return means[0], means[1]


@tiny.seeds(1, 2, 3)
def test_nash_md_learns_from_scores(seed: int, project: Path, tmp_path: Path):
    run = RunSettings(out=str(tmp_path / "run"), seed=seed)
    rows = logged(
        NashMDConfig(**shared(project, tmp_path, steps=24, batch_prompts=48, run=run), beta=0.02, mixture=0.5)
    )
    assert sum(row["score"] for row in rows[-3:]) / 3 > rows[0]["score"] + 0.8
    assert abs(rows[0]["kl"]) < 1e-4
    assert rows[-1]["kl"] > 0.1
    # Its opponent is half the reference, so the policy wins more often than not.
    assert sum(row["win_rate"] for row in rows[-3:]) / 3 > 0.52
    assert all(row["ratio"] < 1e-3 for row in rows)


@pytest.mark.parametrize("stage", [NashMDConfig, SPPOConfig])
def test_several_scorers_tell_how_much_they_disagree(stage: Any, project: Path, tmp_path: Path):
    both = "tests.algorithms.tiny:small_letters,tests.algorithms.small:short_is_good"
    (row,) = logged(stage(**shared(project, tmp_path / "two", reward_model=both)))
    assert row["disagreement"] > 0
    (alone,) = logged(stage(**shared(project, tmp_path / "one")))
    assert "disagreement" not in alone


@tiny.seeds(1, 2, 3)
def test_nash_md_learns_from_a_preference(seed: int, project: Path, tmp_path: Path):
    run = RunSettings(out=str(tmp_path / "run"), seed=seed)
    config = NashMDConfig(
        **shared(
            project,
            tmp_path,
            steps=24,
            batch_prompts=48,
            run=run,
            preference="tests.algorithms.test_games:letters_win",
        ),
        beta=0.02,
    )
    rows = logged(config)
    before, after = letters_of(rows, tmp_path / "run")
    assert after > before + 0.5
    assert "score" not in rows[0]


@tiny.seeds(1, 2, 3)
@pytest.mark.parametrize("keep", ["all", "extremes"])
def test_sppo_learns(keep: Any, seed: int, project: Path, tmp_path: Path):
    run = RunSettings(out=str(tmp_path / "run"), seed=seed)
    rows = logged(
        SPPOConfig(
            **shared(project, tmp_path, steps=6, run=run),
            completions_per_prompt=4,
            epochs=2,
            minibatches=2,
            eta=4.0,
            keep=keep,
        )
    )
    assert rows[-1]["score"] > rows[0]["score"] + 0.75
    assert all(row["win_rate_kept"] > 0 for row in rows)
    assert rows[-1]["margin"] > 0


def test_a_round_begins_with_the_squares_of_its_targets(project: Path, tmp_path: Path):
    """One update, so the logged loss is the one before it: mean of (η (P - ½))² over what is kept."""
    captured: list[Any] = []
    real = sppo._round

    def choose(*arguments: Any, **options: Any) -> Any:
        captured.append(real(*arguments, **options))
        return captured[-1]

    patch = pytest.MonkeyPatch()
    patch.setattr(sppo, "_round", choose)
    try:
        (row,) = logged(
            SPPOConfig(**shared(project, tmp_path / "run"), completions_per_prompt=3, minibatches=1, eta=3.0)
        )
    finally:
        patch.undo()
    (batch,) = captured
    assert row["sppo_loss"] == pytest.approx((3.0 * (batch.win_rate - 0.5)).square().mean().item(), rel=1e-3)
    assert (batch.win_rate[:, 0] >= batch.win_rate[:, 1]).all()
    assert batch.k == 2


def test_a_forgotten_temperature_stops_both(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # K1
    from prefloop.models.roles import Policy

    real = Policy.forward

    def forgetful(self: Policy, batch: Any, *, temperature: float = 1.0) -> Any:
        return real(self, batch, temperature=1.0 if torch.is_grad_enabled() else temperature)

    monkeypatch.setattr(Policy, "forward", forgetful)
    changes = {
        "model": str(project / "stopping/final"),
        "sampling": Sampling(max_new_tokens=5, temperature=0.5),
    }
    with pytest.raises(InputError, match="step 0: ratio is"):
        logged(NashMDConfig(**shared(project, tmp_path / "nash", **changes)))
    with pytest.raises(InputError, match="step 0: sppo is"):
        logged(SPPOConfig(**shared(project, tmp_path / "sppo", **changes), eta=0.1, minibatches=1))


def test_a_wrong_reference_stops_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # K9
    other = load_policy(str(project / "other"), CPU)
    monkeypatch.setattr(nash_md, "reference_of", lambda *_: other)
    with pytest.raises(InputError, match="step 0: kl is"):
        logged(NashMDConfig(**shared(project, tmp_path / "run")))


def rollout_of(*texts: str) -> Any:
    from prefloop.rollout import Rollout
    from prefloop.text.groups import Group

    return Rollout(
        prompts=(Prompt(content="q"),),
        groups=[Group(prompt=[1], completions=tuple([5] for _ in texts), masks=tuple([True] for _ in texts))],
        texts=[list(texts)],
        ended=[[True] * len(texts)],
        sampler_logprobs=[[[0.0]] * len(texts)],
        versions=[[[0]] * len(texts)],
    )


def test_both_orders_of_a_pair_are_asked_and_averaged():
    """0.55 + 0.4 for the winner in first place, 0.55 - 0.4 for the loser: without the liking for places 0.9 and 0.1."""
    table = payoff._compared(letters_win, rollout_of("aaa", "a", "zz"), 3)[0]
    expected = torch.tensor([[0.5, 0.9, 0.9], [0.1, 0.5, 0.9], [0.1, 0.1, 0.5]])
    torch.testing.assert_close(table, expected)


def too_few(prompts: Any, first: Any, second: Any) -> list[float]:
    return [0.5]


def no_probability(prompts: Any, first: Any, second: Any) -> list[float]:
    return [0.5 if random.Random(text).random() < 0.0 else 1.5 for text in first]


def below_zero(prompts: Any, first: Any, second: Any) -> list[float]:
    return [-0.5] * len(first)


def words_for_numbers(prompts: Any, first: Any, second: Any) -> Any:
    return ["0.5"] * len(first)


def a_table(prompts: Any, first: Any, second: Any) -> Any:
    return torch.full((len(first), len(second)), 0.5)


def no_numbers(prompts: Any, first: Any, second: Any) -> Any:
    return ["first"] * len(first)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("too_few", "returned 1 values for 2 pairs"),
        ("no_probability", "returned 1.5 for pair 0; every value must be a probability"),
        ("below_zero", "returned -0.5 for pair 0; every value must be a probability"),
        ("no_numbers", "returned 'first' of type str for pair 0; every value must be a finite number"),
        ("words_for_numbers", "returned '0.5' of type str for pair 0"),
        (
            "a_table",
            r"returned an array of shape \[2, 2\]; it must return a sequence of 2 numbers, one for each pair",
        ),
    ],
)
def test_a_preference_function_that_is_none_is_refused(name: str, said: str):
    function = payoff.load_preference(f"tests.algorithms.test_games:{name}")
    with pytest.raises(InputError, match=said):
        payoff._compared(function, rollout_of("a", "b"), 2)


@pytest.mark.parametrize(
    ("cls", "changes", "named"),
    [
        (NashMDConfig, {"mixture": 1.5}, "mixture is 1.5"),
        (NashMDConfig, {"beta": -1.0}, "beta is -1.0"),
        (NashMDConfig, {"reward_model": ""}, "give only one of them"),
        (NashMDConfig, {"preference": "a:b"}, "give only one of them"),
        (NashMDConfig, {"reward_model": "", "preference": "folder"}, "must name a Python function"),
        (NashMDConfig, {"sampling": Sampling(temperature=0.0)}, "temperature is 0"),
        (NashMDConfig, {"sampling": Sampling(top_p=0.5)}, "must be off"),
        (SPPOConfig, {"completions_per_prompt": 1}, "completions_per_prompt is 1"),
        (SPPOConfig, {"eta": 0.0}, "eta is 0.0"),
        (SPPOConfig, {"minibatches": 600}, "minibatches is 600"),
    ],
)
def test_settings_that_make_no_sense_are_refused(cls: Any, changes: dict[str, Any], named: str):
    names = {"run": RunSettings(out="x"), "data": tiny.Data(source="y"), "model": "m", "reward_model": "r"}
    with pytest.raises(InputError, match=named):
        cls(**names | changes)
