"""95 % intervals cover, as the callers make them: every public number of an evaluation, on simulated prompts whose completions are alike.

Taking completions of one prompt as independent would cover about 60 % here; with few prompts, a normal quantile in place of Student's t covers 88 %.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from prefloop.configs.common import Compute, Sampling
from prefloop.evaluation import evaluate
from prefloop.evaluation.evaluate import Measured, PolicyResults, Setting, _summarise
from prefloop.evaluation.intervals import Estimate, ratio_interval
from prefloop.evaluation.reward_model_quality import (
    accuracy_against_gold,
    best_of_n,
    calibration,
    reward_model_quality,
)
from prefloop.evaluation.text_statistics import text_statistics
from prefloop.evaluation.win_rate import PairVerdict, win_matrix_of_judgements, win_rate_of_verdicts
from prefloop.feedback.gold import TermModel, _accuracy
from prefloop.records import Prompt
from prefloop.rollout import Rollout
from prefloop.runtime import start_world

PROMPTS, EACH = 24, 6
OWN = 0.3
"""Standard deviation within a prompt; that between prompts is 1."""
WHOLE = math.sqrt(1 + OWN**2)
TIMES = 200
SETTING = Setting(
    sampling=Sampling(),
    completions_per_prompt=EACH,
    seed=0,
    max_prompt_tokens=9,
    compute=Compute(device="cpu"),
    world=start_world("cpu"),
)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples, and statistics of texts once for all policies: they have a test of their own below."""
    same = text_statistics(["so"] * 4, prompts=["a", "a", "b", "b"], ended=[True] * 4)
    monkeypatch.setattr(evaluate, "text_statistics", lambda *texts, **rest: same)
    monkeypatch.setattr(evaluate, "ratio_interval", partial(ratio_interval, resamples=200))


def alike(random: np.random.Generator, prompts: int = PROMPTS) -> NDArray[np.float64]:
    """Numbers of mean 0, most of whose variance is between prompts; prompt after prompt."""
    return (random.normal(size=(prompts, 1)) + OWN * random.normal(size=(prompts, EACH))).ravel()


def rollout(texts: list[str], prompts: int = PROMPTS) -> Rollout:
    rows = [texts[i * EACH : (i + 1) * EACH] for i in range(prompts)]
    ended = [[True] * EACH for _ in range(prompts)]
    asked = tuple(Prompt(content=str(i)) for i in range(prompts))
    return Rollout(prompts=asked, groups=[], texts=rows, ended=ended, sampler_logprobs=[], versions=[])


def evaluated(
    random: np.random.Generator, *, prompts: int = PROMPTS, proxy_gain: float = 0.0, gold_gain: float = 0.4
) -> PolicyResults:
    """A policy after another, as an evaluation hands what it has measured to its statistics."""

    def measured(gold: float, proxy: float) -> Measured:
        tokens = np.round(np.exp(alike(random, prompts)) * 9) + 1
        return Measured(
            rollout=rollout(["so"] * (prompts * EACH), prompts),
            gold=alike(random, prompts) + gold,
            proxy=alike(random, prompts) + proxy,
            kl=alike(random, prompts) + 3,
            nll=(alike(random, prompts) * 0.2 + 2) * tokens,
            tokens=tokens,
        )

    policies = {"sft": measured(0.0, 0.0), "ppo": measured(gold_gain, proxy_gain), "dpo": measured(0.0, 0.0)}
    return _summarise({name: name for name in policies}, policies, SETTING, True, True, {})


def covered(found: Iterator[Mapping[str, Estimate]], truths: Mapping[str, float]) -> dict[str, float]:
    """How often each interval holds its truth."""
    inside, times = Counter(), 0
    for estimates in found:
        assert set(estimates) == set(truths)
        inside.update(name for name, each in estimates.items() if each.low <= truths[name] <= each.high)
        times += 1
    return {name: inside[name] / times for name in truths}


def short_of(coverage: Mapping[str, float], least: float) -> dict[str, float]:
    return {name: share for name, share in coverage.items() if share < least}


