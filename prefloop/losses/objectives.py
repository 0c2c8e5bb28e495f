"""All objectives of `prefloop prefer`, by name: a pure function, what it trains on, where it comes from, and what it is before the first update.

To add one: write the function (its parameters say what it needs, its keywords are its settings), give it a line in `OBJECTIVES`, a test and
a paragraph. One that lives outside the package is named `module:function` and needs no line.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prefloop.configs.functions import call as call_user
from prefloop.errors import InputError
from prefloop.losses import listwise, pairwise, reference_free, unary, whole_step
from prefloop.losses.preference import dpo_loss
from prefloop.losses.quantities import MISMATCHED, QUANTITIES, Data, Needs
from prefloop.losses.whole_step import Prepared

LN2 = math.log(2)
Loss = Callable[..., Tensor]
Start = Callable[..., Any]
Setting = float | int | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A loss with what the trainer and the documentation must know of it."""

    loss: Loss
    data: Data
    source: str
    """Paper."""
    start: Start | None = None
    """The loss at policy = reference from settings and quantities by name, computed another way than the loss: checked on the first step.
    None if that depends on more than can be said beforehand."""
    prepare: Callable[..., Prepared] | None = None
    """What it needs of the whole step, from `whole_step`."""
    running: Mapping[str, float] = field(default_factory=dict)
    """State carried from step to step, at its beginning."""
    soft_labels: bool = False
    """Whether the mean of the loss over a label drawn with probability `p_soft` is what the method trains on soft labels (`soft_labels`)."""
    reward: Literal["sum", "mean"] = "sum"
    """Whether logged implicit rewards are of summed log-probabilities or per token, as in the loss."""
    scale: str = "beta"
    """The setting that logged implicit rewards are multiplied by; 1 if the loss has none of this name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Quantities that the loss takes."""
        return _tensors(self.loss)

    @property
    def prepare_names(self) -> tuple[str, ...]:
        """Whole-step quantities that `prepare` takes."""
        return _tensors(self.prepare) if self.prepare else ()

    @property
    def takes_soft_labels(self) -> bool:
        """Whether it uses how likely a label is: by its mean over labels, or because the loss itself asks for `p_soft`."""
        return self.soft_labels or "p_soft" in self.names

    @property
    def needs(self) -> Needs:
        """What has to be computed beside the policy's log-probabilities."""
        return Needs.of((*self.names, *self.prepare_names))

    @property
    def settings(self) -> dict[str, Setting]:
        """Its settings with their defaults, those of `prepare` included."""
        return _settings(self.prepare) | _settings(self.loss) if self.prepare else _settings(self.loss)


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A function's parameters by name."""
    return inspect.signature(function).parameters


def _tensors(function: Callable[..., Any]) -> tuple[str, ...]:
    """Parameters without a default; `running` and `draw` are every `prepare` function's."""
    return tuple(
        name
        for name, parameter in parameters(function).items()
        if parameter.default is inspect.Parameter.empty and name not in ("running", "draw")
    )


def _settings(function: Callable[..., Any]) -> dict[str, Setting]:
    return {
        name: parameter.default
        for name, parameter in parameters(function).items()
        if parameter.default is not inspect.Parameter.empty
    }


