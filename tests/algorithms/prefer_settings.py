"""Small data of every kind with a rule that shows, and settings to train on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefloop.configs.common import Data, Optim, RunSettings
from prefloop.configs.prefer import FollowPolicy, PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.losses.objectives import OBJECTIVES
from prefloop.losses.reward_model import REWARD_LOSSES
from tests.algorithms.small import write
from tests.algorithms.tiny import CPU, WORDS, pairs

SMOOTH = Optim(lr=3e-3, eps=1e-3)
"""With so large an epsilon Adam does not turn float noise into updates."""
SHARED = (
    "kto",
    "bco",
    "bco_matched",
    "aot",
    "beta_dpo",
    "tdpo2",
    "dro",
    "all_pairs",
    "ordinal",
    "process",
    "segments",
)
"""What two processes must train as one does."""
OF_REWARD = ("all_pairs", "ordinal", "process", "segments")
"""Those that train a reward model."""


def data_of(kind: str, file: Path, count: int = 32) -> Path:
    """Who ends in `yes` is good, who ends in `no` bad, `so` between them; lengths tell nothing."""
    if kind == "comparisons":
        return pairs(file, count)
    rows: list[dict[str, Any]] = []
    for i, word in enumerate(WORDS[:count]):
        ends = (" yes", " so", " no")[: 2 + i % 2] if kind == "rankings" else (" yes", " no")
        texts = [WORDS[(7 * i + j) % 64][: 1 + (i + j) % 3] + end for j, end in enumerate(ends)]
        if kind == "rankings":
            rows.append({"prompt": word, "completions": texts})
        elif kind == "steps":
            good = (i % 2 == 0, i % 3 > 0)
            steps = [WORDS[(5 * i + j) % 64] + (" yes" if fine else " no") for j, fine in enumerate(good)]
            rows.append({"prompt": word, "completions": steps, "labels": list(good)})
        elif kind == "labels":
            rows.append({"prompt": word, "completion": texts[i % 2], "label": i % 2 == 0})
        else:
            rows.append({"prompt": word, "completion": texts[i % 2], "score": 1.0 - 2 * (i % 2)})
    write(file, rows)
    return file


def prefer_settings(project: Path, out: Path, loss: str, **changes: Any) -> PreferConfig:
    """20 steps or so of an objective, from a model that knows nothing."""
    kind = OBJECTIVES[loss].data if loss in OBJECTIVES else "comparisons"
    basic = PreferConfig(
        run=RunSettings(out=str(out), seed=2),
        data=Data(source=str(data_of(kind, out.with_suffix(".jsonl"))), heldout=0.25),
        model=str(project / "start"),
        loss=loss,
        batch_size=6 if kind == "rankings" else 9,
        epochs=5,
        reference_cache=str(out.with_suffix(".cache")),
        optim=Optim(lr=1e-2, schedule="constant"),
        compute=CPU,
    )
    return replace(basic, **changes)


def shared_settings(project: Path, out: Path, loss: str) -> PreferConfig | RewardConfig:
    """Four steps that end raggedly, for a comparison of runs."""
    if loss in OF_REWARD:
        source = data_of(REWARD_LOSSES[loss].data, out.with_suffix(".jsonl"))
        return RewardConfig(
            run=RunSettings(out=str(out), seed=2),
            data=Data(source=str(source), heldout=0.25),
            model=str(project / "start"),
            loss=loss,  # pyright: ignore[reportArgumentType]
            batch_size=9,
            epochs=0.0,
            max_steps=4,
            optim=SMOOTH,
            compute=CPU,
        )
    follow = FollowPolicy(every=2, rate=0.5) if loss == "tdpo2" else FollowPolicy()
    return prefer_settings(
        project, out, loss, epochs=0.0, max_steps=4, eval_every=2, optim=SMOOTH, follow=follow
    )