def of_policy(results: PolicyResults) -> dict[str, Estimate]:
    _, ppo, _ = results.policies
    wins = results.wins.rate("ppo", "dpo")
    lost = results.wins.rate("dpo", "ppo")
    assert ppo.gold is not None
    assert ppo.proxy is not None
    assert ppo.win_rate_vs_sft is not None
    assert wins is not None
    assert lost is not None
    return {
        "gold": ppo.gold,
        "proxy": ppo.proxy,
        "kl": ppo.kl,
        "wins": ppo.win_rate_vs_sft,
        "positive": ppo.further["positive_share"],
        "perplexity": ppo.further["perplexity_under_sft"],
        "matrix": wins,
        "mirrored": lost,
    }


WINS = float(norm.cdf(0.4 / (math.sqrt(2) * WHOLE)))
TRUTHS = {
    "gold": 0.4,
    "proxy": 0.0,
    "kl": 3.0,
    "wins": WINS,
    "positive": float(norm.cdf(0.4 / WHOLE)),
    "perplexity": math.exp(2.0),
    "matrix": WINS,
    "mirrored": 1 - WINS,
}


def test_numbers_of_policies_are_covered() -> None:  # E3
    random = np.random.default_rng(0)
    found = (of_policy(evaluated(random)) for _ in range(TIMES))
    assert short_of(covered(found, TRUTHS), 0.9) == {}


def test_with_five_prompts_the_means_are_covered_too() -> None:  # E3
    random = np.random.default_rng(1)
    names = ("gold", "proxy", "kl")
    found = ({name: of_policy(evaluated(random, prompts=5))[name] for name in names} for _ in range(250))
    assert short_of(covered(found, {name: TRUTHS[name] for name in names}), 0.91) == {}


@pytest.mark.parametrize(("proxy", "gold", "least", "most"), [(0.0, 0.0, 0.0, 0.1), (3.0, 0.0, 0.9, 1.0)])
def test_the_alarm_of_reward_hacking_goes_by_prompts(
    proxy: float, gold: float, least: float, most: float
) -> None:
    """Without a gain of proxy it goes off in few samples; with one that gold does not share, in nearly all."""
    random = np.random.default_rng(2)
    alarms = [evaluated(random, proxy_gain=proxy, gold_gain=gold).alarms for _ in range(100)]
    rate = np.mean(
        [any(each.startswith("ppo: the reward model's score rose") for each in some) for some in alarms]
    )
    assert least <= rate <= most