def call(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call a function with those of the values that it has parameters for."""
    return function(**{name: values[name] for name in parameters(function) if name in values})


def _ln2() -> float:
    return LN2


def _ipo(beta: float) -> float:
    return 1 / (4 * beta**2)


def _rpo(policy_chosen: Tensor, chosen_tokens: Tensor, alpha: float) -> Tensor:
    return LN2 - alpha * policy_chosen / chosen_tokens.clamp(min=1)


def _r_dpo(chosen_tokens: Tensor, rejected_tokens: Tensor, alpha: float) -> Tensor:
    return softplus(-alpha * (chosen_tokens - rejected_tokens))


def _exo(label_smoothing: float) -> float:
    return -LN2 - 0.5 * math.log(label_smoothing * (1 - label_smoothing))


def _wpo(chosen_weight: Tensor, rejected_weight: Tensor) -> Tensor:
    return (chosen_weight * rejected_weight).clamp(max=1) * LN2


def _plackett_luce(present: Tensor) -> Tensor:
    return torch.lgamma(present.sum(dim=1) + 1.0)


def _rank_dpo(present: Tensor, relevance: Tensor) -> Tensor:
    ranks = torch.arange(1, present.shape[1] + 1, device=present.device, dtype=relevance.dtype)
    return LN2 * listwise.lambda_weights(relevance, ranks.expand_as(relevance), present).sum(dim=(1, 2))


def _kto(good: Tensor, good_weight: float, bad_weight: float) -> Tensor:
    return torch.where(good, good_weight / 2, bad_weight / 2)


def _sppo_soft(p_soft: Tensor, beta: float) -> Tensor:
    return 2 * ((2 * p_soft - 1) / (2 * beta)).square()


def _bco_matched(good: Tensor, prompt_odds: Tensor, least: float, most: float) -> Tensor:
    return LN2 * torch.where(good, 1.0, prompt_odds.clamp(min=least).clamp(max=most))


def _npo(policy: Tensor, tokens: Tensor, good: Tensor, beta: float, retain: float) -> Tensor:
    return torch.where(good, -retain * policy / tokens.clamp(min=1), 2 / beta * LN2)


def _dro(score: Tensor, value: Tensor) -> Tensor:
    return 0.5 * (score - value).square()


OBJECTIVES: Mapping[str, Objective] = {
    "dpo": Objective(
        loss=partial(dpo_loss, beta=0.1),
        data="comparisons",
        source="arXiv:2305.18290",
        start=_ln2,
        soft_labels=True,
    ),
    "cdpo": Objective(
        loss=partial(dpo_loss, beta=0.1, label_smoothing=0.1),
        data="comparisons",
        source="ericmitchell.ai/cdpo.pdf",
        start=_ln2,
        soft_labels=True,
    ),
    "robust_dpo": Objective(
        loss=pairwise.robust_dpo_loss,
        data="comparisons",
        source="arXiv:2403.00409",
        start=_ln2,
        soft_labels=True,
    ),
    "ipo_sum": Objective(
        loss=pairwise.ipo_sum_loss,
        data="comparisons",
        source="arXiv:2310.12036",
        start=_ipo,
        soft_labels=True,
    ),
    "ipo_mean": Objective(
        loss=pairwise.ipo_mean_loss,
        data="comparisons",
        source="arXiv:2310.12036, per token",
        start=_ipo,
        soft_labels=True,
        reward="mean",
    ),
    "hinge": Objective(
        loss=pairwise.hinge_loss, data="comparisons", source="arXiv:2309.06657", start=lambda: 1.0
    ),
    "dpo_norm": Objective(
        loss=pairwise.dpo_norm_loss,
        data="comparisons",
        source="arXiv:2411.15124",
        start=_ln2,
        soft_labels=True,
        reward="mean",
    ),
    "rpo": Objective(loss=pairwise.rpo_loss, data="comparisons", source="arXiv:2404.19733", start=_rpo),
    "dpop": Objective(loss=pairwise.dpop_loss, data="comparisons", source="arXiv:2402.13228", start=_ln2),
    "tdpo1": Objective(loss=pairwise.tdpo1_loss, data="comparisons", source="arXiv:2404.11999", start=_ln2),
    "tdpo2": Objective(loss=pairwise.tdpo2_loss, data="comparisons", source="arXiv:2404.11999", start=_ln2),
    "f_dpo_forward_kl": Objective(
        loss=pairwise.f_dpo_forward_kl_loss, data="comparisons", source="arXiv:2309.16240", start=_ln2
    ),
    "f_dpo_jensen_shannon": Objective(
        loss=pairwise.f_dpo_jensen_shannon_loss, data="comparisons", source="arXiv:2309.16240", start=_ln2
    ),
    "f_dpo_alpha": Objective(
        loss=pairwise.f_dpo_alpha_loss, data="comparisons", source="arXiv:2309.16240", start=_ln2
    ),
    "beta_dpo": Objective(
        loss=pairwise.beta_dpo_loss,
        data="comparisons",
        source="arXiv:2407.08639",
        start=_ln2,
        prepare=whole_step.beta_dpo_step,
        running={"mean": 0.0, "std": 0.0},
    ),
    "r_dpo": Objective(loss=pairwise.r_dpo_loss, data="comparisons", source="arXiv:2403.19159", start=_r_dpo),
    "ld_dpo": Objective(loss=pairwise.ld_dpo_loss, data="comparisons", source="arXiv:2409.06411", start=_ln2),
    "gpo_exponential": Objective(
        loss=pairwise.gpo_exponential_loss, data="comparisons", source="arXiv:2402.05749", start=lambda: 1.0
    ),
    "gpo_truncated_square": Objective(
        loss=pairwise.gpo_truncated_square_loss,
        data="comparisons",
        source="arXiv:2402.05749",
        start=lambda: 1.0,
    ),
    "gpo_savage": Objective(
        loss=pairwise.gpo_savage_loss, data="comparisons", source="arXiv:2402.05749", start=lambda: 0.25
    ),
    "exo_pair": Objective(
        loss=pairwise.exo_pair_loss, data="comparisons", source="arXiv:2402.00856", start=_exo
    ),
    "nca_pair": Objective(
        loss=pairwise.nca_pair_loss, data="comparisons", source="arXiv:2402.05369", start=lambda: 2 * LN2
    ),
    "apo_zero": Objective(
        loss=pairwise.apo_zero_loss, data="comparisons", source="arXiv:2408.06266", start=lambda: 1.0
    ),
    "apo_down": Objective(
        loss=pairwise.apo_down_loss, data="comparisons", source="arXiv:2408.06266", start=lambda: 1.0
    ),
    "bco_pair": Objective(
        loss=pairwise.bco_pair_loss,
        data="comparisons",
        source="arXiv:2404.04656",
        start=lambda: 2 * LN2,
        prepare=whole_step.bco_pair_step,
        running={"reward_shift": 0.0},
    ),
    "sppo_hard": Objective(
        loss=pairwise.sppo_hard_loss,
        data="comparisons",
        source="arXiv:2405.00675",
        start=lambda beta: 0.5 / beta**2,
        soft_labels=True,
    ),
    "sppo_soft": Objective(
        loss=pairwise.sppo_soft_loss,
        data="comparisons",
        source="arXiv:2405.00675",
        start=_sppo_soft,
    ),
    "wpo": Objective(loss=pairwise.wpo_loss, data="comparisons", source="arXiv:2406.11827", start=_wpo),
    "aot": Objective(
        loss=pairwise.aot_loss,
        data="comparisons",
        source="arXiv:2406.05882",
        start=_ln2,
        prepare=whole_step.aot_step,
    ),
    "aot_paired": Objective(
        loss=pairwise.aot_paired_loss,
        data="comparisons",
        source="arXiv:2406.05882",
        start=_ln2,
        prepare=whole_step.aot_paired_step,
    ),
    "discopop": Objective(
        loss=pairwise.discopop_loss,
        data="comparisons",
        source="arXiv:2406.08414",
        start=lambda: 0.5 * LN2 + 0.5,
    ),
    "sft": Objective(
        loss=reference_free.sft_loss, data="comparisons", source="the chosen completion alone", reward="mean"
    ),
    "slic_hf": Objective(loss=reference_free.slic_hf_loss, data="comparisons", source="arXiv:2305.10425"),
    "simpo": Objective(
        loss=reference_free.simpo_loss, data="comparisons", source="arXiv:2405.14734", reward="mean"
    ),
    "orpo": Objective(
        loss=reference_free.orpo_loss, data="comparisons", source="arXiv:2403.07691", reward="mean"
    ),
    "cpo": Objective(loss=reference_free.cpo_loss, data="comparisons", source="arXiv:2401.08417"),
    "cringe": Objective(loss=reference_free.cringe_loss, data="comparisons", source="arXiv:2312.16682"),
    "unlikelihood": Objective(
        loss=reference_free.unlikelihood_loss, data="comparisons", source="a control, not a method"
    ),
    "pl_dpo": Objective(
        loss=listwise.pl_dpo_loss, data="rankings", source="arXiv:2305.18290", start=_plackett_luce
    ),
    "rrhf": Objective(loss=listwise.rrhf_loss, data="rankings", source="arXiv:2304.05302", reward="mean"),
    "pro": Objective(loss=listwise.pro_loss, data="rankings", source="arXiv:2306.17492", reward="mean"),
    "lipo_lambda": Objective(loss=listwise.lipo_lambda_loss, data="rankings", source="arXiv:2402.01878"),
    "rank_dpo": Objective(
        loss=listwise.rank_dpo_loss, data="rankings", source="arXiv:2410.18013", start=_rank_dpo
    ),
    "d2o": Objective(loss=listwise.d2o_loss, data="rankings", source="arXiv:2403.03419", start=_ln2),
    "kto": Objective(
        loss=unary.kto_loss,
        data="labels",
        source="arXiv:2402.01306",
        start=_kto,
        prepare=whole_step.kto_step,
    ),
    "bco": Objective(
        loss=unary.bco_loss,
        data="labels",
        source="arXiv:2404.04656",
        start=_ln2,
        prepare=whole_step.bco_step,
        running={"reward_shift": 0.0},
    ),
    "bco_matched": Objective(
        loss=unary.bco_matched_loss,
        data="labels",
        source="arXiv:2404.04656",
        start=_bco_matched,
        prepare=whole_step.bco_step,
        running={"reward_shift": 0.0},
    ),
    "npo": Objective(loss=unary.npo_loss, data="labels", source="arXiv:2404.05868", start=_npo),
    "dro": Objective(loss=unary.dro_loss, data="scores", source="arXiv:2405.19107", start=_dro, scale="tau"),
}
"""Name -> objective, by kind of data."""

_LIMITS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "beta": (lambda value: value > 0, "above 0"),
    "tau": (lambda value: value > 0, "above 0"),
    "label_smoothing": (lambda value: 0 <= value < 0.5, "at least 0 and below 0.5"),
    "least": (lambda value: value > 0, "above 0"),
    "kept": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "decay": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
}


def objective_of(function: Loss, *, name: str) -> Objective:
    """A function from outside as an objective; its parameters' names say which kind of data it trains on."""
    taken = set(_tensors(function))
    for data, known in QUANTITIES.items():
        if taken and taken <= set(known):
            return Objective(loss=checked_loss(function, name=name, data=data), data=data, source=name)
    listed = "; ".join(f"{data}: {', '.join(known)}" for data, known in QUANTITIES.items())
    raise InputError(
        f"loss {name} takes {', '.join(taken) or 'nothing'}; its parameters without a default must be quantities of one kind of data ({listed})"
    )


EACH: Mapping[Data, str] = {
    "comparisons": "comparison",
    "rankings": "ranking",
    "labels": "completion",
    "scores": "completion",
}
"""Kind of data -> what a loss gives one number for."""


def checked_loss(function: Loss, *, name: str, data: Data) -> Loss:
    """The same loss, whose result is refused unless it is one number an example, with a gradient where its arguments have one.

    A loss of `[B, B]`, by a slip of broadcasting, or one that is reduced already would train on another objective than it says. Raises
    `InputError` that names the loss, the shape it gave and the shape wanted; what the loss raises itself is one too, with its line.
    """

    @wraps(function)
    def loss(**values: Any) -> Tensor:
        result = call_user(function, what=f"loss {name}", **values)
        tensors = [value for value in values.values() if isinstance(value, Tensor)]
        count = len(tensors[0])
        wanted = f"it must return a tensor of shape [{count}], the loss of each {EACH[data]}; the mean over them is taken for you"
        if not isinstance(result, Tensor):
            raise InputError(f"loss {name} returned {result!r:.60} of type {type(result).__name__}; {wanted}")
        if result.shape != (count,):
            raise InputError(f"loss {name} returned a tensor of shape {list(result.shape)}; {wanted}")
        if not result.is_floating_point():
            raise InputError(f"loss {name} returned a tensor of {result.dtype}; it must be of floating point")
        if (
            torch.is_grad_enabled()
            and not result.requires_grad
            and any(value.requires_grad for value in tensors)
        ):
            raise InputError(
                f"loss {name} returned a tensor without a gradient, so it would train nothing; compute it from its arguments with torch, "
                "without .detach(), .item() or torch.no_grad()"
            )
        return result

    return loss


def settings_of(objective: Objective, given: Sequence[str], *, loss: str) -> dict[str, Setting]:
    """The objective's settings: defaults with `name=value` words over them.

    Raises `InputError` for a name that it does not have (with the nearest), one given twice, and a value of the wrong type or range.
    """
    settings = dict(objective.settings)
    seen: set[str] = set()
    for word in given:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"settings has {word!r}; write name=value, for example beta=0.1")
        if name not in settings:
            near = difflib.get_close_matches(name, list(settings), n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(settings) or 'none'}"
            raise InputError(f"settings has {word!r}, but loss {loss} has no setting {name}; {hint}")
        if name in seen:
            raise InputError(f"settings gives {name} twice; give it once")
        seen.add(name)
        settings[name] = _parsed(name, text, settings[name])
    for name, value in settings.items():
        fits, wanted = _LIMITS.get(name, (lambda value: True, ""))
        if not (math.isfinite(value) and fits(value)):
            raise InputError(f"settings: {name} is {value:g}; it must be {wanted or 'a finite number'}")
    smoothing, least = settings.get("label_smoothing"), settings.get("least", -math.inf)
    if loss == "exo_pair" and smoothing == 0:
        raise InputError(
            "settings: label_smoothing is 0, but exo_pair takes its logarithm; set it above 0, such as 0.001"
        )
    most = settings.get("most", math.inf)
    if least > most:
        raise InputError(
            f"settings: least is {least:g}, above most, {most:g}; weights are held between the two"
        )
    return settings


