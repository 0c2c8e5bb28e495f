"""Win rates against one baseline at equal length, of all models together.

    P(model m preferred on prompt i) = σ(θ_m + β_m tanh(Δ_mi / sd_m) + d_i),     β_m ~ N(β, 0.5²), d_i ~ N(0, 1)

with Δ the baseline's length minus the model's. AlpacaEval (Dubois et al. 2024) takes d_i, how hard the prompt is for everybody, from a model
fitted to the votes of many systems; here both are one fit. A model that always writes longer cannot tell by itself what length is worth: the
others' votes do, through β. The rate at equal length is the mean of σ(θ_m + d_i) over the model's prompts.
"""

import math

import numpy as np
from scipy.special import expit

from prefloop.feedback.ratings.baseline import LengthControlled, WinRate, baseline_win_rate
from prefloop.feedback.ratings.fit import PRIOR
from prefloop.feedback.ratings.votes import Floats, Ints

TASTES, HARD = 0.5, 1.0
"""Standard deviations of β_m about β, and of the prompts' difficulty."""
FEWEST_MODELS, FEWEST_PROMPTS = 3, 30
"""With fewer there is no rate at equal length: length and quality cannot be told apart well enough."""
STEPS = 50


def length_controlled_win_rates(
    model: Ints, prompt: Ints, preference: Floats, model_length: Floats, baseline_length: Floats
) -> tuple[LengthControlled, ...]:
    """Of each model, numbered from 0; arrays `[rows]`, a row for each model and prompt. Of a model with too little, the rate is NaN.

    Raises `ValueError` for a preference outside [0, 1].
    """
    models = int(model.max(initial=-1)) + 1
    raw = [baseline_win_rate(preference[model == at]) for at in range(models)]
    length, usable = np.zeros(len(model)), np.zeros(models, np.bool_)
    reason = [""] * models
    for at in range(models):
        mine = model == at
        delta = baseline_length[mine] - model_length[mine]
        spread = float(delta.std(ddof=1)) if mine.sum() > 1 else 0.0
        length[mine] = np.tanh(delta / spread) if spread > 0 else 0.0
        usable[at] = mine.sum() >= FEWEST_PROMPTS
        if not (model_length[mine].any() or baseline_length[mine].any()):
            usable[at], reason[at] = False, "the votes come without the answers"
        elif not usable[at]:
            reason[at] = f"{int(mine.sum())} prompts, {FEWEST_PROMPTS} are needed"
        elif not spread:
            usable[at], reason[at] = False, "the difference of lengths is the same on every prompt"
    if usable.sum() < FEWEST_MODELS:
        reason = [
            why or f"{int(usable.sum())} models to learn from, {FEWEST_MODELS} are needed" for why in reason
        ]
        usable[:] = False
    rates = [
        LengthControlled(
            raw=rate, controlled=WinRate(value=math.nan, standard_error=math.nan, n=rate.n), reason=why
        )
        for rate, why in zip(raw, reason, strict=True)
    ]
    if not usable.any():
        return tuple(rates)
    kept = usable[model]
    place = np.cumsum(usable) - 1
    for at, found in zip(
        np.flatnonzero(usable).tolist(),
        _together(place[model[kept]], prompt[kept], preference[kept], length[kept]),
        strict=True,
    ):
        value, error, level, worth = found
        rates[at] = LengthControlled(
            raw=raw[at],
            controlled=WinRate(value=value, standard_error=error, n=raw[at].n),
            level=level,
            length=worth,
            difficulty=1.0,
        )
    return tuple(rates)


def _together(
    model: Ints, prompt: Ints, y: Floats, length: Floats
) -> list[tuple[float, float, float, float]]:
    """Each model's rate at equal length, its standard error, θ and its coefficient of length."""
    models, hard = int(model.max()) + 1, np.unique(prompt, return_inverse=True)[1]
    prompts, size = int(hard.max()) + 1, 2 * models + 1  # θ, then β_m - β, then β
    rows = np.arange(len(y))
    design = np.zeros((len(y), size))
    design[rows, model], design[rows, models + model], design[:, -1] = 1.0, length, length
    prior = np.concatenate([np.full(models, PRIOR), np.full(models, TASTES**-2), [PRIOR]])
    x, d, schur = np.zeros(size), np.zeros(prompts), np.eye(size)
    for _ in range(STEPS):
        p = expit(design @ x + d[hard])
        w = p * (1 - p)
        # Newton's method; the prompts' block is diagonal, so they are eliminated.
        across = np.zeros((prompts, size))
        np.add.at(across, hard, w[:, None] * design)
        own = np.bincount(hard, w, prompts) + HARD**-2
        schur = (design * w[:, None]).T @ design + np.diag(prior) - across.T @ (across / own[:, None])
        push, pull = design.T @ (y - p) - prior * x, np.bincount(hard, y - p, prompts) - HARD**-2 * d
        step = np.linalg.solve(schur, push - across.T @ (pull / own))
        moved = (pull - across @ step) / own
        scale = min(1.0, 3.0 / max(np.abs(step).max(), np.abs(moved).max(), 1e-12))
        x, d = x + scale * step, d + scale * moved
        if max(np.abs(step).max(), np.abs(moved).max()) < 1e-8:
            break
    covariance = np.linalg.inv(schur)
    found = []
    for at in range(models):
        equal = expit(x[at] + d[hard[model == at]])
        slope = float((equal * (1 - equal)).mean())
        variance = slope**2 * covariance[at, at] + float(equal.var(ddof=1)) / len(equal)
        found.append((float(equal.mean()), math.sqrt(variance), float(x[at]), float(x[models + at] + x[-1])))
    return found
