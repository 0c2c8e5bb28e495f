"""For every training setting a second value, and for those that no result shows the reason: `test_settings_change` runs them.

A stage's first run is that of `small`, cut to two steps; every other run changes one setting of it. What must differ is anything the run leaves:
metrics, weights, configurations, the files in its folder; or the run is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from prefloop.configs.common import Data, RunSettings, Selecting
from prefloop.configs.environments import EnvironmentSettings
from prefloop.configs.prefer import PreferConfig
from tests.algorithms.small import CPU, OPTIM, settings, write
from tests.algorithms.tiny import WORDS


def shorter(prompts: Any, first: Any, second: Any) -> list[float]:
    """A preference function: who says less is preferred with 0.8."""
    return [0.5 + 0.3 * ((len(a) < len(b)) - (len(a) > len(b))) for a, b in zip(first, second, strict=True)]


SPEED = "changes speed and memory alone; tests/models and tests/algorithms/test_micro_batches.py hold the results equal"
OF_DATA_SETS = "files have one split; tests/data/test_load.py reads data sets"
OF_STORES = (
    "these runs read files; tests/loop/test_stores.py and tests/studio/test_datasets.py read stores by each"
)
PLAYED = "completions here are of one turn; tests/rollout/test_playing.py and tests/algorithms/test_environments.py play conversations"
UNSEEN = {
    **{f"environment.{setting.name}": PLAYED for setting in fields(EnvironmentSettings)},
    **{f"data.select.{each.name}": OF_STORES for each in fields(Selecting) if each.name != "judged_by"},
    "compute.device": "a test machine has one kind of device",
    "compute.attention": SPEED,
    "compute.shard": "tests/algorithms/test_sharded.py has several processes",
    "compute.offload": "tests/algorithms/test_sharded.py has several processes",
    "compute.micro_batch_tokens": SPEED,
    "compute.gradient_checkpointing": SPEED,
    "compute.quantize": "the models here are narrower than a block of 64; tests/models/test_quantize.py trains wider ones",
    "compute.trust_remote_code": "no model here brings code; tests/models/test_save_load.py has one that does",
    "data.split": OF_DATA_SETS,
    "data.max_gb": "nothing here is as large; tests/data/test_read.py bounds what a file grows to",
    "run.out": "every run here has its own",
    "run.resume": "tests/algorithms/test_resume.py",
    "compute.wait_minutes": "tests/runtime/test_lost.py waits for processes that do not come",
    "lora.adapter": "tests/algorithms/test_from_adapter.py trains an adapter further",
    "run.max_nonfinite": "tests/runtime/test_update.py makes steps that are not finite",
    "run.tune": SPEED,
    "run.track": "who shows the numbers, not which; tests/runtime/test_trackers.py",
    "sampling.batch_size": SPEED,
    **{
        f"sampling.{name}": "tests/loop/test_engine.py trains with an engine"
        for name in (
            "engine",
            "sync",
            "engine_minutes",
            "engine_tolerance",
            "staleness",
            "partial",
            "engine_memory",
        )
    },
    "reference_cache": "where numbers are kept, not which; tests/algorithms/test_dpo.py counts the passes that it saves",
}
"""Settings whose effect no result of a run shows, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A second value, and what else is set in both runs to give the setting something to do."""

    value: Any
    given: dict[str, Any] = field(default_factory=dict)
    refused: bool = False
    """Whether the run with the second value is to be refused."""
    before: bool = False
    """Whether the run without it is."""


def changed(config: Any, values: Mapping[str, Any]) -> Any:
    """The configuration with some settings changed together, `optim.lr` for one of a part."""
    own: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            parts.setdefault(name, {})[rest] = value
        else:
            own[name] = value
    inner = {name: changed(getattr(config, name), given) for name, given in parts.items()}
    return replace(config, **own, **inner)


def filled(values: Mapping[str, Any], project: Path, stage: str = "") -> dict[str, Any]:
    """The values with the names of files in them."""
    return {
        path: value.format(project=project, stage=stage) if isinstance(value, str) else value
        for path, value in values.items()
    }


def setting_paths(config: Any) -> list[str]:
    """Every setting of a configuration, those of its parts with a dot."""
    found = []
    for each in fields(config):
        value = getattr(config, each.name)
        inner = [f"{each.name}.{path}" for path in setting_paths(value)] if is_dataclass(value) else []
        found += inner or [each.name]
    return found


def first(stage: str, project: Path, out: Path) -> Any:
    """A stage's first configuration: two steps, measured at each."""
    if stage == "prefer":
        config = PreferConfig(
            run=RunSettings(out=str(out), seed=3),
            data=Data(source=str(project / "comparisons.jsonl"), heldout=0.3),
            model=str(project / "stopping/final"),
            loss="dpo",
            batch_size=3,
            epochs=0.0,
            max_steps=2,
            eval_every=1,
            optim=OPTIM,
            reference_cache=str(project / "cache-settings"),
            compute=CPU,
        )
    else:
        config = settings(stage, project, out="settings")
    changes: dict[str, Any] = {"run": replace(config.run, out=str(out))}
    names = {each.name for each in fields(config)}
    if "max_steps" in names:
        changes |= {"epochs": 1.0 if stage == "ilql" else 0.0, "max_steps": 2}
    if "eval_every" in names:
        changes["eval_every"] = 1
    if "steps" in names:
        changes["steps"] = 2
    config = replace(config, **changes)
    return changed(config, filled(FIRST.get(stage, {}), project))