def _parsed(name: str, text: str, default: Setting) -> Setting:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(default)(text)
    except (ValueError, KeyError):
        wanted = "true or false" if isinstance(default, bool) else "a number"
        raise InputError(f"settings: {name} is {text!r}; it must be {wanted}") from None


def unknown_objective(name: str) -> str:
    """What to say of a name that no objective has."""
    near = difflib.get_close_matches(name, list(OBJECTIVES), n=1)
    return f"loss is {name!r}, which is not an objective; " + (
        f"did you mean {near[0]}?"
        if near
        else f"the objectives are {', '.join(OBJECTIVES)}, or module:function"
    )


def over_labels(loss: Loss, values: Mapping[str, Any]) -> Tensor:
    """A loss on comparisons, averaged over a label that is right with probability `p_soft`: `[B]`.

        p ℓ(chosen, rejected) + (1 - p) ℓ(rejected, chosen)

    Of DPO it is conservative DPO with a noise rate for each comparison, -p log σ(βh) - (1 - p) log σ(-βh), lowest at βh = log(p/(1 - p)); of IPO,
    up to a constant, (h - (2p - 1)/(2β))²; of SPPO, up to a constant, its soft form (ρ_w - (p - ½)/β)² + (ρ_l - (½ - p)/β)². The hard loss at p = 1,
    and the same for a comparison with the sides swapped with 1 - p.
    """
    swapped = {_other_side(name): value for name, value in values.items()}
    p = values["p_soft"]
    return p * call(loss, values) + (1 - p) * call(loss, swapped)


def _other_side(name: str) -> str:
    """The name of the same quantity of the other completion."""
    for one, other in (("chosen", "rejected"), ("rejected", "chosen")):
        if one in name:
            return name.replace(one, other)
    return name


def only_mismatched(objective: Objective) -> bool:
    """Whether `prepare` looks at mismatched completions alone."""
    return bool(objective.prepare_names) and set(objective.prepare_names) <= set(MISMATCHED)
