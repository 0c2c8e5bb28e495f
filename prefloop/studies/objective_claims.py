"""What the study of all objectives is given: the settings that each is tuned over, families, and what papers claim of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefloop.losses.objectives import OBJECTIVES

Setting = Mapping[str, float]

BETAS = (0.03, 0.1, 0.3, 1.0, 3.0)


def _one(name: str, *values: float) -> tuple[Setting, ...]:
    """Five values of the only setting."""
    return tuple({name: value} for value in values)


def _two(
    name: str, strengths: Sequence[float], other: str, usual: float, *further: float
) -> tuple[Setting, ...]:
    """Three strengths at the usual value of the other setting, and two further values of it at the middle strength."""
    return (
        *({name: strength, other: usual} for strength in strengths),
        *({name: strengths[1], other: value} for value in further),
    )


MIDDLE = (0.1, 0.3, 1.0)
SWEEPS: Mapping[str, tuple[Setting, ...]] = {
    **{
        name: _one("beta", *BETAS)
        for name in (
            *("dpo", "ipo_sum", "hinge", "tdpo1", "f_dpo_forward_kl", "f_dpo_jensen_shannon"),
            *("gpo_exponential", "gpo_truncated_square", "gpo_savage", "nca_pair", "apo_zero", "apo_down"),
            *("bco_pair", "sppo_hard", "sppo_soft", "wpo", "aot", "aot_paired"),
            *("pl_dpo", "lipo_lambda", "rank_dpo", "bco", "bco_matched"),
        )
    },
    "cdpo": _two("beta", MIDDLE, "label_smoothing", 0.1, 0.02, 0.3),
    "robust_dpo": _two("beta", MIDDLE, "label_smoothing", 0.1, 0.02, 0.3),
    "ipo_mean": _one("beta", 0.1, 0.3, 1.0, 3.0, 10.0),
    "dpo_norm": _one("beta", 0.3, 1.0, 3.0, 10.0, 30.0),
    "rpo": _two("beta", MIDDLE, "alpha", 1.0, 0.1, 0.01),
    "dpop": _two("beta", MIDDLE, "penalty", 5.0, 50.0, 0.5),
    "tdpo2": _two("beta", MIDDLE, "alpha", 0.5, 0.1, 1.0),
    "f_dpo_alpha": _two("beta", MIDDLE, "alpha", 0.5, 0.3, 0.7),
    "beta_dpo": _two("beta", MIDDLE, "sensitivity", 0.6, 0.2, 1.0),
    "r_dpo": _two("beta", MIDDLE, "alpha", 0.01, 0.1, 1.0),
    "ld_dpo": _two("beta", MIDDLE, "alpha", 0.5, 0.0, 0.8),
    "exo_pair": _two("beta", MIDDLE, "label_smoothing", 0.001, 0.01, 0.1),
    "discopop": _two("beta", MIDDLE, "tau", 0.05, 0.2, 1.0),
    "sft": _one("rate", 0.1, 0.3, 1.0, 2.0, 3.0),
    "slic_hf": _two("delta", (0.3, 1.0, 3.0), "sft", 0.1, 0.01, 1.0),
    "simpo": _two("beta", (1.0, 2.5, 10.0), "gamma", 1.0, 0.3, 2.0),
    "orpo": _one("weight", 0.1, 0.3, 1.0, 3.0, 10.0),
    "cpo": _two("beta", MIDDLE, "alpha", 1.0, 0.1, 0.01),
    "cringe": _two("alpha", (0.02, 0.2, 1.0), "tau", 10.0, 3.0, 1.0),
    "unlikelihood": _one("alpha", 0.05, 0.2, 0.5, 0.8, 1.0),
    "rrhf": _one("sft", 0.01, 0.03, 0.1, 0.3, 1.0),
    "pro": _one("sft", 0.002, 0.01, 0.05, 0.2, 1.0),
    "d2o": _two("beta", MIDDLE, "alpha", 0.1, 0.3, 1.0),
    "kto": _two("beta", MIDDLE, "good_weight", 1.0, 0.75, 1.33),
    "npo": _two("beta", MIDDLE, "retain", 1.0, 0.1, 0.01),
    "dro": _one("tau", 0.1, 0.3, 0.5, 1.0, 3.0),
}
"""Objective -> the five settings that it is tuned over: strength, and what its paper tunes besides. `rate` multiplies the learning rate."""

MARGIN, ABSOLUTE, FREE, RANKED, LABELLED, SCORED = (
    "comparisons, by margin",
    "comparisons, each side by itself",
    "comparisons, without a reference",
    "rankings",
    "labels",
    "scores",
)
FAMILIES = (MARGIN, ABSOLUTE, FREE, RANKED, LABELLED, SCORED)


def family_of(name: str) -> str:
    """By what an objective trains on and what it looks at there."""
    objective = OBJECTIVES[name]
    if objective.data != "comparisons":
        return {"rankings": RANKED, "labels": LABELLED, "scores": SCORED}[objective.data]
    if not objective.needs.reference:
        return FREE
    sides = ("nca_pair", "apo_zero", "apo_down", "bco_pair", "sppo_hard", "sppo_soft")
    return ABSOLUTE if name in sides else MARGIN


CLOSE = -0.1
"""True reward less DPO's, in standard deviations, above which an objective is at least as good."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a paper says of its objective beside DPO."""

    words: str
    source: str
    above: float = 0.0
    """The claim holds where true reward less DPO's is above this."""