def make_files(project: Path) -> None:
    """Data that settings need to have something to do."""
    texts = (project / "demonstrations.jsonl").read_text()
    (project / "context.txt").write_text("so it is")
    (project / "other_context.txt").write_text("oak")
    (project / "bad.jsonl").write_text(texts + '{"prompt": "x"}\n')
    write(
        project / "steps.jsonl",
        [
            {"prompt": f"p{i}", "completions": ["a b", "c d e", "f"][: 1 + i % 3], "labels": [True, False, i % 2 == 0][: 1 + i % 3]}
            for i in range(9)
        ],
    )  # fmt: skip
    write(project / "long.jsonl", [{"text": " ".join(WORDS[i:] + WORDS[:i])} for i in range(12)])
    write(
        project / "labels.jsonl",
        [{"prompt": f"p{i}", "completion": "ab cd"[: 1 + i % 5], "label": i % 2 == 0} for i in range(9)],
    )
    write(
        project / "contexts.jsonl",
        [
            {"prompt": f"p{i}", "chosen": "ab", "rejected": "c" * (1 + i), "context": "short", "opposite_context": "long"}
            for i in range(9)
        ],
    )  # fmt: skip
    write(
        project / "rankings.jsonl",
        [{"prompt": f"p{i}", "completions": ["abc"[: 1 + i % 3], "x y", "zz"]} for i in range(9)],
    )


OPTIMISER = {
    "lr": 1e-3,
    "schedule": "constant",
    "warmup": 0.9,
    "weight_decay": 5.0,
    "beta1": 0.5,
    "beta2": 0.5,
    "eps": 1e-2,
    "max_grad_norm": 0.01,
}
PLAIN = {f"optim.{name}": Case(value=value) for name, value in OPTIMISER.items()}
PLAIN["optim.schedule"] = Case(value="constant", given={"optim.warmup": 0.0})
LORA = {
    "lora.rank": Case(value=2),
    "lora.alpha": Case(value=1.0, given={"lora.rank": 2}),
    "lora.targets": Case(value=("q_proj",), given={"lora.rank": 2}),
}
OF_RUN = {
    "run.seed": Case(value=4),
    "run.store": Case(value="{project}/elsewhere-{stage}.db"),
    "run.save_every": Case(value=1),
    "run.keep": Case(value=1, given={"run.save_every": 1}),
    "run.log_every": Case(value=2),
}
OF_DATA = {
    "data.source": Case(value="{project}/short.jsonl"),
    "data.heldout": Case(value=0.6),
    "data.limit": Case(value=4),
    "data.select.judged_by": Case(value="human", refused=True),
    "data.format": Case(value="comparison", refused=True),
    "data.columns": Case(value=("prompt=completion", "completion=prompt")),
    "data.chat": Case(value=True, refused=True),
    "data.max_prompt_tokens": Case(value=2, given={"data.max_prompt_tokens": 1, "data.overlong": "truncate"}),
    "data.skip_bad": Case(value=True, given={"data.source": "{project}/bad.jsonl"}, before=True),
}


