"""What a terminal shows of results."""

import math
from dataclasses import replace

import pytest

from prefloop.evaluation import Estimate, mean_interval
from prefloop.evaluation.json_files import encode
from prefloop.evaluation.tables import policy_table, reward_model_lines
from prefloop.evaluation.wording import interval_of
from prefloop.recipes.evidence import shown
from tests.evaluation.made_up import make_evaluation


def test_a_line_a_policy_with_columns_that_line_up() -> None:
    summary, _ = make_evaluation()
    heading, *rows = policy_table(summary.policies).splitlines()
    names = [policy.name for policy in summary.policies]
    assert [row.split()[0] for row in rows] == names
    assert f"wins against {names[0]}" in heading
    at = heading.index("KL (nats)")
    assert all(row[at - 2 : at] == "  " and row[at] != " " for row in rows)
    assert policy_table(()) == ""


def test_a_column_that_no_policy_has_is_left_out() -> None:
    summary, _ = make_evaluation()
    bare = [replace(p, gold=None, proxy=None, win_rate_vs_sft=None, further={}) for p in summary.policies]
    assert policy_table(bare).splitlines()[0].split() == ["policy", "KL", "(nats)", "tokens", "repetition"]


def test_numbers_without_spread_say_so() -> None:  # V1
    summary, _ = make_evaluation()
    same = replace(summary.policies[1], length=mean_interval([16.0] * 5))
    *_, row = policy_table([summary.policies[0], same]).splitlines()
    assert "16 [no spread, no interval]" in row
    assert interval_of(same.length) == "no spread, no interval"
    assert shown(encode(same.length), 1) == "16.0"
    assert shown(encode(mean_interval([15.0, 17.0])), 1) == "16.0 [3.3, 28.7]"


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.55, 0.6, 0.65, "better than chance; the interval is plus or minus 5.0%: to tell differences of 2.5%, hold out about 400"),
        (0.45, 0.5, 0.55, "the interval contains 50 %, so this does not show that it has learned anything"),
        (0.30, 0.35, 0.40, "worse than chance"),
        (math.nan, 1.0, math.nan, "one comparison has no interval"),
    ],
)  # fmt: skip
def test_what_so_many_comparisons_can_show(low: float, value: float, high: float, said: str) -> None:
    _, evaluation = make_evaluation()
    assert evaluation.reward_model is not None
    quality = replace(evaluation.reward_model, accuracy=Estimate(value=value, low=low, high=high, n=100))
    assert said in reward_model_lines(quality)
