"""How scorers are named in settings, one way in every command, and how several of them become one number.

A scorer is a reward model's name, `module:function` for a Python function of (prompts, completions), a verifier (`configs/verifiers.py`), or `POLICY@REFERENCE` for the log-ratio
of two language models. Several, with commas between them, are an ensemble. A name may have a revision, so `team/model@v2` is a reward model and
`team/policy@v2@team/base` a log-ratio.
"""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require
from prefloop.configs.model_names import is_revision
from prefloop.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Combining:
    """How several scorers are combined into one number, and what they read."""

    combine: Literal["mean", "worst", "penalised"] = "mean"
    """How to combine several scorers, each normalised first: the mean, the lowest, or the mean minus `variance_penalty` times the variance (arXiv:2310.02743)."""
    variance_penalty: float = 0.5
    """For `combine penalised`."""
    beta: float = 1.0
    """Factor of a log-ratio POLICY@REFERENCE; with the beta that a DPO policy was trained with it is that policy's implicit reward."""
    context: str = ""
    """Criterion that models read before every prompt they score, for models trained on comparisons with a `context`; empty for none."""

    def __post_init__(self) -> None:
        require(
            self.variance_penalty >= 0,
            f"reward.variance_penalty is {self.variance_penalty}; it must be 0 (the mean) or more",
        )
        require(
            self.combine == "penalised" or self.variance_penalty == 0.5,
            f"reward.variance_penalty is {self.variance_penalty}, but reward.combine is {self.combine}, which has no penalty; set it to penalised, or leave it out",
        )
        require(self.beta > 0, f"reward.beta is {self.beta}; it must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """One scorer by name."""

    kind: Literal["model", "function", "implicit"]
    name: str
    """A model's name or `module:function`; of a log-ratio the policy."""
    reference: str = ""
    """Of a log-ratio the model it is compared with."""


def scorers_named(given: str) -> tuple[Named, ...]:
    """The scorers that `--reward_model` names. Raises `InputError` if a name is missing."""
    return tuple(_named(part.strip(), given) for part in given.split(","))


def first_is_model(given: str) -> bool:
    """Whether the first scorer is a reward model, whose weights a critic can start from."""
    return scorers_named(given)[0].kind == "model"


def reader(given: str) -> str:
    """The first model among the scorers, whose tokens texts are measured in. Raises `InputError` if all are Python functions."""
    models = [scorer.name for scorer in scorers_named(given) if scorer.kind != "function"]
    if not models:
        raise InputError(
            f"reward_model is {given!r}, which names Python functions only; a model is needed here"
        )
    return models[0]


def check_combining(names: tuple[Named, ...], rules: Combining) -> None:
    """Raise `InputError` for a rule that would change nothing with these scorers."""
    alone = len(names) == 1
    require(
        rules.combine == "mean" or not alone,
        f"reward.combine is {rules.combine}, but reward_model names one scorer; name several with commas between them, or leave it out",
    )
    require(
        rules.beta == 1 or any(scorer.kind == "implicit" for scorer in names),
        f"reward.beta is {rules.beta}, but reward_model names no log-ratio POLICY@REFERENCE; leave it out",
    )
    require(
        not rules.context or any(scorer.kind != "function" for scorer in names),
        "reward.context is set, but a Python function reads the prompt as it is; leave it out",
    )


def _named(part: str, given: str) -> Named:
    if not part:
        raise InputError(
            f"reward_model is {given!r}, where a name is missing; write one name, or several with a comma between each two"
        )
    if ":" in part:
        return Named(kind="function", name=part)
    models = _models(part)
    if len(models) == 1:
        return Named(kind="model", name=models[0])
    if len(models) > 2 or not all(models):
        raise InputError(f"reward_model has {part!r}; a log-ratio is written POLICY@REFERENCE")
    return Named(kind="implicit", name=models[0], reference=models[1])


def _models(part: str) -> list[str]:
    """The models between the @ signs, each with its revision."""
    models: list[str] = []
    for model in part.split("@"):
        if models and model and "@" not in models[-1] and is_revision(model, models[-1]):
            models[-1] += f"@{model}"
        else:
            models.append(model)
    return models