def of_completions(tokens: int) -> dict[str, Case]:
    """With budgets that some completions are over."""
    cut = {"data.overlong": "truncate", "data.max_completion_tokens": tokens - 1}
    dropped = {"data.overlong": "drop", "data.max_completion_tokens": tokens}
    return {
        "data.max_completion_tokens": Case(value=tokens, given=cut),
        "data.overlong": Case(value="truncate", given=dropped),
    }


OF_FILES = ("data.source", "data.format", "data.columns", "data.chat")
OF_PROMPTS = {
    **{name: case for name, case in OF_DATA.items() if name not in OF_FILES},
    "data.source": Case(value="{project}/demonstrations.jsonl"),
    "data.overlong": Case(value="truncate", given={"data.max_prompt_tokens": 3, "data.overlong": "drop"}),
}
OF_SAMPLING = {
    "sampling.max_new_tokens": Case(value=4),
    "sampling.temperature": Case(value=0.7),
    "sampling.top_p": Case(value=0.5),
    "sampling.top_k": Case(value=2),
}
WHOLE = {
    "sampling.top_p": Case(value=0.5, refused=True),
    "sampling.top_k": Case(value=2, refused=True),
}
"""Where ratios compare whole distributions."""
DTYPE = {"compute.dtype": Case(value="bfloat16")}
MODEL = {"model": Case(value="{project}/start")}
FUNCTION = "tests.algorithms.small:short_is_good"
TWO = "{project}/reward/final,{project}/stopping/final@{project}/start"
SCORES = {
    "reward_model": Case(value=FUNCTION),
    "reward.normalise": Case(value=False),
    "reward.scale": Case(value=True),
    "reward.clip": Case(value=0.01),
    "reward.residual": Case(value=True),
    "reward.length_penalty": Case(value=0.5),
    "reward.overlong": Case(value=4),
    "reward.missing_eos": Case(value=3.0),
    "reward.combine": Case(value="worst", given={"reward_model": TWO}),
    "reward.variance_penalty": Case(
        value=3.0, given={"reward_model": TWO, "reward.combine": "penalised", "reward.variance_penalty": 0.1}
    ),
    "reward.beta": Case(value=3.0, given={"reward_model": TWO}),
    "reward.context": Case(value="so"),
}
KL_LOSS = {"kl.placement": "loss", "kl.estimator": "k2"}
OF_KL = {
    "kl.coef": Case(value=0.9),
    "kl.placement": Case(value="reward", given=KL_LOSS),
    "kl.estimator": Case(value="k3"),
    "kl.target": Case(value=0.5, given={"kl.target": 0.0}),
    "kl.horizon": Case(value=1000, given={"kl.target": 0.05}),
}
OF_IMPORTANCE = {
    "importance.rule": Case(value="truncate"),  # which is logged
    **{f"importance.{name}": Case(value=value, given={"importance.rule": "off"}, refused=True) for name, value in (("level", "sequence_sum"), ("low", 0.5), ("high", 5.0))},
}  # fmt: skip
EPOCHS = {"max_steps": Case(value=1), "eval_every": Case(value=2)}
PAIRS = {**MODEL, "batch_size": Case(value=5), "epochs": Case(value=1.0, given={"max_steps": 0, "epochs": 2.0}), **EPOCHS}  # fmt: skip
BATCHES = {"steps": Case(value=1), "batch_prompts": Case(value=2)}

FIRST: dict[str, dict[str, Any]] = {
    "reward": {"margin": False, "label_smoothing": 0.0, "centring": 0.0},
    "dpo": {"sft_coef": 0.0, "label_smoothing": 0.0},
    "ppo": {"kl.target": 0.0, "kl.horizon": 10_000, "ptx_coef": 0.0, "ptx": "", "ema": 0.0, "entropy_coef": 0.0, "critic.warmup_steps": 0,
            "reward.scale": False, "reward.clip": 0.0, "reward.whiten": False, "reward.missing_eos": 0.0},
    "grpo": {"kl.target": 0.0, "kl.horizon": 10_000, "kl.placement": "reward", "kl_weighted": False, "kl.estimator": "k1", "entropy_coef": 0.0, "importance.rule": "off",
             "reward.scale": False, "reward.clip": 0.0, "reward.residual": False, "reward.length_penalty": 0.0, "reward.overlong": 0,
             "reward.missing_eos": 0.0},
    "trpo": {"kl.target": 0.0, "kl.horizon": 10_000, "critic.warmup_steps": 0},
    "expert": {"reward.scale": False, "reward.missing_eos": 0.0},
    "online_dpo": {"reward_model": "{project}/reward/final", "label_smoothing": 0.0},
    "nash_md": {"reward.scale": False, "reward.missing_eos": 0.0},
    "sppo_extremes": {"reward.scale": False},
}  # fmt: skip
"""What of the stages of `small` is switched off, so that switching it on is what changes."""

