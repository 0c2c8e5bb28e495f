"""Results as a terminal shows them."""

import math
from collections.abc import Sequence

from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.label_noise import ceiling_words
from prefloop.evaluation.reward_model_quality import BestOf, RewardModelQuality
from prefloop.evaluation.summary import PolicySummary
from prefloop.evaluation.wording import with_interval

CHANCE = 0.5


def policy_table(policies: Sequence[PolicySummary], *, gold: str = "gold") -> str:
    """A line a policy; columns that no policy has are left out. The first policy is what the others are compared with, `gold` what the gold
    score is called."""
    if not policies:
        return ""
    first = policies[0].name
    further = dict.fromkeys(name for policy in policies for name in policy.further)
    columns: list[tuple[str, list[str]]] = [
        ("policy", [p.name for p in policies]),
        (gold, [_cell(p.gold) for p in policies]),
        ("reward model", [_cell(p.proxy) for p in policies]),
        ("KL (nats)", [_cell(p.kl) for p in policies]),
        (f"wins against {first}", ["", *(_cell(p.win_rate_vs_sft, share=True) for p in policies[1:])]),
        ("tokens", [_cell(p.length) for p in policies]),
        ("repetition", [_cell(p.repetition, share=True) for p in policies]),
        *(
            (name.replace("_", " "), [_cell(p.further.get(name), share="share" in name) for p in policies])
            for name in further
        ),
    ]
    shown = [[heading, *cells] for heading, cells in columns if any(cells)]
    widths = [max(map(len, column)) for column in shown]
    rows = zip(*shown, strict=True)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def best_of_table(curve: Sequence[BestOf]) -> str:
    """A line for each n: the KL bound, what the scorer expects of the one it takes, and what the gold judge says of it."""
    columns = [
        ["n", *(str(point.n) for point in curve)],
        ["KL at most", *(f"{point.kl:.3f}" for point in curve)],
        ["reward model", *(_cell(point.proxy) for point in curve)],
        *([["gold", *(_cell(point.gold) for point in curve)]] if curve and curve[0].gold else []),
    ]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def reward_model_lines(quality: RewardModelQuality) -> str:
    """Accuracy beside what is possible and what chance gives, calibration, and what length explains."""
    accuracy, length, calibration = quality.accuracy, quality.length, quality.calibration
    lines = [f"accuracy {with_interval(accuracy, share=True)} on {accuracy.n} comparisons; chance is 50 %"]
    if quality.ceiling is not None:
        lines.append(f"  at most {quality.ceiling:.1%} can be expected on labels this noisy")
    if quality.label_ceiling is not None:
        lines.append(f"  {ceiling_words(quality.label_ceiling)}")
    if quality.gold_accuracy is not None:
        lines.append(f"  {with_interval(quality.gold_accuracy, share=True)} against the gold judge")
    lines.append(f"  {_what_it_shows(accuracy)}")
    lines.append(
        f"  calibration error {calibration.expected_error:.3f} (by chance alone {calibration.expected_error_by_chance:.3f}), "
        f"log loss {with_interval(calibration.log_loss)} (0.693 for a model that guesses)"
    )
    if calibration.error_interval is not None:
        lines.append(f"  calibration error, resampled by prompt: {with_interval(calibration.error_interval)}")
    lines.append(
        f"  always choosing the longer completion: {with_interval(length.longer_is_chosen, share=True)}"
    )
    if length.correlation is not None:
        lines.append(f"  correlation of score and length: {with_interval(length.correlation)}")
    lines += [
        f"  accuracy where the chosen one is {which}: {with_interval(rate, share=True)} ({rate.n})"
        for which, rate in (("longer", length.chosen_longer), ("shorter", length.chosen_shorter))
        if rate is not None
    ]
    lines += [
        f"  accuracy where chosen minus rejected has {part.low:g} to {part.high:g} tokens: {with_interval(part.accuracy, share=True)} ({part.accuracy.n})"
        for part in length.bins
    ]
    return "\n".join(lines)


def _what_it_shows(accuracy: Estimate) -> str:
    """What can and cannot be concluded from so many comparisons."""
    half = (accuracy.high - accuracy.low) / 2
    if math.isnan(half):
        return "one comparison has no interval: hold out more"
    way_out = f"to tell differences of {half / 2:.1%}, hold out about {4 * accuracy.n} comparisons"
    if accuracy.low > CHANCE:
        return f"better than chance; the interval is plus or minus {half:.1%}: {way_out}"
    if accuracy.high < CHANCE:
        return f"worse than chance: look at the data; the interval is plus or minus {half:.1%}"
    return f"the interval contains 50 %, so this does not show that it has learned anything; {way_out}"


def _cell(estimate: Estimate | None, *, share: bool = False) -> str:
    return "" if estimate is None else with_interval(estimate, share=share)
