"""Settings that would change nothing are refused, with the way out: a table over the commands about data, judges, ratings and the studio."""

from typing import Any

import pytest

from prefloop.configs.agreement import AgreementConfig
from prefloop.configs.arena import ArenaConfig
from prefloop.configs.common import Compute, Data, LoRA, Sampling
from prefloop.configs.data import CheckConfig, ExportConfig
from prefloop.configs.evaluate import EvalConfig
from prefloop.configs.filter import FilterConfig
from prefloop.configs.judge import CallLimits, JudgeConfig, LabelScoreConfig, ReviseConfig, ScorerConfig
from prefloop.configs.label import (
    ChatAnswers,
    LabelExportConfig,
    LabelImportConfig,
    ServeConfig,
    SimulateConfig,
)
from prefloop.configs.ppo import KL, RewardShaping
from prefloop.configs.sample import SampleConfig
from prefloop.configs.scorers import Combining
from prefloop.configs.select import SelectConfig
from prefloop.errors import InputError

HERE: dict[str, Any] = {"checkpoint": "a/judge"}
ASKED: dict[str, Any] = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
SCORED: dict[str, Any] = {"store": "s", "out": "o.jsonl"}
REVISED: dict[str, Any] = {"store": "s", "constitution": "c", "policy": "p", "demonstrations": "d"}
MEASURED: dict[str, Any] = {"out": "o", "reward_model": "r", "comparisons": "c.jsonl"}
POLICIES: dict[str, Any] = {"policies": ("sft=a",)}
SAMPLED: dict[str, Any] = {"out": "o", "data": Data(source="p.jsonl"), **POLICIES}
ON_SERVER: dict[str, Any] = {"chat": ("http://127.0.0.1:1/v1#m",)}

