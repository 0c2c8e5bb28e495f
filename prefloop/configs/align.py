"""Settings of `prefloop align` and `prefloop plan`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, Rows, in_store, require, require_effect, require_rows

Method = Literal["dpo", "ipo", "simpo", "orpo", "ppo", "grpo", "rloo", "online_dpo"]
OFFLINE: tuple[Method, ...] = ("dpo", "ipo", "simpo", "orpo")
"""Methods that learn from the comparisons themselves. The others sample, and learn from a reward model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences(Rows):
    """The comparisons, and how long their texts may be."""

    source: str = ""
    """A file (.jsonl .json .csv .tsv .parquet, also .gz and .zst), a folder, or a Hugging Face data set's name."""
    limit: int = 0
    """Use this many comparisons at most, drawn by the seed; 0 uses all. What is left out is counted."""
    skip_bad: bool = False
    """Leave malformed rows out, count and list them, instead of stopping at them."""
    max_prompt_tokens: int = 0
    """Comparisons with a longer prompt are left out and counted; 0 chooses it from the data."""
    max_completion_tokens: int = 0
    """Comparisons with a longer completion are left out and counted, and the policies write at most so much; 0 chooses it from the data."""

    def __post_init__(self) -> None:
        require_rows(self)
        require(bool(self.source), "data.source is empty; name the file of comparisons with --data")
        require(
            not in_store(self.source),
            f"data.source is `{self.source}`; write its comparisons to a file first: prefloop data export --store STORE --out comparisons.jsonl",
        )
        for name in ("limit", "max_prompt_tokens", "max_completion_tokens"):
            require(
                getattr(self, name) >= 0, f"data.{name} is {getattr(self, name)}; it must be 0 (off) or more"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Say what `prefloop align` would do with a model and a file of comparisons, and what it would cost, without doing it."""

    model: str
    """Model to start from: a hub name or a folder."""
    data: Preferences
    demonstrations: str = ""
    """File of good answers that the model is fine-tuned on first; empty starts from the model as it is."""
    prompts: str = ""
    """File of prompts for the methods that sample; empty uses the prompts of the comparisons that the policy learns from."""
    method: tuple[Method, ...] = ("dpo",)
    """One or several: dpo, ipo, simpo and orpo learn from the comparisons; ppo, grpo, rloo and online_dpo sample and learn from a reward model."""
    judge: str = "reward"
    """Who says which answers are better: `reward`, a model fitted on comparisons that no policy learns from; a .yaml file of an AI judge's settings
    (see docs/judges.md); or `module:function` of (prompts, completions)."""
    weights: Literal["auto", "lora", "all"] = "auto"
    """What is trained: adapters on one frozen trunk that all roles share, or every weight; auto trains adapters from 50 million weights on."""
    rank: int = 16
    """Rank of the adapters."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the trunk; auto uses bfloat16 if this machine multiplies it faster (measured). Adapters and losses are float32."""
    lr: float = 0.0
    """Peak learning rate of the policies; 0 uses the method's default."""
    beta: float = 0.1
    """Beta of dpo, ipo and online_dpo: larger stays closer to the starting model."""
    kl: float = 0.05
    """Coefficient of the KL to the starting model, for ppo, grpo and rloo."""
    minutes: float = 0.0
    """Time that all of it may take by the estimate: fewer comparisons, steps and prompts are used so that it fits; 0 uses all comparisons."""
    eval_prompts: int = 200
    """Held-out prompts that the policies answer, at most."""
    eval_answers: int = 0
    """Answers of each policy to each of these prompts; 0 takes as many, at most 4, as give about `eval_prompts` answers in all."""
    seed: int = 0
    """Everything random derives from it."""
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        _require(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig(PlanConfig):
    """Make a model better with a file of comparisons, and report whether it is: plan, train, judge by a model that no policy learned from."""

    out: str
    """Project folder: data, a folder for each stage, summary.json and report.html."""
    yes: bool = False
    """Start without asking."""
    resume: bool = False
    """Continue the project: finished stages are kept, an unfinished one resumes from its last checkpoint."""

    def __post_init__(self) -> None:
        require(bool(self.out), "out is empty; name the project folder, for example --out runs/aligned")
        _require(self)


def _require(config: PlanConfig) -> None:
    require(bool(config.model), "model is empty; name a folder or a hub model with --model")
    require(bool(config.method), "method is empty; name one or several, for example --method dpo")
    twice = {name for name in config.method if config.method.count(name) > 1}
    require(not twice, f"method names {', '.join(sorted(twice))} twice; name each once")
    require(config.rank >= 1, f"rank is {config.rank}; it must be 1 or more")
    require(config.lr >= 0, f"lr is {config.lr}; it must be 0 (the method's default) or more")
    require(config.beta > 0, f"beta is {config.beta}; it must be above 0")
    require(config.kl >= 0, f"kl is {config.kl}; it must be 0 (off) or more")
    why = f"which does not apply to {' and '.join(config.method)}"
    require_effect(
        config,
        (not {"dpo", "ipo", "online_dpo"} & {*config.method}, ("beta",), why),
        (not {"ppo", "grpo", "rloo"} & {*config.method}, ("kl",), why),
        (
            {*config.method} <= {*OFFLINE},
            ("prompts",),
            "but method names none that samples",
        ),
        (config.weights == "all", ("rank",), "but weights is all, which trains no adapters"),
    )
    require(config.minutes >= 0, f"minutes is {config.minutes}; it must be 0 (no limit) or more")
    require(config.eval_prompts >= 2, f"eval_prompts is {config.eval_prompts}; an interval needs 2 or more")
    require(
        config.eval_answers >= 0,
        f"eval_answers is {config.eval_answers}; it must be 1 or more, or 0 to choose it from the number of prompts",
    )
    require(
        bool(config.judge),
        "judge is empty; set it to `reward`, or name a .yaml file or a function `module:name`",
    )
    require(
        config.compute.dtype == "float32",
        f"compute.dtype is {config.compute.dtype}; here precision decides: --precision {config.compute.dtype}",
    )
