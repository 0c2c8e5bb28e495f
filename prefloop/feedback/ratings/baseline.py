"""Win rate against one baseline, as AlpacaEval reports it, raw and controlled for length.

Raw: the mean preference with the standard error of the mean. Length-controlled (Dubois, Galambosi, Liang and Hashimoto 2024): a logistic
model of the preference

    P(model preferred on prompt i) = σ(β_0 + β_len tanh(Δ_i / sd(Δ)) + β_diff d_i)

with Δ the baseline's length minus the model's, and d_i how hard the prompt is (optional); the controlled rate is its mean with Δ = 0.
AlpacaEval also fits "gamed" rows, the baseline asked to be brief or long against itself, with weight 0.2 / 2 and without β_0, so that β_len
is learned from answers of equal worth too; give them where you have them. It picks an L1 penalty by cross-validation; three coefficients
on hundreds of rows need none, so here there is only the prior that keeps separable data finite.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, stdtrit

from prefloop.feedback.ratings.fit import PRIOR
from prefloop.feedback.ratings.votes import Floats
from prefloop.feedback.shares import wilson

GAMED_WEIGHT = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRate:
    """Shares between 0 and 1."""

    value: float
    standard_error: float
    """NaN if the votes leave nothing to measure it by: one vote, or votes that all agree."""
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bounds: Wilson's, of as many votes as the standard error says the rate is worth, with Student's t.

        They do not meet where all votes agree, and stay between 0 and 1.
        """
        if not math.isfinite(self.value):
            return math.nan, math.nan
        p, n = self.value, float(self.n)
        spread = p * (1 - p)
        if spread > 0 and self.standard_error > 0:
            n = min(n, spread / self.standard_error**2)
        return wilson(p, n, float(stdtrit(max(1, self.n - 1), 0.975)))


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthControlled:
    """The win rate at equal length, beside the raw one."""

    raw: WinRate
    controlled: WinRate
    """NaN if there is too little to tell length and quality apart."""
    length: float = math.nan
    """β_len: below 0 where longer answers of the model were preferred."""
    level: float = math.nan
    """β_0, log-odds of winning at equal length on a prompt of difficulty 0."""
    difficulty: float = math.nan
    """β_diff; 0 without difficulties."""
    reason: str = ""
    """Why there is no controlled rate."""

    @property
    def low(self) -> float:
        """Of the 95 % interval of the controlled rate."""
        return self.controlled.interval[0]

    @property
    def high(self) -> float:
        """Of the 95 % interval of the controlled rate."""
        return self.controlled.interval[1]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gamed:
    """Preferences between the baseline and itself asked for another length; arrays `[rows]`."""

    preference: Floats
    length_difference: Floats
    """In units of the standard deviation that the caller chose; tanh is applied to it as it is."""
    difficulty: Floats


def baseline_win_rate(preference: Floats) -> WinRate:
    """Mean of preferences for the model in [0, 1] (½ a draw), with the standard error of the mean, ddof 1.

    Raises `ValueError` for none, or one outside [0, 1].
    """
    p = np.asarray(preference, np.float64)
    if p.ndim != 1 or not len(p):
        raise ValueError(f"preferences have shape {p.shape}; give one row of at least one")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            "a preference is not between 0 and 1; leave out prompts without an answer and say how many"
        )
    spread = float(p.std(ddof=1)) if len(p) > 1 else 0.0
    error = spread / math.sqrt(len(p)) if spread > 0 else math.nan
    return WinRate(value=float(p.mean()), standard_error=error, n=len(p))


def length_controlled_win_rate(
    preference: Floats,
    model_length: Floats,
    baseline_length: Floats,
    *,
    difficulty: Floats | None = None,
    gamed: Gamed | None = None,
    prior: float = PRIOR,
) -> LengthControlled:
    """The win rate at equal length; see the module. Lengths are characters (any unit gives the same), arrays `[prompts]`.

    The standard error is that of the coefficients (sandwich) through the mean of the predictions, plus the spread of the predictions over
    prompts. Raises `ValueError` for arrays of unequal length, or preferences outside [0, 1].
    """
    raw = baseline_win_rate(preference)
    n = raw.n
    own, other = np.asarray(model_length, np.float64), np.asarray(baseline_length, np.float64)
    hard = np.zeros(n) if difficulty is None else np.asarray(difficulty, np.float64)
    if not own.shape == other.shape == hard.shape == (n,):
        raise ValueError(
            f"{n} preferences, {len(own)} and {len(other)} lengths and {len(hard)} difficulties; give one of each for every prompt"
        )
    delta = other - own
    spread = float(delta.std(ddof=1)) if n > 1 else 0.0
    length = np.tanh(delta / spread) if spread > 0 else np.zeros(n)
    design = np.stack([np.ones(n), length, hard], 1)
    y, weight = np.asarray(preference, np.float64), np.ones(n)
    if gamed is not None:
        rows = [np.zeros(len(gamed.preference)), np.tanh(gamed.length_difference), gamed.difficulty]
        design = np.concatenate([design, np.stack(rows, 1)])
        y = np.concatenate([y, gamed.preference])
        weight = np.concatenate([weight, np.full(len(gamed.preference), GAMED_WEIGHT / 2)])
    beta, covariance = _logistic(design, y, weight, prior)
    level = np.stack([np.ones(n), np.zeros(n), hard], 1)
    predicted = expit(level @ beta)
    slope = (predicted * (1 - predicted)) @ level / n
    variance = float(slope @ covariance @ slope) + (float(predicted.var(ddof=1)) / n if n > 1 else math.nan)
    return LengthControlled(
        raw=raw,
        controlled=WinRate(value=float(predicted.mean()), standard_error=math.sqrt(variance), n=n),
        level=float(beta[0]),
        length=float(beta[1]),
        difficulty=float(beta[2]),
    )


def _logistic(design: Floats, y: Floats, weight: Floats, prior: float) -> tuple[Floats, Floats]:
    """Coefficients of a logistic model of y in [0, 1] with a Gaussian prior, and their sandwich covariance."""
    beta = np.zeros(design.shape[1])

    def value(at: Floats) -> float:
        z = design @ at
        return float(weight @ (y * z + log_expit(-z))) - prior / 2 * float(at @ at)

    now = value(beta)
    for _ in range(100):
        p = expit(design @ beta)
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + prior * np.eye(len(beta))
        step = np.linalg.solve(curvature, design.T @ (weight * (y - p)) - prior * beta)
        scale = 1.0
        while (new := value(beta + scale * step)) < now - 1e-12 * (1 + abs(now)) and scale > 1e-8:
            scale /= 2
        beta, now = beta + scale * step, new
        if np.abs(scale * step).max() < 1e-9:
            break
    p = expit(design @ beta)
    curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + prior * np.eye(len(beta))
    scores = design * (weight * (y - p))[:, None]
    inverse = np.linalg.inv(curvature)
    return beta, inverse @ (scores.T @ scores) @ inverse
