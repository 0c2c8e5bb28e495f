"""How each objective is checked. A test asks that none is missing, and the page docs/objectives.md shows it."""

from collections.abc import Mapping
from dataclasses import dataclass

OPTIMUM = "test_tabular_offline.test_the_optimum_is_where_theory_puts_it"
REDUCTION = "test_objectives.test_methods_that_contain_others_reduce_to_them"
LOWEST = "test_objectives.test_optima_are_where_theory_puts_them"
SIGN = "test_objectives.test_a_step_from_the_reference_raises_chosen_and_lowers_rejected"
ABSENT = "test_objectives.test_rankings_absent_places_do_not_count"


@dataclass(frozen=True, slots=True)
class Property:
    """Something that can fail, beside the properties that all share: padding, order of examples, extremes, settings."""

    says: str
    test: str
    """`module.function` in tests/losses."""


def _all(*given: Property) -> tuple[Property, ...]:
    return given


BETA_DPO = "test_objectives.test_beta_dpo_filters_and_scales_as_its_formulas_say"
PROPERTIES: Mapping[str, tuple[Property, ...]] = {
    "dpo": _all(Property("ends in π* on infinite comparisons", OPTIMUM)),
    "cdpo": _all(
        Property("margin stops at log((1-ε)/ε)/β", "test_tabular_offline.test_cdpo_holds_margins_where_dpo_does_not")
    ),
    "robust_dpo": _all(
        Property("ends in π* although labels are flipped", OPTIMUM),
        Property("mean over flips is DPO", "test_objectives.test_robust_dpo_is_unbiased_under_flips"),
    ),
    "ipo_sum": _all(Property("least squares of 2p-1 on infinite comparisons", OPTIMUM), Property("lowest at h = 1/(2β)", LOWEST)),
    "ipo_mean": _all(
        Property("is ipo_sum of per-token log-ratios", "test_objectives.test_means_are_sums_of_what_is_divided")
    ),
    "hinge": _all(Property("its square is the truncated square", REDUCTION)),
    "dpo_norm": _all(Property("of one-token completions it is DPO", REDUCTION)),
    "rpo": _all(Property("DPO at α = 0", REDUCTION)),
    "dpop": _all(Property("DPO without its penalty", REDUCTION)),
    "tdpo1": _all(Property("DPO where the KLs are 0", REDUCTION)),
    "tdpo2": _all(
        Property("DPO at α = 0", REDUCTION),
        Property("no gradient through the chosen KL", "test_objectives.test_weights_and_statistics_pass_no_gradient"),
    ),
    "f_dpo_forward_kl": _all(Property("ends where -1/u = r/β + c", OPTIMUM), Property("is f_dpo_alpha at 1", REDUCTION)),
    "f_dpo_jensen_shannon": _all(Property("ends where log(2u/(1+u)) = r/β + c", OPTIMUM)),
    "f_dpo_alpha": _all(Property("ends where (1-u^-α)/α = r/β + c", OPTIMUM), Property("DPO as α → 0", REDUCTION)),
    "beta_dpo": _all(Property("filter's shares and β of the step", BETA_DPO), Property("DPO where it keeps all", REDUCTION)),
    "r_dpo": _all(Property("DPO at α = 0", REDUCTION)),
    "ld_dpo": _all(Property("DPO at α = 1, and of equal lengths", REDUCTION)),
    "gpo_exponential": _all(Property("ends in π* of 2β", OPTIMUM)),
    "gpo_truncated_square": _all(Property("least squares of 2p-1", OPTIMUM), Property("ipo_sum below its corner", REDUCTION)),
    "gpo_savage": _all(Property("ends in π* on infinite comparisons", OPTIMUM)),
    "exo_pair": _all(Property("lowest, and 0, where q = p", LOWEST)),
    "nca_pair": _all(Property("lowest in ρ_w at log(2)/β", LOWEST)),
    "apo_zero": _all(Property("is KTO of both kinds at z = 0", REDUCTION)),
    "apo_down": _all(Property("chosen do not rise at the start, rejected fall", SIGN)),
    "bco_pair": _all(Property("is BCO of both kinds at one shift", REDUCTION)),
    "sppo_hard": _all(Property("lowest in ρ_w at 1/(2β)", LOWEST)),
    "sppo_soft": _all(
        Property("is sppo_hard where wins are certain", REDUCTION),
        Property("each side goes to (p - ½)/β", "test_objectives.test_sppo_pulls_each_side_to_its_win_rate"),
    ),
    "wpo": _all(
        Property("DPO of certain policies", REDUCTION),
        Property("no gradient through its weights", "test_objectives.test_weights_and_statistics_pass_no_gradient"),
    ),
    "aot": _all(
        Property("sorted couples, whatever order comparisons come in", "test_objectives.test_order_of_comparisons_does_not_matter")
    ),
    "aot_paired": _all(Property("DPO of a step of one comparison", REDUCTION)),
    "discopop": _all(Property("its slope at the start, by its formula", SIGN)),
    "sft": _all(Property("the rejected side has no gradient", SIGN)),
    "slic_hf": _all(Property("raises chosen, lowers rejected", SIGN)),
    "simpo": _all(
        Property("is TRL's, γ/β inside", REDUCTION),
        Property("-log σ(-γ) at equal means", "test_objectives.test_reference_free_values_at_equal_means_by_hand"),
    ),
    "orpo": _all(
        Property("log-odds lose no digits", "test_objectives.test_log_odds_lose_no_digits"),
        Property("value at equal means", "test_objectives.test_reference_free_values_at_equal_means_by_hand"),
    ),
    "cpo": _all(Property("DPO against a uniform reference at α = 0", REDUCTION)),
    "cringe": _all(
        Property("half of its parts where the gate never closes", REDUCTION),
        Property("gate closes with the lead", "test_objectives.test_cringe_lets_go_of_comparisons_that_are_far_apart"),
    ),
    "unlikelihood": _all(Property("raises chosen, lowers rejected", SIGN)),
    "pl_dpo": _all(Property("ends in π* on infinite rankings", OPTIMUM), Property("DPO at K = 2", REDUCTION)),
    "rrhf": _all(Property("a hinge on means of two, without its likelihood", REDUCTION), Property("places without a completion do not count", ABSENT)),
    "pro": _all(Property("CPO of means of two, without its likelihood", REDUCTION), Property("places without a completion do not count", ABSENT)),
    "lipo_lambda": _all(
        Property("weights are what a swap changes of the DCG", "test_objectives.test_lambda_weights_are_changes_of_the_dcg"),
        Property("places without a completion do not count", ABSENT),
    ),
    "rank_dpo": _all(
        Property("of two it is DPO times Δ", "test_objectives.test_lambda_weights_are_changes_of_the_dcg"),
        Property("places without a completion do not count", ABSENT),
    ),
    "d2o": _all(Property("of two, DPO at α = β", REDUCTION), Property("places without a completion do not count", ABSENT)),
    "kto": _all(Property("both kinds at z = 0 are APO-zero", REDUCTION)),
    "bco": _all(Property("both kinds at one shift are bco_pair", REDUCTION)),
    "bco_matched": _all(Property("is bco at even odds; bounds hold", REDUCTION)),
    "npo": _all(Property("gradient ascent as β → 0", REDUCTION)),
    "dro": _all(Property("ends in π*, and V in β log Z", OPTIMUM), Property("lowest at ρ = (r - V)/τ", LOWEST)),
}  # fmt: skip
