"""What is compared: our side of every case, and where the two are known to differ, why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prefloop.losses import gae, kl, reduce, returns_to_go
from prefloop.losses.critic_free import RATIOS, REDUCTIONS, SURROGATES
from prefloop.losses.objectives import OBJECTIVES, call
from prefloop.losses.policy_gradient import clipped_surrogate
from prefloop.losses.quantities import MISMATCHED, TokenNumbers, quantities
from prefloop.losses.reward_model import bradley_terry, centring

Numbers = Mapping[str, Tensor]
Ours = Callable[[Numbers, Tensor], Tensor]
"""Numbers and the log-probabilities that a gradient is taken in; a loss, or a tensor without gradient."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One of our functions beside one of theirs."""

    name: str
    ours: Ours
    theirs: str
    """A function of theirs.py."""
    settings: Mapping[str, Any]
    """Of theirs."""
    package: str
    data: str = "pairs"
    differs: str = ""
    """Why the two are not the same number; empty where they must be."""
    tolerance: float = 1e-6
    extra: Mapping[str, float] = field(default_factory=dict)


def numbers() -> dict[str, Tensor]:
    """Ragged completions, float64, the same ones every time: ten in pairs, in groups of five, judged one by one."""

    def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    lengths = torch.tensor([4, 2, 1, 7, 3, 3, 6, 5, 2, 4])
    mask = (torch.arange(7) < lengths[:, None]).long()
    logprobs = normal(10, 7, seed=1, scale=0.8).abs().neg() - 0.2
    old = logprobs + normal(10, 7, seed=3, scale=0.3)
    pairs = {
        "logprobs": logprobs,
        "reference": logprobs + normal(10, 7, seed=2, scale=0.6),
        "mask": mask,
        # A distribution's Σ p² is at most its largest p: log π - log Σ p² is about 0, on both sides of it
        "log_collision": logprobs + normal(10, 7, seed=8, scale=0.4) + 0.1,
        "margin": normal(5, seed=4).abs(),
    }
    unlikely = pairs | {"log_collision": logprobs + normal(10, 7, seed=8).abs()}
    labels = pairs | {
        "good": torch.tensor([1, 0, 1, 1, 0, 1, 0, 0, 1, 1]),
        "mismatched": normal(10, 2, seed=5) - torch.tensor([2.0, 2.5]),
    }
    groups = pairs | {"old": old, "advantages": normal(10, seed=6)}
    parts = {"pairs": pairs, "unlikely": unlikely, "labels": labels, "groups": groups}
    return {f"{part}/{name}": value.clone() for part, all in parts.items() for name, value in all.items()}


def objective(name: str, n: Numbers, logprobs: Tensor, *, shared: Mapping[str, float] | None = None, **settings: float) -> Tensor:  # fmt: skip
    """Mean loss of a step by an entry of `OBJECTIVES`; `shared` takes the place of what the step would work out."""
    each = OBJECTIVES[name]
    count = len(logprobs)
    given = TokenNumbers(
        logprobs=logprobs,
        mask=n["mask"].bool(),
        group=torch.arange(count) if each.data == "labels" else torch.arange(count) // 2,
        reference=n["reference"],
        log_collision=n["log_collision"],
        labels=n["good"].double() if each.data == "labels" else torch.ones(count, dtype=torch.float64),
    )
    chosen = {**each.settings, **settings}
    extra: dict[str, Any] = {key: torch.tensor(value).double() for key, value in (shared or {}).items()}
    if each.prepare and not extra:
        names = [key for key in each.prepare_names if key not in MISMATCHED]
        known = {key: value.detach() for key, value in quantities(each.data, names, given).items()}
        if "mismatched" in n:
            known |= {key: n["mismatched"][:, i] for i, key in enumerate(MISMATCHED)}
        state = {"running": each.running, "draw": torch.Generator().manual_seed(0)}
        result = call(each.prepare, {**known, **chosen, **state})
        extra = {**result.shared, **result.each}
    known = quantities(each.data, [key for key in each.names if key not in extra], given)
    losses = call(each.loss, {**known, **extra, **chosen})
    return reduce.example_mean(losses, examples=len(losses))