TABLE: dict[str, dict[str, Case]] = {
    "pretrain": {
        "model": Case(value="{project}/start"),
        "architecture.hidden_size": Case(value=8),
        "architecture.layers": Case(value=2),
        "architecture.heads": Case(value=1),
        "architecture.ffn_size": Case(value=16),
        "architecture.vocab_size": Case(value=310, given={"data.source": "{project}/long.jsonl"}),
        "architecture.max_positions": Case(value=32),
        "architecture.tie_embeddings": Case(value=False),
        "block_tokens": Case(value=8),
        "batch_blocks": Case(value=3),
        "epochs": Case(value=1.0, given={"max_steps": 0, "epochs": 2.0}),
        **EPOCHS,
        "run.seed": Case(value=4),
        "data.heldout": Case(value=0.6),
        "data.limit": Case(value=5),
        "optim.lr": Case(value=1e-4),
        **DTYPE,
    },
    "sft": {**PAIRS, "l1": Case(value=0.01), **PLAIN, **LORA, **OF_RUN, **OF_DATA, **of_completions(4), **DTYPE},
    "reward": {
        **PAIRS,
        "loss": Case(value="all_pairs", given={"data.source": "{project}/rankings.jsonl"}),
        "keep_head": Case(value=True, given={"model": "{project}/reward/final"}),
        "label_smoothing": Case(value=0.2),
        "margin": Case(value=True),
        "random_share": Case(value=0.3, given={"loss": "segments"}),
        "swap_contexts": Case(value=True, given={"data.source": "{project}/contexts.jsonl"}),
        "step_separator": Case(value="|", given={"loss": "process", "data.source": "{project}/steps.jsonl"}),
        "step_rule": Case(value="product", given={"loss": "process", "data.source": "{project}/steps.jsonl"}),
        "length_residual": Case(value=True),
        "centring": Case(value=0.5),
        "normalise": Case(value=False),
        "data.heldout": Case(value=0.6),
        "data.limit": Case(value=4),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        **of_completions(7),
        **DTYPE,
    },
    "dpo": {
        **PAIRS,
        "reference": Case(value="{project}/start"),
        "beta": Case(value=0.1),
        "label_smoothing": Case(value=0.2),
        "sft_coef": Case(value=0.5),
        "data.heldout": Case(value=0.6),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        **of_completions(7),
        **DTYPE,
    },
    "prefer": {
        **PAIRS,
        "loss": Case(value="hinge"),
        "settings": Case(value=("beta=0.7",)),
        "from_comparisons": Case(value=True, given={"loss": "kto"}, before=True),
        "reference": Case(value="{project}/start"),
        "reference_last": Case(value="{project}/start", given={"loss": "d2o", "data.source": "{project}/rankings.jsonl"}),
        "follow.every": Case(value=1, given={"max_steps": 3, "follow.every": 2, "follow.rate": 0.5}),
        "follow.rate": Case(value=0.9, given={"max_steps": 3, "follow.every": 1, "follow.rate": 0.5}),
        "sft_coef": Case(value=0.5),
        "data.heldout": Case(value=0.6),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        **of_completions(7),
        **DTYPE,
    },
    "ppo": {
        **MODEL,
        **BATCHES,
        "reference": Case(value="{project}/start"),
        "importance.rule": Case(value="truncate"),  # the rest is seen with grpo
        "completions_per_prompt": Case(value=1),
        "gamma": Case(value=0.5),
        "lam": Case(value=0.1),
        "whiten_advantages": Case(value=False),
        "old_logprobs": Case(value="policy"),
        "epochs": Case(value=1),
        "minibatches": Case(value=1),
        "clip": Case(value=1e-4),
        "dual_clip": Case(value=1.0001, given={"clip": 1e-4}),
        "entropy_coef": Case(value=0.5),
        "ptx": Case(value="{project}/short.jsonl", given={"ptx": "{project}/demonstrations.jsonl", "ptx_coef": 0.5}),
        "ptx_coef": Case(value=2.0, given={"ptx": "{project}/demonstrations.jsonl", "ptx_coef": 0.5}),
        "ema": Case(value=0.5),
        "critic.start": Case(value="policy"),
        "critic.warmup_steps": Case(value=1),
        "critic.coef": Case(value=0.9, given={"critic.start": "shared"}),
        "critic.clip": Case(value=1e-4),
        **{f"critic.optim.{name}": Case(value=value) for name, value in OPTIMISER.items() if name != "schedule"},
        "critic.optim.schedule": Case(value="linear"),
        "reward.whiten": Case(value=True),
        "run.seed": Case(value=4),
        "lora.rank": Case(value=2, given={"critic.start": "policy"}),
        "optim.lr": Case(value=1e-4),
        **SCORES,
        "reward_model": Case(value=FUNCTION, given={"critic.start": "policy"}),
        **OF_KL,
        **OF_SAMPLING,
        **WHOLE,
        **OF_PROMPTS,
        **DTYPE,
    },
    "nlpo": {
        "top_p": Case(value=0.9),
        "mask_least": Case(value=20),
        "mask_every": Case(value=1, given={"steps": 3}),
        "optim.lr": Case(value=1e-4),
        "clip": Case(value=1e-4),
    },
    "trpo": {
        **MODEL,
        **BATCHES,
        "reward_model": Case(value=FUNCTION, given={"critic.start": "policy"}),
        "reference": Case(value="{project}/start"),
        "completions_per_prompt": Case(value=1),
        "gamma": Case(value=0.5),
        "lam": Case(value=0.1),
        "whiten_advantages": Case(value=False),
        "old_logprobs": Case(value="policy"),
        "max_kl": Case(value=0.05),
        "cg_iterations": Case(value=1),
        "cg_damping": Case(value=5.0),
        "backtracks": Case(value=1, given={"max_kl": 500.0, "backtracks": 10}),
        "critic.start": Case(value="policy"),
        "critic.warmup_steps": Case(value=1),
        "critic.clip": Case(value=1e-5),
        "critic.optim.lr": Case(value=1e-4),
        "critic_epochs": Case(value=1),
        "kl.coef": Case(value=0.9),
        "kl.target": Case(value=0.5),
        "reward.length_penalty": Case(value=0.5),
        "reward.whiten": Case(value=True),
        "run.seed": Case(value=4),
        "sampling.max_new_tokens": Case(value=4),
        "sampling.temperature": Case(value=0.7),
        "data.limit": Case(value=4),
        "compute.dtype": Case(value="bfloat16", refused=True),
    },
    "grpo": {
        **MODEL,
        **BATCHES,
        "reference": Case(value="{project}/start"),
        "completions_per_prompt": Case(value=2),
        "epochs": Case(value=1),
        "minibatches": Case(value=1),
        "advantage": Case(value="leave_one_out"),
        "baseline": Case(value="greedy", given={"advantage": "return"}),
        "whiten_advantages": Case(value=True),
        "ratio": Case(value="sequence_mean"),
        "surrogate": Case(value="weighted"),
        "clip_low": Case(value=1e-4),
        "clip_high": Case(value=1e-4),
        "reduction": Case(value="fixed_length"),
        "dynamic_sampling": Case(value=2, given={"reward_model": "tests.algorithms.online_stages:has_a_vowel", "completions_per_prompt": 2, "sampling.max_new_tokens": 2}),
        "mask_truncated": Case(value=True, given={"sampling.max_new_tokens": 3}),
        **OF_IMPORTANCE,
        "old_logprobs": Case(value="policy"),
        "entropy_coef": Case(value=0.5),
        "kl_weighted": Case(value=True, given=KL_LOSS),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        "data.limit": Case(value=4),
        **{name: SCORES[name] for name in ("reward_model", *(f"reward.{part}" for part in ("scale", "residual", "length_penalty", "missing_eos")))},
        **OF_KL,
        **OF_SAMPLING,
        **WHOLE,
        **DTYPE,
    },
    "expert": {
        **MODEL,
        **BATCHES,
        "completions_per_prompt": Case(value=2),
        "keep": Case(value="above"),
        "quantile": Case(value=0.3, given={"keep": "above"}),
        "epochs": Case(value=1),
        "minibatches": Case(value=1),
        "reward_model": Case(value=FUNCTION),
        "reward.length_penalty": Case(value=5.0),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        "data.limit": Case(value=4),
        **OF_SAMPLING,
        **DTYPE,
    },
    "online_dpo": {
        **MODEL,
        **BATCHES,
        "reference": Case(value=""),
        "epochs": Case(value=1),
        "minibatches": Case(value=1),
        "beta": Case(value=0.1),
        "label_smoothing": Case(value=0.2),
        "xpo_alpha": Case(value=0.1),
        "reward_model": Case(value=FUNCTION),
        "reward.length_penalty": Case(value=5.0),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        "data.limit": Case(value=4),
        "sampling.max_new_tokens": Case(value=4),
        "sampling.temperature": Case(value=0.7),
        **DTYPE,
    },
    "nash_md": {
        **MODEL,
        **BATCHES,
        "reference": Case(value=""),
        "mixture": Case(value=0.9),
        "beta": Case(value=0.9),
        "reward_model": Case(value=FUNCTION),
        "preference": Case(value="tests.algorithms.settings_table:shorter", given={"reward_model": "", "preference": "tests.algorithms.online_stages:more_vowels"}),
        "reward.length_penalty": Case(value=5.0),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        "data.limit": Case(value=4),
        "sampling.max_new_tokens": Case(value=4),
        "sampling.temperature": Case(value=0.7),
        **DTYPE,
    },
    "sppo_extremes": {
        **MODEL,
        **BATCHES,
        "completions_per_prompt": Case(value=2),
        "keep": Case(value="all"),
        "epochs": Case(value=2),
        "minibatches": Case(value=1),
        "eta": Case(value=0.1),
        "reward_model": Case(value=FUNCTION),
        "preference": Case(value="tests.algorithms.settings_table:shorter", given={"reward_model": "", "preference": "tests.algorithms.online_stages:more_vowels"}),
        "reward.length_penalty": Case(value=5.0),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        "data.limit": Case(value=4),
        "sampling.max_new_tokens": Case(value=4),
        "sampling.temperature": Case(value=0.7),
        **DTYPE,
    },
    "ilql": {
        **PAIRS,
        "gamma": Case(value=0.5, given={"max_steps": 5, "target_every": 1, "target_rate": 1.0}),
        "tau": Case(value=0.9),
        "cql_coef": Case(value=2.0),
        "likelihood_coef": Case(value=0.1),
        "advantage_weight": Case(value=5.0, given={"max_steps": 4, "target_every": 1, "target_rate": 1.0}),
        "target_rate": Case(value=0.9, given={"max_steps": 3}),
        "target_every": Case(value=1, given={"max_steps": 3}),
        "whiten_scores": Case(value=False),
        "heads_optim.lr": Case(value=1e-4),
        "data.heldout": Case(value=0.6),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        **of_completions(3),
        **DTYPE,
    },
    "distill": {
        **MODEL,
        **BATCHES,
        "context": Case(value="oak"),
        "context_file": Case(value="{project}/context.txt", given={"context": "", "context_file": "{project}/other_context.txt"}),
        "teacher": Case(value=""),
        "sampled_by": Case(value="teacher"),
        "divergence": Case(value="forward"),
        "completions_per_prompt": Case(value=1),
        "eval_every": Case(value=2),
        "run.seed": Case(value=4),
        "optim.lr": Case(value=1e-4),
        "lora.rank": Case(value=2),
        "data.heldout": Case(value=0.6),
        "sampling.max_new_tokens": Case(value=4),
        "sampling.temperature": Case(value=0.7),
        **DTYPE,
    },
}  # fmt: skip
"""Stage -> setting -> its second value. The settings of shared parts (optimiser, data, sampling, scores) are all in one stage or another; every
stage has one or more of each part, so that a part that is not handed on is found."""