def said_texts(random: np.random.Generator) -> tuple[list[str], list[bool], list[str]]:
    """Some prompts' completions repeat themselves, some never end, some are one and the same text, each with its own chance."""
    chances = random.random((3, PROMPTS, 1)) < 0.5
    repeats, ends, same = (
        (random.random((PROMPTS, EACH)) < np.where(c, 0.95, 0.05)).ravel() for c in chances
    )
    texts = []
    for place in range(PROMPTS * EACH):
        own = f"a{place} b{place} c{place} d{place} e{place}"
        texts.append("thank you" if same[place] else f"{own} {own}" if repeats[place] else own)
    return texts, ends.tolist(), [str(i // EACH) for i in range(PROMPTS * EACH)]


def test_numbers_of_texts_are_covered() -> None:  # E3
    random = np.random.default_rng(3)

    def found() -> Iterator[dict[str, Estimate]]:
        for _ in range(TIMES):
            texts, ended, prompts = said_texts(random)
            lengths = alike(random) + 7
            of = text_statistics(texts, prompts=prompts, ended=ended, lengths=lengths)
            yield {
                "length": of.length,
                "ended": of.ended,
                "duplicates": of.duplicates,
                "repetition": of.repetition,
                "longest repeat": of.longest_repeat,
                "similarity": of.similarity,
            }

    # Three of the eight 3-grams of a text said twice occurred before; half of the texts are one and the same and have none.
    # A quarter of the pairs of two prompts are both of them.
    truths = {"length": 7.0, "ended": 0.5, "duplicates": 0.5, "repetition": 0.25 * 3 / 8}
    truths |= {"longest repeat": 0.25 * 5, "similarity": 0.25}
    assert short_of(covered(found(), truths), 0.9) == {}


def expectation(of: object, spread: float) -> float:
    """Of a function of a normal number with mean 0."""
    assert callable(of)
    return quad(lambda x: of(x) * norm.pdf(x, scale=spread), -12 * spread, 12 * spread)[0]


def test_numbers_of_a_reward_model_are_covered() -> None:  # E3
    """Scores and lengths are correlated by a half; which of two completions was chosen has to do with neither."""
    random = np.random.default_rng(4)
    prompts = np.repeat(np.arange(PROMPTS), EACH)
    gap = math.sqrt(2) * WHOLE

    def found() -> Iterator[dict[str, Estimate]]:
        for _ in range(TIMES):
            chosen, rejected = alike(random), alike(random)
            longer, shorter = (0.5 * each + math.sqrt(0.75) * alike(random) for each in (chosen, rejected))
            of = reward_model_quality(chosen, rejected, longer, shorter, clusters=prompts)
            gold = accuracy_against_gold(chosen, rejected, alike(random), alike(random), clusters=prompts)
            length, calibration = of.length, of.calibration
            assert length.correlation is not None
            assert length.chosen_longer is not None
            assert length.chosen_shorter is not None
            assert calibration.error_interval is not None
            yield {
                "accuracy": of.accuracy,
                "gold": gold,
                "brier": calibration.brier,
                "log_loss": calibration.log_loss,
                "error": calibration.error_interval,
                "a bin": calibration.bins[0].observed,
                "longer": length.longer_is_chosen,
                "longer scores higher": length.longer_scores_higher,
                "correlation": length.correlation,
                "chosen longer": length.chosen_longer,
                "chosen shorter": length.chosen_shorter,
            }

    agree = 0.5 + math.asin(0.5) / math.pi
    truths = {
        "accuracy": 0.5,
        "gold": 0.5,
        "brier": expectation(lambda x: 1 / (1 + math.exp(x)) ** 2, gap),
        "log_loss": expectation(lambda x: math.log1p(math.exp(-x)), gap),
        "error": expectation(lambda x: 1 / (1 + math.exp(-abs(x))) - 0.5, gap),
        "a bin": 0.5,
        "longer": 0.5,
        "longer scores higher": agree,
        "correlation": 0.5,
        "chosen longer": agree,
        "chosen shorter": 1 - agree,
    }
    coverage = covered(found(), truths)
    assert short_of(coverage, 0.88) == {}


def test_bins_of_length_are_covered() -> None:  # E3
    random = np.random.default_rng(5)
    prompts = np.repeat(np.arange(PROMPTS), EACH)

    def found() -> Iterator[dict[str, Estimate]]:
        for _ in range(TIMES):
            numbers = [alike(random) for _ in range(4)]
            bins = reward_model_quality(*numbers, clusters=prompts).length.bins
            yield {str(i): each.accuracy for i, each in enumerate(bins)}

    assert short_of(covered(found(), dict.fromkeys("01234", 0.5)), 0.88) == {}


def test_verdicts_and_best_of_n_are_covered() -> None:  # E3
    random = np.random.default_rng(6)

    def found() -> Iterator[dict[str, Estimate]]:
        for _ in range(TIMES):
            verdicts = np.where(alike(random) > 0, "a", "b").tolist()
            prompts = [str(i // EACH) for i in range(len(verdicts))]
            judgements = [
                PairVerdict(first="ppo", second="sft", verdict=verdict, prompt=prompt)
                for verdict, prompt in zip(verdicts, prompts, strict=True)
            ]
            rate = win_matrix_of_judgements(judgements).rate("ppo", "sft")
            scores = alike(random).reshape(PROMPTS, EACH)
            _, of_two, *_ = best_of_n(scores, scores + 1)
            assert rate is not None
            assert of_two.gold is not None
            yield {
                "matrix": rate,
                "rate": win_rate_of_verdicts(verdicts, clusters=prompts),
                "best of two": of_two.proxy,
                "its gold": of_two.gold,
            }

    # The larger of two normal numbers lies 1/sqrt(pi) standard deviations above their mean.
    best = OWN / math.sqrt(math.pi)
    truths = {"matrix": 0.5, "rate": 0.5, "best of two": best, "its gold": best + 1}
    assert short_of(covered(found(), truths), 0.9) == {}


def test_a_calibrated_model_may_be_calibrated() -> None:  # E3
    """The error of a perfectly calibrated model is 0, which no sample shows; the interval holds it all the same."""
    random = np.random.default_rng(7)
    prompts, held = np.repeat(np.arange(PROMPTS), EACH), 0
    for _ in range(TIMES):
        gap = alike(random) - alike(random)
        right = random.random(len(gap)) < 1 / (1 + np.exp(-np.abs(gap)))
        chosen = np.where(right, np.abs(gap), -np.abs(gap))
        found = calibration(chosen, np.zeros(len(gap)), clusters=prompts).error_interval
        assert found is not None
        held += found.low == 0
    assert held >= 0.93 * TIMES


def test_accuracy_of_a_judge_of_reviews_is_covered() -> None:  # E3
    """Films differ in how often the judge is right about them; taking reviews as independent covers 78 %."""
    random = np.random.default_rng(8)
    one = np.ones(2)
    model = TermModel(terms=("good", "bad"), idf=one, coefficients=np.array([3.0, -3.0]), intercept=0.0)
    films = [str(i // EACH) for i in range(PROMPTS * EACH)]

    def found() -> Iterator[dict[str, Estimate]]:
        for _ in range(TIMES):
            right = random.random(len(films)) < np.repeat(random.beta(1.6, 0.4, PROMPTS), EACH)
            positive = random.random(len(films)) < 0.5
            reviews = [
                ("good" if is_right == good else "bad", bool(good))
                for is_right, good in zip(right, positive, strict=True)
            ]
            of = _accuracy(model, reviews, films)
            yield {"accuracy": Estimate(value=of.value, low=of.low, high=of.high, n=of.n)}

    assert short_of(covered(found(), {"accuracy": 0.8}), 0.9) == {}


def estimates_of(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number with an interval inside, and where it stands."""
    if hasattr(value, "low") and hasattr(value, "value"):
        yield place, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from estimates_of(getattr(value, field.name), f"{place}.{field.name}")
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from estimates_of(each, f"{place}.{name}")
    elif isinstance(value, tuple | list):
        for at, each in enumerate(value):
            yield from estimates_of(each, f"{place}[{at}]")


@pytest.mark.parametrize("prompts", [3, 24])
def test_nothing_has_an_interval_of_no_width_where_all_outcomes_agree(prompts: int) -> None:  # V1
    """Every prompt shows the same: the interval has a width, or there is none and `no_spread` says why."""
    n = prompts * EACH
    same = Measured(
        rollout=rollout(["so"] * n, prompts),
        gold=np.full(n, 0.1),
        proxy=np.full(n, 0.7),
        kl=np.full(n, 3.3),
        nll=np.full(n, 20.1),
        tokens=np.full(n, 16.0),
    )
    better = replace(same, gold=np.full(n, 1.3))
    clusters = np.repeat(np.arange(prompts), EACH)
    texts = text_statistics(["it is so"] * n, prompts=clusters, ended=[True] * n, lengths=[16] * n)
    found = {
        "policies": _summarise({"a": "a", "b": "b"}, {"a": same, "b": better}, SETTING, True, True, {}),
        "texts": texts,
        "reward model": reward_model_quality([3.0] * n, [1.0] * n, [5] * n, [4] * n, clusters=clusters),
        "best of n": best_of_n(np.ones((prompts, 4)), np.ones((prompts, 4))),
    }
    by_definition = {"policies.policies[0].kl", "policies.policies[0].win_rate_vs_sft"}
    seen = {}
    for name, whole in found.items():
        seen |= dict(estimates_of(whole, name))
    assert len(seen) > 40
    for place, each in seen.items():
        if place not in by_definition:
            assert math.isnan(each.low) or each.low < each.high, place
    assert not seen["policies.policies[1].win_rate_vs_sft"].no_spread
    assert seen["policies.policies[1].gold"].no_spread
    assert seen["policies.policies[1].further.perplexity_under_a"].no_spread
    assert seen["texts.similarity"].no_spread
    assert seen["reward model.calibration.error_interval"].no_spread
