"""A run's checkpoints: the alarm finds a planted peak, is quiet on noise, and names the checkpoint to go back to."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.evaluation.intervals import mean_interval
from prefloop.evaluation.measure import policies_of
from prefloop.evaluation.over_training import (
    JudgedStep,
    best_checkpoint_alarms,
    fall_at,
    series_alarms,
    series_of,
)
from prefloop.evaluation.report_figures import over_training
from prefloop.evaluation.summary import EvaluatedCompletion, EvaluatedPolicy, PolicySummary, Summary
from prefloop.evaluation.text_statistics import text_statistics


def run(gold: list[float], proxy: list[float], *, seed: int = 0, n: int = 100) -> list[JudgedStep]:
    """Checkpoints whose completions scatter about these means by 1."""
    draw = np.random.default_rng(seed)
    return [
        JudgedStep(name=f"ppo-{10 * at}", gold=g + draw.normal(size=n), proxy=p + draw.normal(size=n))
        for at, (g, p) in enumerate(zip(gold, proxy, strict=True))
    ]


def test_a_peak_is_found_though_the_last_is_better_than_the_first() -> None:
    """What a comparison with SFT cannot see."""
    (alarm,) = best_checkpoint_alarms("ppo", run([0, 1, 3, 2, 1.5], [0, 1, 2, 3, 4]))
    assert alarm.startswith("ppo: from ppo-20 to ppo-30 the gold score fell: change −1")
    assert "use ppo-20" in alarm


def test_a_run_that_only_rises_has_none() -> None:
    assert best_checkpoint_alarms("ppo", run([0, 1, 2, 2, 2], [0, 1, 2, 3, 4])) == []


def test_where_both_scores_fall_the_reward_model_is_not_exploited() -> None:
    assert best_checkpoint_alarms("ppo", run([0, 3, 1], [0, 3, 1])) == []


def test_a_score_that_all_completions_lose_counts() -> None:
    flat = [JudgedStep(name=str(gold), gold=[gold] * 9, proxy=[1.0] * 9) for gold in (2.0, 1.0)]
    assert fall_at(flat, 1) is not None
    assert fall_at(flat[::-1], 1) is None


def test_the_best_of_many_equal_checkpoints_is_not_a_peak() -> None:
    """With an interval at 95 % the last of 20 would be called worse than the best of the others in a fifth of the runs."""
    rings = [fall_at(run([0] * 20, [0] * 20, seed=seed, n=50), 19) is not None for seed in range(200)]
    assert np.mean(rings) < 0.06


def test_completions_of_a_prompt_are_kept_together() -> None:
    """Ten copies of each of five observations tell no more than the five."""
    few = [
        JudgedStep(name=str(at), gold=g, proxy=[0.0] * 5)
        for at, g in enumerate(([2, 0, 1, 1, 3], [1, 0, 1, 0, 2]))
    ]
    many = [replace(step, gold=np.repeat(step.gold, 10), proxy=np.repeat(step.proxy, 10)) for step in few]
    assert fall_at(few, 1) is None
    assert fall_at(many, 1) is not None
    assert fall_at(many, 1, clusters=np.repeat(np.arange(5), 10)) is None


def _policy(step: JudgedStep) -> EvaluatedPolicy:
    completions = tuple(
        (EvaluatedCompletion(text="a", gold=float(gold), proxy=float(proxy), tokens=1, ended=True),)
        for gold, proxy in zip(step.gold, step.proxy, strict=True)
    )
    texts = text_statistics(["a", "b"], prompts=[0, 1], ended=[True, True])
    return EvaluatedPolicy(name=step.name, completions=completions, text=texts)


def test_series_begin_with_the_first_policy() -> None:
    """A run whose checkpoints are all below SFT."""
    policies = [_policy(step) for step in run([3, 1, 0.9], [0, 1, 2])]
    (alarm,) = series_alarms(policies, {"runs/ppo": ["ppo-10", "ppo-20"]})
    assert alarm.startswith("runs/ppo: from ppo-0 to ppo-10")
    without = [
        replace(
            policies[0], completions=tuple((replace(one[0], gold=None),) for one in policies[0].completions)
        ),
        *policies[1:],
    ]
    assert series_alarms(without, {"runs/ppo": ["ppo-10", "ppo-20"]}) == []


def test_a_folder_of_checkpoints_is_all_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "ppo" / "checkpoints"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="holds no checkpoint"):
        policies_of((f"ppo={folder}",))
    for step in (100, 20, 3):
        (folder / f"step-{step}").mkdir()
    folders = policies_of(("sft=a", f"ppo={folder}", f"one={folder / 'step-3'}"))
    assert list(folders) == ["sft", "ppo-3", "ppo-20", "ppo-100", "one"]
    del folders["one"]
    assert series_of(folders) == {str(folder.parent): ["ppo-3", "ppo-20", "ppo-100"]}
    assert series_of({"sft": "a", "ppo": str(folder / "step-3")}) == {}
    with pytest.raises(InputError, match="names 'ppo-3' twice"):
        policies_of((f"ppo={folder}", "ppo-3=b"))


def test_the_report_draws_both_scores_by_step() -> None:
    def policy(step: int, gold: float | None) -> PolicySummary:
        some = mean_interval([0.0, 1.0, 2.0])
        return PolicySummary(
            name=f"ppo-{step}",
            checkpoint=f"runs/ppo/checkpoints/step-{step}",
            kl=some,
            length=some,
            repetition=some,
            gold=None if gold is None else mean_interval([gold, gold + 1]),
            proxy=some,
        )

    def figures(gold: float | None) -> list[str]:
        policies = tuple(policy(step, gold) for step in (5, 10))
        summary = Summary(recipe="eval", seconds=1, peak_rss_mb=1, reward_model=None, policies=policies)
        return [figure.title for figure in over_training(summary)]

    assert figures(1.0) == ["ppo: reward-model score over training", "ppo: gold score over training"]
    assert figures(None) == ["ppo: reward-model score over training"]
    assert over_training(None) == []