def pair(
    ours: str,
    loss_type: str,
    *,
    theirs: Mapping[str, Any] | None = None,
    name: str = "",
    shared: Mapping[str, float] | None = None,
    differs: str = "",
    data: str = "pairs",
    tolerance: float = 1e-6,
    **settings: float,
) -> Case:
    """An objective on comparisons beside a loss type of TRL's DPOTrainer."""
    beta = settings.get("beta", OBJECTIVES[ours].settings.get("beta", 0.1))
    return Case(
        name=name or ours,
        ours=partial(objective, ours, shared=shared, **settings),
        theirs="dpo",
        settings={"loss_type": loss_type, "beta": beta, **(theirs or {})},
        package=f"TRL DPOTrainer {loss_type}",
        differs=differs,
        data=data,
        tolerance=tolerance,
    )


def token_mean_nll(n: Numbers, logprobs: Tensor) -> Tensor:
    """What `sft_coef` adds: over all chosen tokens alike."""
    mask = n["mask"].bool()[0::2]
    return reduce.token_mean(-logprobs[0::2], mask, tokens=float(mask.sum()))


def preference_part(name: str, n: Numbers, logprobs: Tensor, **settings: float) -> Tensor:
    """A reference-free objective less its likelihood term, which TRL adds elsewhere."""
    likelihood = objective("sft", n, logprobs)
    return objective(name, n, logprobs, shared=None, **settings) - likelihood


def scores(n: Numbers, logprobs: Tensor, *, margin: bool, coefficient: float) -> Tensor:
    """Bradley-Terry of one score a completion."""
    chosen, rejected = logprobs[0::2, 0], logprobs[1::2, 0]
    losses = bradley_terry(chosen, rejected, margin=n["margin"] if margin else 0.0)
    losses = losses + coefficient * centring(chosen, rejected)
    return reduce.example_mean(losses, examples=len(losses))


def group(n: Numbers, logprobs: Tensor, *, ratio: str, surrogate: str, reduction: str, clip: tuple[float, float], length: int = 1, beta: float = 0.0) -> Tensor:  # fmt: skip
    """A critic-free method's loss, given advantages."""
    mask = n["mask"].bool()
    advantages = n["advantages"][:, None].expand_as(logprobs)
    of = RATIOS[ratio]
    losses = SURROGATES[surrogate](of(logprobs, mask), of(n["old"], mask), advantages, clip=clip)
    losses = losses + beta * kl.k3(logprobs, n["reference"])
    counts = {"tokens": float(mask.sum()), "sequences": float(len(mask)), "length": length}
    return REDUCTIONS[reduction](losses, mask, **counts)


def critic_free(name: str, theirs: Mapping[str, Any], *, differs: str = "", beta: float = 0.0, **ours: Any) -> Case:  # fmt: skip
    """A critic-free method beside a loss type of TRL's GRPOTrainer."""
    low, high = ours["clip"]
    return Case(
        name=name,
        ours=partial(group, beta=beta, **ours),
        theirs="grpo",
        settings={"low": low, "high": high, "beta": beta, **theirs},
        package=f"TRL GRPOTrainer {theirs['loss_type']}",
        data="groups",
        differs=differs,
    )


def plain_surrogate(n: Numbers, logprobs: Tensor, *, clip: float) -> Tensor:
    """PPO's loss, every token alike."""
    mask = n["mask"].bool()
    advantages = n["advantages"][:, None].expand_as(logprobs)
    losses = clipped_surrogate(logprobs, n["old"], advantages, clip=clip)
    return reduce.token_mean(losses, mask, tokens=float(mask.sum()))