CLAIMS: Mapping[str, Claim] = {
    "ipo_sum": Claim(
        words="IPO, which keeps its margin finite, overfits less than DPO", source="arXiv:2310.12036"
    ),
    "robust_dpo": Claim(words="robust DPO is better than DPO where labels err", source="arXiv:2403.00409"),
    "dpo_norm": Claim(words="length-normalised DPO is better than DPO", source="arXiv:2411.15124"),
    "rpo": Claim(
        words="DPO with the chosen completion's likelihood is better than DPO", source="arXiv:2404.19733"
    ),
    "dpop": Claim(words="DPO-positive is better than DPO", source="arXiv:2402.13228"),
    "tdpo2": Claim(words="TDPO is better than DPO", source="arXiv:2404.11999"),
    "beta_dpo": Claim(words="β-DPO is better than DPO", source="arXiv:2407.08639"),
    "ld_dpo": Claim(
        words="length-desensitised DPO is better than DPO at equal length", source="arXiv:2409.06411"
    ),
    "exo_pair": Claim(words="EXO is better than DPO", source="arXiv:2402.00856"),
    "nca_pair": Claim(words="NCA is better than DPO", source="arXiv:2402.05369"),
    "apo_zero": Claim(words="APO-zero is better than DPO", source="arXiv:2408.06266"),
    "bco": Claim(
        words="BCO, from single labels, is at least as good as DPO", source="arXiv:2404.04656", above=CLOSE
    ),
    "sppo_soft": Claim(words="SPPO is better than DPO", source="arXiv:2405.00675"),
    "wpo": Claim(words="WPO is better than DPO", source="arXiv:2406.11827"),
    "aot": Claim(words="AOT is better than DPO", source="arXiv:2406.05882"),
    "discopop": Claim(words="DiscoPOP is better than DPO", source="arXiv:2406.08414"),
    "simpo": Claim(words="SimPO is better than DPO", source="arXiv:2405.14734"),
    "orpo": Claim(words="ORPO, without a reference, is better than DPO", source="arXiv:2403.07691"),
    "cpo": Claim(words="CPO is better than DPO", source="arXiv:2401.08417"),
    "cringe": Claim(words="pairwise CRINGE is better than DPO", source="arXiv:2312.16682"),
    "lipo_lambda": Claim(words="LiPO-λ, from rankings, is better than DPO", source="arXiv:2402.01878"),
    "kto": Claim(
        words="KTO, from single labels, is at least as good as DPO", source="arXiv:2402.01306", above=CLOSE
    ),
}
"""By objective."""
