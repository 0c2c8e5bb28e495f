"""Over-optimisation by policies that are trained: of several sizes, and with a KL penalty. Sections 3.4 and 3.6 of arXiv:2210.10760.

A policy is a network of one hidden layer; its size is that layer's width. It is fine-tuned on demonstrations that are better than the reference,
as a larger one then is better from the start, then trained by RLOO against a reward model. KL is to where it started, and rewards are gains over
its start, which differs by size. What differs from the paper: RLOO instead of PPO, since a critic would have a size of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot

from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.plots import Frame, line_chart
from prefloop.evaluation.wording import number, with_interval
from prefloop.studies.letters import (
    Letters,
    adam,
    best_of,
    expected,
    tilted,
    token_logprobs,
    train_on_reward,
)
from prefloop.studies.reward_curves import CurvePoint, last, line, peak, point_of, reward_at
from prefloop.studies.study import (
    Measure,
    Numbers,
    StudyCell,
    StudyFigure,
    StudyFinding,
    StudyResults,
    StudyTable,
    all_sure,
    over_seeds,
    sure,
)

RATE = 0.01
"""Of Adam on a network, when it imitates and when it is trained on reward."""
POINTS = 50
"""Of a training, about."""
LEVELS = (0.5, 1.0, 1.5)
"""Square roots of KL at which gaps are compared."""
ALIKE = 0.1
"""Rewards that differ by less, in standard deviations of the reference, count as alike."""
SOURCE = "arXiv:2210.10760"


class PolicyNetwork(nn.Module):
    """A policy that reads the prompt, the letter at each place so far and the last one; it gives the logits of the next letter."""

    def __init__(self, world: Letters, width: int, *, seed: int) -> None:
        super().__init__()
        tree = world.tree
        prompts, prefixes, stop = len(world.reference), len(tree.last), tree.vocabulary - 1
        # The first completions are the prefixes in their order, each with the stop token, which as a feature means no letter.
        places = torch.where(tree.mask, tree.tokens, stop)[:prefixes, :-1]
        final = torch.where(tree.last < 0, stop, tree.last)
        read = one_hot(torch.cat([places, final[:, None]], dim=1), tree.vocabulary).flatten(1).float()
        asked = torch.eye(prompts)[:, None].expand(-1, prefixes, -1)
        self.features = torch.cat([asked, read.expand(prompts, -1, -1)], dim=-1)
        torch.manual_seed(seed)
        size = self.features.shape[-1]
        self.net = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, tree.vocabulary))

    def forward(self) -> Float[Tensor, "P N V"]:
        return self.net(self.features)


def imitate(world: Letters, policy: nn.Module, demonstrations: Float[Tensor, "P S"], *, steps: int) -> None:
    """Supervised fine-tuning on every completion, weighted by how likely the demonstrator writes it: no policy lacks data, only size."""
    optimizer, schedule = adam([*policy.parameters()], RATE, steps)
    for _ in range(steps):
        logprobs = token_logprobs(world.tree, policy()).sum(-1)
        loss = -(demonstrations * logprobs).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def policy_cells(widths: Sequence[int], kl_coefs: Sequence[float]) -> list[StudyCell]:
    """All widths without a KL penalty, then the last one with each coefficient."""
    free = [StudyCell(name=_name(width), given={"policy": width, "kl_coef": 0.0}) for width in widths]
    held = [
        StudyCell(name=_name(widths[-1], coef), given={"policy": widths[-1], "kl_coef": coef})
        for coef in kl_coefs
    ]
    return [*free, *held]


def _name(width: int, kl_coef: float | None = None) -> str:
    return f"policy of width {width}" + ("" if kl_coef is None else f", KL coefficient {kl_coef:g}")


def trained(
    world: Letters,
    scores: Float[Tensor, "P S"],
    cell: StudyCell,
    *,
    demonstrator: float,
    steps: int,
    completions: int,
    most: int,
    seed: int,
) -> Numbers:
    """A policy's way from imitation on, `rl`, and best of n from the same start, `bon`."""
    policy = PolicyNetwork(world, cell.given["policy"], seed=seed)
    imitate(world, policy, tilted(world, world.gold, demonstrator), steps=steps)
    imitated = replace(world, reference=policy().detach())
    start = imitated.probabilities
    every, done, way = max(1, steps // POINTS), count(), list[CurvePoint]()

    def seen(p: Float[Tensor, "P S"]) -> None:
        step = next(done)
        if step % every == 0 or step == steps:
            way.append(point_of(world, scores, p, start))

    train_on_reward(
        world,
        scores,
        "rloo",
        kl_coef=cell.given["kl_coef"],
        steps=steps,
        k=completions,
        seed=seed,
        policy=policy,
        rate=RATE,
        seen=seen,
    )
    ns = [2**power for power in range(most.bit_length())]
    return {
        "start": expected(start, world.gold),
        "rl": way,
        "bon": [point_of(world, scores, best_of(imitated, scores, n), start) for n in ns],
    }


def policy_table(cells: Sequence[StudyCell], results: StudyResults) -> StudyTable:
    """Where each policy starts, what it gains, and its gap at some KLs."""
    columns: dict[str, Measure] = {
        "true reward at the start": "start",
        "highest gain in true reward": peak("rl", "gold"),
        "√KL there": peak("rl", "d"),
        "gain at the end": last("gold"),
        "√KL at the end": last("d"),
        **{f"gap at √KL {level:g}": reward_at("rl", "gap", level) for level in LEVELS},
        "highest gain (best of n)": peak("bon", "gold"),
    }
    rows = tuple(
        (cell.name, *(results.mean(cell.name, measure) for measure in columns.values())) for cell in cells
    )
    return StudyTable(columns=("policy", *columns), rows=rows)


def policy_findings(
    widths: Sequence[int], kl_coefs: Sequence[float], results: StudyResults
) -> list[StudyFinding]:
    """What the paper says of size, then of the KL penalty."""
    free, held = _name(widths[-1]), {coef: _name(widths[-1], coef) for coef in kl_coefs}
    proxy, gold = (
        {coef: _beyond(results, name, free, what) for coef, name in held.items()}
        for what in ("proxy", "gold")
    )
    return [
        _gains(results, widths),
        _gaps(results, widths),
        StudyFinding(
            expected="at equal KL, a KL penalty raises the reward model's score",
            source=f"{SOURCE}, section 3.6",
            found=f"where training with it ends, less without it at the same KL: {_said(proxy)}",
            holds=all_sure(sure(found, above=0.0) for found in proxy.values()),
        ),
        StudyFinding(
            expected="at equal KL, a KL penalty leaves the true reward as it is, so that it does what stopping early does",
            source=f"{SOURCE}, section 3.6",
            found=f"where training with it ends, less without it at the same KL: {_said(gold)}",
            holds=all_sure(alike(found) for found in gold.values()),
        ),
    ]


def alike(difference: Estimate) -> bool | None:
    """Whether a difference of rewards is small for sure (True) or large for sure (False)."""
    if difference.low > -ALIKE and difference.high < ALIKE:
        return True
    return False if difference.low > ALIKE or difference.high < -ALIKE else None


def _gains(results: StudyResults, widths: Sequence[int]) -> StudyFinding:
    words, verdicts = [], []
    for curve, how in (("rl", "RL"), ("bon", "best of n")):
        less = results.difference(_name(widths[0]), _name(widths[-1]), peak(curve, "gold"))
        means = (number(results.mean(_name(width), peak(curve, "gold")).value) for width in widths)
        each = ", ".join(f"{mean} (width {width})" for mean, width in zip(means, widths, strict=True))
        words.append(f"{how}: {each}; the first gains {with_interval(less)} more than the last")
        verdicts.append(sure(less, above=0.0))
    return StudyFinding(
        expected="a larger policy gains less true reward, from its start to the peak",
        source=f"{SOURCE}, section 3.4",
        found=". ".join(words),
        holds=all_sure(verdicts),
    )


def _gaps(results: StudyResults, widths: Sequence[int]) -> StudyFinding:
    small, large = _name(widths[0]), _name(widths[-1])
    found = {level: results.difference(large, small, reward_at("rl", "gap", level)) for level in LEVELS}
    both = {level: one for level, one in found.items() if one.n > 1}
    words = ", ".join(f"{with_interval(one)} at √KL {level:g} ({one.n} seeds)" for level, one in both.items())
    return StudyFinding(
        expected="a larger policy does not over-optimise more: at equal KL, the reward model's score is as far above the true reward",
        source=f"{SOURCE}, section 3.4",
        found=f"the gap of width {widths[-1]} less that of width {widths[0]}: {words or 'no KL that both reach'}",
        holds=all_sure(map(alike, both.values())) if both else None,
    )


def _beyond(results: StudyResults, held: str, free: str, what: str) -> Estimate:
    """How far the end of one training lies above another's way at the same KL, seed by seed; seeds whose way ends before are left out."""
    pairs = zip(results.numbers[held].values(), results.numbers[free].values(), strict=True)
    ends = [(one["rl"][-1], other) for one, other in pairs]
    return over_seeds([end[what] - reward_at("rl", what, end["d"])(other) for end, other in ends])


def _said(found: Mapping[float, Estimate]) -> str:
    return ", ".join(
        f"{with_interval(one)} (coefficient {coef:g}, {one.n} seeds)" for coef, one in found.items()
    )


def policy_figures(
    widths: Sequence[int], kl_coefs: Sequence[float], results: StudyResults, grid: Sequence[float]
) -> tuple[StudyFigure, ...]:
    """Both rewards by width, and by KL coefficient."""
    sizes = {f"width {width}": _name(width) for width in widths}
    coefs = {f"coefficient {coef:g}": _name(widths[-1], coef) for coef in kl_coefs}
    return tuple(
        StudyFigure(
            drawing=_drawing(results, cells, grid, title=f"Gain over the start, by {what}"),
            caption=f"gain in true reward and in the reward model's score by {what}",
        )
        for what, cells in (
            ("policy size", sizes),
            ("KL coefficient", {"no penalty": _name(widths[-1]), **coefs}),
        )
    )


def _drawing(results: StudyResults, cells: Mapping[str, str], grid: Sequence[float], *, title: str) -> str:
    """Means only: bands of worlds that differ this much would hide each other."""
    series: list[Series] = []
    for slot, (label, cell) in enumerate(cells.items()):
        for name, what in (("gold", "true reward"), ("proxy", "reward model")):
            own = line(results, cell, "rl", name, grid=grid, label=f"{label}, {what}", slot=slot)
            series.append(replace(own, low=(), high=(), dashed=name == "proxy"))
    return line_chart(
        series,
        title=title,
        x_label="√KL to the start",
        y_label="gain over the start (dashed: in the reward model's score)",
        frame=Frame(height=330),
    )
