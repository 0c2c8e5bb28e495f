"""A run's checkpoints one after another: where the gold score has fallen from its best while the reward model's score has not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefloop.errors import InputError
from prefloop.evaluation.intervals import Clusters, Estimate, Numbers, paired_difference
from prefloop.evaluation.summary import EvaluatedPolicy
from prefloop.evaluation.wording import with_interval

_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedStep:
    """A checkpoint's scores of its completions. All checkpoints answer the same prompts in the same order."""

    name: str
    gold: Numbers
    proxy: Numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Fall:
    """A checkpoint that is worse than an earlier one, though the reward model does not say so."""

    best: int
    """Place of the earlier checkpoint with the highest mean gold score."""
    at: int
    gold: Estimate
    """Change since then, with an interval that allows for the choice of the best among all earlier ones."""
    proxy: Estimate


def fall_at(steps: Sequence[JudgedStep], at: int, *, clusters: Clusters | None = None) -> Fall | None:
    """Whether the checkpoint at a place has clearly fallen from the best one before it: gold down beyond its interval, proxy not.

    The best of many noisy means is too high by chance, so the interval is at 1 - 0.05 / (earlier checkpoints), after Bonferroni. Where both scores
    fell, training has broken, but the reward model was not exploited: None. `clusters` keeps completions of a prompt together.
    """
    if at < 1:
        return None
    best = int(np.argmax([np.mean(step.gold) for step in steps[:at]]))
    confidence = 1 - 0.05 / at
    now, then = steps[at], steps[best]
    gold = paired_difference(now.gold, then.gold, clusters=clusters, confidence=confidence)
    proxy = paired_difference(now.proxy, then.proxy, clusters=clusters, confidence=confidence)
    if not _most(gold) < 0 or _most(proxy) < 0:
        return None
    return Fall(best=best, at=at, gold=gold, proxy=proxy)


def best_checkpoint_alarms(
    name: str, steps: Sequence[JudgedStep], *, clusters: Clusters | None = None, judged: str = "gold score"
) -> list[str]:
    """A sentence where a run has gone past its best checkpoint, with the first one at which this shows; nothing elsewhere.

    `judged` is what the gold score is called.
    """
    falls = (fall_at(steps, at, clusters=clusters) for at in range(len(steps)))
    fall = next((found for found in falls if found), None)
    if fall is None:
        return []
    best, now = steps[fall.best].name, steps[fall.at].name
    return [
        f"{name}: from {best} to {now} the {judged} fell: change {with_interval(fall.gold)}; the reward model's score changed by "
        f"{with_interval(fall.proxy)}. From there on the policy exploits the reward model: use {best}, raise the KL's weight, or compare samples of {now} "
        "and fit the reward model again."
    ]


def _most(change: Estimate) -> float:
    """The upper bound; completions that all changed by the same count as they are."""
    return change.value if change.no_spread else change.high


def series_alarms(evaluated: Sequence[EvaluatedPolicy], series: Mapping[str, Sequence[str]]) -> list[str]:
    """The alarms of several series: name -> names of its policies, in order. The first policy evaluated, from which training began, stands before each.

    A series without a gold judge or a reward model has none: nothing can be said.
    """
    policies = {policy.name: policy for policy in evaluated}
    found = []
    for name, members in series.items():
        steps = [_judged(policies[one]) for one in dict.fromkeys((evaluated[0].name, *members))]
        places = [at for at, group in enumerate(evaluated[0].completions) for _ in group]
        if all(step is not None for step in steps):
            found += best_checkpoint_alarms(name, [step for step in steps if step], clusters=places)
    return found


def _judged(policy: EvaluatedPolicy) -> JudgedStep | None:
    completions = [one for group in policy.completions for one in group]
    gold = [one.gold for one in completions if one.gold is not None]
    proxy = [one.proxy for one in completions if one.proxy is not None]
    if not gold or not proxy:
        return None
    return JudgedStep(name=policy.name, gold=gold, proxy=proxy)


def step_of(folder: str) -> int | None:
    """The step of a checkpoint's folder; None for another folder."""
    found = _STEP.fullmatch(Path(folder).name)
    return int(found[1]) if found else None


def checkpoints_in(folder: str) -> list[str]:
    """The checkpoints of a run's folder `checkpoints`, oldest first; none where it is a model's folder. Raises `InputError` if it is empty."""
    path = Path(folder)
    if path.name != "checkpoints" or not path.is_dir():
        return []
    found = [str(inner) for inner in path.iterdir() if step_of(str(inner)) is not None]
    if not found:
        raise InputError(
            f"policies has {folder}, which holds no checkpoint (step-N); train with save_every set"
        )
    return sorted(found, key=lambda one: step_of(one) or 0)


def series_of(folders: Mapping[str, str]) -> dict[str, list[str]]:
    """Policies that are checkpoints of one run: the run's folder -> their names by step. A run with a single checkpoint there is left out."""
    runs: dict[str, list[tuple[int, str]]] = {}
    for name, folder in folders.items():
        step = step_of(folder)
        if step is not None:
            runs.setdefault(str(Path(folder).parent.parent), []).append((step, name))
    return {run: [name for _, name in sorted(found)] for run, found in runs.items() if len(found) > 1}