def estimates(n: Numbers, logprobs: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates; rewards and values are two of the tensors."""
    return gae(n["reference"], n["old"], n["mask"].bool(), gamma=gamma, lam=lam)[0]


def discounted(n: Numbers, logprobs: Tensor, *, gamma: float) -> Tensor:
    """Returns to go."""
    return returns_to_go(n["reference"], n["mask"].bool(), gamma=gamma)


CASES: tuple[Case, ...] = (
    pair("dpo", "sigmoid"),
    pair("robust_dpo", "robust", theirs={"label_smoothing": 0.1}),
    pair("hinge", "hinge"),
    pair("ipo_mean", "ipo"),
    pair(
        "ipo_sum",
        "ipo",
        differs="TRL divides log-ratios by lengths, saying that the paper's authors do; the paper's equation sums, as does `ipo_sum`. `ipo_mean` is TRL's.",
    ),
    pair("dpo_norm", "sigmoid_norm"),
    pair("exo_pair", "exo_pair", theirs={"label_smoothing": 1e-3}),
    pair("nca_pair", "nca_pair", beta=0.1),
    pair("bco_pair", "bco_pair", name="bco_pair without its shift", shared={"reward_shift": 0.0}, beta=0.5),
    pair(
        "bco_pair",
        "bco_pair",
        beta=0.5,
        differs="TRL's loss on pairs leaves out the reward shift δ of the paper; it is the same at δ = 0.",
    ),
    pair("sppo_hard", "sppo_hard", beta=0.1),
    pair("aot", "aot_unpaired"),
    pair("aot_paired", "aot"),
    pair("apo_zero", "apo_zero"),
    pair("apo_down", "apo_down"),
    pair("discopop", "discopop", theirs={"tau": 0.05}),
    pair("f_dpo_forward_kl", "sigmoid", theirs={"f_divergence_type": "forward_kl"}),
    pair("f_dpo_jensen_shannon", "sigmoid", theirs={"f_divergence_type": "js_divergence"}),
    pair(
        "f_dpo_alpha",
        "sigmoid",
        name="f_dpo_alpha, α = 0.3",
        alpha=0.3,
        # float32, which is what TRL computes this one in
        theirs={"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        tolerance=5e-6,
    ),
    pair(
        "f_dpo_alpha",
        "sigmoid",
        name="f_dpo_alpha, the same α",
        alpha=0.3,
        theirs={"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
        differs="TRL's α is 1 less ours: its derivative is (u^(α-1) - 1)/(α-1), the paper's (1 - u^-α)/α.",
    ),
    pair("ld_dpo", "sigmoid", theirs={"ld_alpha": 0.5}),
    pair(
        "wpo", "sigmoid", name="wpo of unlikely completions", theirs={"use_weighting": True}, data="unlikely"
    ),
    pair(
        "wpo",
        "sigmoid",
        theirs={"use_weighting": True},
        differs="Here the product of weights is held at 1 at most, as the paper's is; TRL's is not.",
    ),
    Case(
        name="sft_coef, over tokens",
        ours=token_mean_nll,
        theirs="dpo",
        settings={"loss_type": "sft", "beta": 0.1},
        package="TRL DPOTrainer sft",
    ),
    pair(
        "sft",
        "sft",
        differs="TRL's mean is over the batch's tokens, that of `sft` over each completion's and then over completions; `--sft_coef` is over tokens.",
    ),
    Case(
        name="ipo_sum without a reference",
        ours=lambda n, x: objective("ipo_sum", {**n, "reference": 0 * n["reference"]}, x),
        theirs="cpo",
        settings={"loss_type": "ipo", "beta": 0.1},
        package="TRL CPOTrainer ipo",
    ),
    Case(
        name="simpo",
        ours=partial(objective, "simpo", beta=2.5, gamma=0.7),
        theirs="cpo",
        settings={"loss_type": "simpo", "beta": 2.5, "gamma": 0.7},
        package="TRL CPOTrainer simpo",
    ),
    Case(
        name="cpo, preference part",
        ours=partial(preference_part, "cpo", beta=0.3),
        theirs="cpo",
        settings={"loss_type": "sigmoid", "beta": 0.3},
        package="TRL CPOTrainer sigmoid",
    ),
    Case(
        name="orpo, preference part",
        ours=partial(preference_part, "orpo", weight=0.25),
        theirs="orpo",
        settings={"beta": 0.25},
        package="TRL ORPOTrainer",
        tolerance=5e-6,  # TRL's is float32
    ),
    Case(
        name="kto",
        ours=partial(objective, "kto", beta=0.3, good_weight=1.3),
        theirs="kto",
        settings={"beta": 0.3, "good_weight": 1.3, "bad_weight": 1.0},
        package="TRL KTOTrainer kto",
        data="labels",
    ),
    Case(
        name="kto at z = 0",
        ours=partial(objective, "kto", shared={"reference_point": 0.0}, beta=0.3),
        theirs="kto",
        settings={"beta": 0.3, "good_weight": 1.0, "bad_weight": 1.0, "loss_type": "apo_zero_unpaired"},
        package="TRL KTOTrainer apo_zero_unpaired",
        data="labels",
    ),
    *(
        Case(
            name=f"bradley_terry{', margin' if margin else ''}{', centring' if coefficient else ''}",
            ours=partial(scores, margin=margin, coefficient=coefficient),
            theirs="reward",
            settings={"margin": margin, "centring": coefficient or None},
            package="TRL RewardTrainer",
        )
        for margin, coefficient in ((False, 0.0), (True, 0.0), (True, 0.01))
    ),
    critic_free(
        "grpo",
        {"loss_type": "grpo"},
        ratio="token",
        surrogate="clipped",
        reduction="sequence_mean",
        clip=(0.2, 0.2),
    ),
    critic_free(
        "grpo with k3",
        {"loss_type": "grpo"},
        ratio="token",
        surrogate="clipped",
        reduction="sequence_mean",
        clip=(0.2, 0.2),
        beta=0.04,
    ),
    critic_free(
        "dr_grpo",
        {"loss_type": "dr_grpo", "length": 9},
        ratio="token",
        surrogate="clipped",
        reduction="fixed_length",
        clip=(0.2, 0.2),
        length=9,
    ),
    critic_free(
        "dapo",
        {"loss_type": "dapo"},
        ratio="token",
        surrogate="clipped",
        reduction="token_mean",
        clip=(0.2, 0.28),
    ),
    critic_free(
        "gspo",
        {"loss_type": "grpo", "level": "sequence"},
        ratio="sequence_mean",
        surrogate="clipped",
        reduction="sequence_mean",
        clip=(0.003, 0.004),
    ),
    critic_free(
        "cispo, no lower bound",
        {"loss_type": "cispo", "low": 0.0, "high": 1.28},
        ratio="token",
        surrogate="weighted",
        reduction="token_mean",
        clip=(1.0, 0.28),
    ),
    critic_free(
        "cispo, the same numbers",
        {"loss_type": "cispo"},
        ratio="token",
        surrogate="weighted",
        reduction="token_mean",
        clip=(0.2, 0.28),
        differs="TRL holds the weight at ε_high itself, and not from below; here, as in the paper's equation, it is held in [1 - low, 1 + high].",
    ),
    Case(
        name="rloo with a clipped ratio",
        ours=partial(
            group, ratio="sequence_sum", surrogate="clipped", reduction="sequence_mean", clip=(0.2, 0.2)
        ),
        theirs="rloo",
        settings={"low": 0.2, "high": 0.2},
        package="TRL RLOOTrainer",
        data="groups",
    ),
    Case(
        name="rloo",
        ours=partial(group, ratio="token", surrogate="score", reduction="sequence_sum", clip=(0.2, 0.2)),
        theirs="rloo",
        settings={"low": 0.2, "high": 0.2},
        package="TRL RLOOTrainer",
        data="groups",
        differs="TRL clips the ratio of whole completions, as PPO does; `rloo` is REINFORCE, as in the paper. Their gradients agree on samples of the policy itself.",
    ),
    *(
        Case(
            name=f"gae, γ {gamma:g}, λ {lam:g}",
            ours=partial(estimates, gamma=gamma, lam=lam),
            theirs="gae",
            settings={"gamma": gamma, "lam": lam},
            package="rlax truncated_generalized_advantage_estimation",
            data="groups",
        )
        for gamma, lam in ((1.0, 0.95), (0.97, 1.0), (0.9, 0.0))
    ),
    Case(
        name="returns, γ 0.9",
        ours=partial(discounted, gamma=0.9),
        theirs="returns",
        settings={"gamma": 0.9},
        package="rlax discounted_returns",
        data="groups",
    ),
    Case(
        name="clipped_surrogate",
        ours=partial(plain_surrogate, clip=0.2),
        theirs="surrogate",
        settings={"clip": 0.2},
        package="rlax clipped_surrogate_pg_loss",
        data="groups",
    ),
)
"""Every one of ours that one of theirs computes, and where they part."""

ONLY_HERE = (
    "bco, bco_matched",
    "beta_dpo",
    "cdpo (TRL's `sigmoid` has no label smoothing any more)",
    "cringe",
    "dpop",
    "dro",
    "gpo_*",
    "listwise objectives",
    "npo",
    "r_dpo",
    "rpo (TRL adds losses: `sigmoid` and `sft`, whose mean is over tokens)",
    "slic_hf",
    "sppo_soft",
    "tdpo1, tdpo2",
    "unlikelihood",
)
"""Objectives without a counterpart in the packages above."""