# A class; settings that are given in any case; the setting that changes nothing; what makes it useful, in place of what is given; what is told.
Row = tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any], str]
TABLE: list[Row] = [
    (ServeConfig, {}, {"answers": ChatAnswers(temperature=0.5)}, {"chat": ("m",)}, "chat names no model"),
    (ServeConfig, ON_SERVER, {"answers": ChatAnswers(device="cpu")}, {"chat": ("m",)}, "no checkpoint"),
    (ServeConfig, {"chat": ("m",)}, {"answers": ChatAnswers(key_variable="K")}, ON_SERVER, "no address"),
    (Sampling, {"temperature": 0.0}, {"top_p": 0.9}, {"temperature": 0.5}, "most likely token"),
    (Sampling, {"temperature": 0.0}, {"top_k": 5}, {"temperature": 0.5}, "most likely token"),
    (
        SampleConfig,
        {
            "model": "m",
            "data": Data(source="p.jsonl"),
            "store": "s",
            "completions_per_prompt": 1,
            "sampling": Sampling(temperature=0.0),
        },
        {"completions_per_prompt": 4},
        {"sampling": Sampling(temperature=0.5)},
        "all the same",
    ),
    (LabelImportConfig, {"source": "f"}, {"gold_share": 0.2}, {"gold": True}, "gold is off"),
    (LabelImportConfig, {"source": "f"}, {"gold_stage": "practice"}, {"gold": True}, "gold is off"),
    (
        LabelImportConfig,
        {"source": "f", "gold": True, "gold_stage": "practice"},
        {"gold_share": 0.2},
        {"gold_stage": "work"},
        "comes before the work",
    ),
    (
        SimulateConfig,
        {"store": "s", "pairs": "none"},
        {"checkpoints": ("a",)},
        {"pairs": "all"},
        "pairs is none",
    ),
    (LabelExportConfig, {"out": "o.jsonl"}, {"heldout": 0.3}, {"part": "train"}, "part is all"),
    (
        LabelExportConfig,
        {"out": "o.jsonl", "kind": "scores"},
        {"adjudicated": True},
        {"kind": "labels"},
        "kind is scores",
    ),
    (
        LabelExportConfig,
        {"out": "o.jsonl", "kind": "scores"},
        {"aggregate": "majority"},
        {"kind": "comparisons"},
        "kind is scores",
    ),
    (ExportConfig, SCORED, {"heldout": 0.3}, {"part": "heldout"}, "part is all"),
    (ExportConfig, {**SCORED, "kind": "prompts"}, {"skip_bad": True}, {"kind": "labels"}, "kind is prompts"),
    (CheckConfig, {"source": "f"}, {"against_split": "dev"}, {"against": "g"}, "against names no"),
    (
        FilterConfig,
        {"data": Data(source="f"), "out": "o.jsonl", "least_certainty": 0.1},
        {"store": "s"},
        {"data": Data(source="store")},
        "read data.source store",
    ),
    (
        FilterConfig,
        {"data": Data(source="f"), "out": "o.jsonl", "least_certainty": 0.1},
        {"least_margin": 1.0},
        {"reward_models": ("r",)},
        "reward_models, but none is named",
    ),
    (
        AgreementConfig,
        {"store": "s"},
        {"aggregate": "majority"},
        {"labels": "l.jsonl"},
        "labels names no file",
    ),
    (AgreementConfig, {"store": "s"}, {"soft": False}, {"labels": "l.jsonl"}, "labels names no file"),
    (
        AgreementConfig,
        {"store": "s", "labels": "l.jsonl", "aggregate": "each"},
        {"soft": False},
        {"aggregate": "majority"},
        "aggregate is each",
    ),
    (SelectConfig, {"store": "s"}, {"overlap": 2}, {"project": "P"}, "project is empty"),
    (SelectConfig, {"store": "s"}, {"uniform": 0.5}, {"strategy": "information"}, "strategy is uniform"),
    (SelectConfig, {"store": "s"}, {"prior": 0.1}, {"strategy": "information"}, "fits no ratings"),
    (SelectConfig, {"store": "s"}, {"scores": "f"}, {"strategy": "margin"}, "reads no scores"),
    (
        SelectConfig,
        {"store": "s", "strategy": "conflict"},
        {"checkpoints": ("a",)},
        {"strategy": "uniform"},
        "judged already",
    ),
    (ArenaConfig, {"store": "s"}, {"resamples": 50}, {"intervals": "bootstrap"}, "draws nothing"),
    (ArenaConfig, {"store": "s"}, {"seed": 1}, {"intervals": "bootstrap"}, "draws nothing"),
    (ArenaConfig, {"store": "s"}, {"split": "dev"}, {"store": "", "files": ("f",)}, "votes of files"),
    (ArenaConfig, {"store": "s"}, {"turns": ("1",)}, {"store": "", "files": ("f",)}, "these are of a store"),
    (ArenaConfig, {"files": ("f",)}, {"each_round": True}, {"files": (), "store": "s"}, "these are of files"),
    *(
        (ArenaConfig, {"store": "s", "method": "elo"}, useless, {"method": "davidson"}, "method is elo")
        for useless in ({"clusters": "both"}, {"prior": 0.5}, {"intervals": "bootstrap"})
    ),
    (
        ArenaConfig,
        {"store": "s", "method": "elo"},
        {"style": True},
        {"method": "davidson"},
        "control for style",
    ),
    *(
        (config, {**more, **ASKED}, {"compute": Compute(device="cpu")}, HERE, "behind base_url")
        for config, more in (
            (JudgeConfig, {"store": "s"}),
            (LabelScoreConfig, SCORED),
            (ReviseConfig, REVISED),
            (ScorerConfig, {}),
        )
    ),
    *(
        (config, {**more, **HERE}, useless, ASKED, told)
        for config, more in (
            (JudgeConfig, {"store": "s"}),
            (LabelScoreConfig, SCORED),
            (ReviseConfig, REVISED),
        )
        for useless, told in (
            ({"key_variable": "K"}, "needs no key"),
            *(
                ({"limits": CallLimits(**{name: 7})}, "only limits.workers applies")
                for name in (
                    "timeout",
                    "attempts",
                    "per_minute",
                    "max_calls",
                    "max_cost",
                    "price_in",
                    "price_out",
                )
            ),
        )
    ),
    *(
        (config, {**more, **HERE}, {"cache": "c.db"}, ASKED, "are not kept")
        for config, more in ((LabelScoreConfig, SCORED), (ScorerConfig, {}))
    ),
    (
        JudgeConfig,
        {"store": "s", "principles": ("be kind",), **HERE},
        {"rubric": "what is short"},
        {"principles": ()},
        "principles replace it",
    ),
    (JudgeConfig, {"store": "s", **HERE}, {"principle": "drawn"}, {"constitution": "c"}, "none to draw"),
    (
        ScorerConfig,
        {"constitution": "c", **HERE},
        {"rubric": "short"},
        {"constitution": ""},
        "give one of them",
    ),
    (EvalConfig, MEASURED | {"data": Data()}, {"sampling": Sampling(top_k=5)}, SAMPLED, "nothing is sampled"),
    (EvalConfig, MEASURED | {"data": Data()}, {"completions_per_prompt": 2}, SAMPLED, "nothing is sampled"),
    (EvalConfig, MEASURED, {"data": Data(source="p.jsonl")}, POLICIES, "no prompts are read"),
    (EvalConfig, SAMPLED, {"reward": Combining(beta=0.1)}, {"reward_model": "a@b"}, "none is named"),
    (
        EvalConfig,
        SAMPLED,
        {"data": Data(source="p.jsonl", max_completion_tokens=9)},
        MEASURED,
        "no comparisons are read",
    ),
    (LoRA, {}, {"alpha": 8.0}, {"rank": 2}, "no adapter is trained"),
    (LoRA, {}, {"targets": ("q_proj",)}, {"rank": 2}, "no adapter is trained"),
    (KL, {}, {"horizon": 50}, {"target": 0.1}, r"kl\.coef is fixed"),
    *(
        (config, {}, {"variance_penalty": 2.0}, {"combine": "penalised"}, "which has no penalty")
        for config in (Combining, RewardShaping)
    ),
    (EvalConfig, SAMPLED, {"comparisons": "c.jsonl"}, {"reward_model": "r"}, "without reward_model"),
]


def _clear(values: dict[str, Any]) -> dict[str, Any]:
    """Of two ways to name a judge, the later one."""
    if "base_url" in values and "checkpoint" in values:
        other = ASKED if list(values).index("checkpoint") > list(values).index("base_url") else HERE
        return {name: value for name, value in values.items() if name not in other}
    return values


@pytest.mark.parametrize(("config", "given", "useless", "useful", "told"), TABLE)
def test_a_setting_without_effect_is_refused(
    config: Any, given: dict[str, Any], useless: dict[str, Any], useful: dict[str, Any], told: str
) -> None:  # K7
    if config is not EvalConfig or "data" in given:
        config(**given)
    with pytest.raises(InputError, match=told):
        config(**given | useless)
    config(**_clear(given | useful | useless))


def test_scores_of_stored_completions_leave_unreadable_ones_out_whatever_is_said() -> None:  # K7
    with pytest.raises(InputError, match="leaves such completions out"):
        LabelScoreConfig(**SCORED, **HERE, unreadable="lowest")
