"""PPO-max's tricks, one off at a time and one on at a time, in the world of letters.

A trick can change what is maximised: clipped scores, another coefficient of the KL, a second loss. So policies are compared at their own KL, by the share of
the score that the best policy of the reward model has there, which is known exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.plots import PlotRow, ReferenceLine, interval_chart
from prefloop.evaluation.wording import with_interval
from prefloop.losses import (
    Moments,
    clipped_surrogate,
    clipped_value_loss,
    gae,
    shape_rewards,
    token_mean,
    whiten,
)
from prefloop.losses.kl import k2
from prefloop.losses.rewards import RunningMoments, clip_scores, normalise_scores
from prefloop.studies.letters import (
    RATE,
    Letters,
    adam,
    compare,
    distribution,
    expected,
    fit_reward_model,
    kl,
    make_world,
    tilted,
    token_logprobs,
)
from prefloop.studies.study import (
    Numbers,
    Place,
    Study,
    StudyCell,
    StudyFigure,
    StudyFinding,
    StudyReport,
    StudyResults,
    StudySettings,
    StudyTable,
    sure,
)

ALL, NONE = "all tricks", "none"
WITHOUT, ONLY = "without ", "only "
VALUE_WEIGHT = 5.0
"""Of the critic's loss: its table learns at the policy's rate, so it weighs more than a shared network's would."""
EPOCHS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Tricks:
    """What PPO-max adds to PPO; all on as its authors have it."""

    normalise: bool = True
    """Scores less their running mean, over their running deviation."""
    clip: bool = True
    """Scores held within `score_clip` deviations."""
    whiten: bool = True
    """Advantages of a batch have mean 0 and deviation 1."""
    value_clip: bool = True
    critic_from_reward_model: bool = True
    """The critic begins with what the reward model says of each prefix, else at 0."""
    critic_pretrained: bool = True
    """It is trained on the reference's samples before the policy moves."""
    kl_in_reward: bool = True
    """Else the KL is a term of the loss."""
    ptx: bool = True
    """The likelihood of the reference's own samples, as a second loss."""


NAMES: Mapping[str, str] = {
    "normalise": "score normalisation",
    "clip": "score clipping",
    "whiten": "advantage whitening",
    "value_clip": "value clipping",
    "critic_from_reward_model": "critic from the reward model",
    "critic_pretrained": "pretrained critic",
    "kl_in_reward": "KL in the reward, not in the loss",
    "ptx": "pretraining loss",
}
"""Field of `Tricks` -> what it is called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoTricksSettings(StudySettings):
    """Settings of the study `ppo_tricks`."""

    seeds: int = 3
    prompts: int = 8
    letters: int = 3
    longest: int = 4
    comparisons: int = 2000
    temperature: float = 0.5
    """Of the annotator, in standard deviations of the true reward."""
    width: int = 64
    reward_steps: int = 200
    spread: float = 3.0
    """Standard deviation of the reward model's scores under the reference: those of real ones are not 1."""
    offset: float = 2.0
    """Their mean."""
    steps: int = 40
    completions: int = 8
    """Of each prompt and step."""
    kl_coef: float = 0.3
    score_clip: float = 0.8
    """In running deviations; without normalisation, in those of the reference's scores."""
    value_clip: float = 0.2
    ptx_coef: float = 0.1
    critic_steps: int = 30
    """Of pretraining the critic."""


def cells(settings: PpoTricksSettings) -> list[StudyCell]:
    """All tricks, all but one, none, and one alone."""
    names = (
        ALL,
        *(f"{WITHOUT}{name}" for name in NAMES.values()),
        NONE,
        *(f"{ONLY}{name}" for name in NAMES.values()),
    )
    return [StudyCell(name=name) for name in names]


def tricks_of(cell: str) -> Tricks:
    """What a cell has on."""
    fields = {name: field for field, name in NAMES.items()}
    nothing = Tricks(**dict.fromkeys(NAMES, False))
    if cell in (ALL, NONE):
        return Tricks() if cell == ALL else nothing
    if cell.startswith(WITHOUT):
        return replace(Tricks(), **{fields[cell.removeprefix(WITHOUT)]: False})
    return replace(nothing, **{fields[cell.removeprefix(ONLY)]: True})


def work(settings: PpoTricksSettings, cell: StudyCell, place: Place) -> Numbers:
    """Score, true reward and KL in the middle and at the end of a run."""
    world = make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=place.seed
    )
    draw = torch.Generator().manual_seed(10_000 + place.seed)
    data = compare(world, settings.comparisons, temperature=settings.temperature, draw=draw)
    scores = fit_reward_model(world, data, width=settings.width, steps=settings.reward_steps, seed=place.seed)
    run = TrickedPpo(
        world, settings.offset + settings.spread * scores, tricks_of(cell.name), settings, place.seed
    )
    early = run.train(settings.steps // 5)
    return {
        "early": expected(early, scores),
        **_measured(world, scores, run.train(settings.steps - settings.steps // 5)),
    }


def _measured(world: Letters, scores: Tensor, p: Tensor) -> dict[str, float]:
    """At the end of a run; `share` is of the score that the reward model's best policy has at this KL, in %."""
    best = [tilted(world, scores, float(beta)) for beta in np.geomspace(20.0, 0.03, 60)]
    moved, score = kl(p, world.probabilities), expected(p, scores)
    there = np.interp(
        moved,
        [0.0, *(kl(q, world.probabilities) for q in best)],
        [0.0, *(expected(q, scores) for q in best)],
    )
    return {
        "kl": moved,
        "score": score,
        "gold": expected(p, world.gold),
        "share": 100 * score / float(there),
    }


class TrickedPpo:
    """A run of PPO on tables, with some tricks on."""

    def __init__(
        self,
        world: Letters,
        scores: Float[Tensor, "P S"],
        tricks: Tricks,
        settings: PpoTricksSettings,
        seed: int,
    ) -> None:
        self.world, self.scores, self.tricks, self.settings = world, scores, tricks, settings
        self.draw = torch.Generator().manual_seed(seed)
        self.reference = token_logprobs(world.tree, world.reference)
        self.table = world.reference.clone().requires_grad_()
        prefixes = self.table.shape[1]  # the first completions are each prefix with a stop
        begin = self._reshaped(scores)[:, :prefixes] if tricks.critic_from_reward_model else None
        self.values = (torch.zeros(self.table.shape[:2]) if begin is None else begin.clone()).requires_grad_()
        self.seen = RunningMoments()
        self.prompt = torch.arange(len(scores)).repeat_interleave(settings.completions)
        if tricks.critic_pretrained:
            self._train_critic(settings.critic_steps)
        self.optimizer, self.schedule = adam([self.table, self.values], RATE, settings.steps * EPOCHS)

    def _reshaped(self, scores: Tensor) -> Tensor:
        """Scores on the scale that rewards will have, as far as the reference's samples tell it."""
        found = scores.flatten()
        if self.tricks.normalise:
            found = normalise_scores(found, mean=self.settings.offset, std=self.settings.spread)
        if self.tricks.clip:
            found = clip_scores(found, limit=self._limit)
        return found.view_as(scores)

    @property
    def _limit(self) -> float:
        settings = self.settings
        return settings.score_clip * (1 if self.tricks.normalise else settings.spread)

    def _sample(self, logits: Tensor) -> Int[Tensor, " B"]:
        p = distribution(self.world.tree, logits)
        count = self.settings.completions
        return torch.multinomial(p, count, replacement=True, generator=self.draw).flatten()

    def _rewards(self, at: Int[Tensor, " B"], sampled: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Of each token, with the tricks that are on."""
        scores, mask = self.scores[self.prompt, at], self.world.tree.mask[at]
        if self.tricks.normalise:
            every = torch.ones_like(scores, dtype=torch.bool)
            self.seen = self.seen.update(Moments.of(scores, every))
            scores = normalise_scores(scores, mean=self.seen.mean, std=self.seen.std)
        elif self.tricks.clip:
            scores = scores - self.settings.offset  # a window about the reference's mean
        if self.tricks.clip:
            scores = clip_scores(scores, limit=self._limit)
        coef = self.settings.kl_coef if self.tricks.kl_in_reward else 0.0
        return shape_rewards(scores, sampled - self.reference[self.prompt, at], mask, kl_coef=coef)

    def _train_critic(self, steps: int) -> None:
        """On the returns of the reference's samples."""
        optimizer, schedule = adam([self.values], RATE, steps)
        for _ in range(steps):
            at = self._sample(self.world.reference)
            mask, states = self.world.tree.mask[at], self.world.tree.states[at]
            rewards = self._rewards(at, self.reference[self.prompt, at])
            now = self.values[self.prompt[:, None], states]
            _, returns = gae(rewards, now.detach(), mask, gamma=1.0, lam=1.0)
            optimizer.zero_grad()
            token_mean(
                clipped_value_loss(now, now, returns, clip=0.0), mask, tokens=int(mask.sum())
            ).backward()
            optimizer.step()
            schedule.step()

    def train(self, steps: int) -> Float[Tensor, "P S"]:
        """Some steps more; the policy after them."""
        tree = self.world.tree
        for _ in range(steps):
            with torch.no_grad():
                at = self._sample(self.table)
                mask, states = tree.mask[at], tree.states[at]
                sampled = token_logprobs(tree, self.table)[self.prompt, at]
                before = self.values[self.prompt[:, None], states]
                advantages, returns = gae(self._rewards(at, sampled), before, mask, gamma=1.0, lam=0.95)
                if self.tricks.whiten:
                    advantages = whiten(advantages, mask, Moments.of(advantages, mask))
            for _ in range(EPOCHS):
                self._update(at, sampled, advantages, before, returns)
        return distribution(tree, self.table)

    def _update(
        self, at: Int[Tensor, " B"], sampled: Tensor, advantages: Tensor, before: Tensor, returns: Tensor
    ) -> None:
        tree, settings = self.world.tree, self.settings
        mask, tokens = tree.mask[at], int(tree.mask[at].sum())
        every = token_logprobs(tree, self.table)
        logprobs, reference = every[self.prompt, at], self.reference[self.prompt, at]
        values = self.values[self.prompt[:, None], tree.states[at]]
        clip = settings.value_clip if self.tricks.value_clip else 0.0
        losses = clipped_surrogate(logprobs, sampled, advantages, clip=0.2)
        losses = losses + VALUE_WEIGHT * clipped_value_loss(values, before, returns, clip=clip)
        if not self.tricks.kl_in_reward:
            losses = losses + settings.kl_coef * k2(logprobs, reference)
        loss = token_mean(losses, mask, tokens=tokens)
        if self.tricks.ptx:
            text = self._sample(self.world.reference)
            kept = tree.mask[text]
            loss = loss + settings.ptx_coef * token_mean(
                -every[self.prompt, text], kept, tokens=int(kept.sum())
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()


def report(settings: PpoTricksSettings, results: StudyResults) -> StudyReport:
    """What each trick changes, in both directions."""
    measures = ("share", "score", "gold", "kl", "early")
    rows = tuple((name, *(results.mean(name, one) for one in measures)) for name in results.numbers)
    columns = (
        "PPO with",
        "share of the score at its KL, %",
        "score at the end",
        "true reward",
        "KL",
        "score after a fifth of the steps",
    )
    return StudyReport(
        findings=tuple(_finding(results, name) for name in NAMES.values()),
        table=StudyTable(columns=columns, rows=rows),
        further=(_effects(results),),
        figure=StudyFigure(
            drawing=_drawing(results), caption="what each trick adds to the share of the score at its KL"
        ),
        remarks=(
            "The share is the score divided by the score of the reward model's best policy at the same KL. It measures how well a policy was "
            "optimised, however strongly a trick weighs the KL. Scores and true rewards are in standard deviations of the reference, whose "
            f"mean is 0. The run sees scores with a standard deviation of {settings.spread:g} and a mean of {settings.offset:g}. A trick helps "
            "if it adds to the share, either in the full set or alone.",
            "Policies and critics are tables: a critic learns nothing about prefixes that were not visited, and there is no trunk for policy "
            "and critic to share.",
        ),
    )


def _effect(results: StudyResults, name: str, measure: str) -> tuple[Estimate, Estimate]:
    """What a trick adds when all others are on, and when none is."""
    return (
        results.difference(ALL, f"{WITHOUT}{name}", measure),
        results.difference(f"{ONLY}{name}", NONE, measure),
    )


def _effects(results: StudyResults) -> StudyTable:
    measures = ("share", "gold", "kl", "early")
    rows = tuple(
        (name, *(estimate for measure in measures for estimate in _effect(results, name, measure)))
        for name in NAMES.values()
    )
    heads = ("share, points", "true reward", "KL", "score after a fifth of the steps")
    columns = ("trick", *(f"{head}: {how}" for head in heads for how in ("with the others", "alone")))
    return StudyTable(columns=columns, rows=rows)


def _finding(results: StudyResults, name: str) -> StudyFinding:
    together, alone = _effect(results, name, "share")
    verdicts = [sure(one, above=0.0) for one in (together, alone)]
    return StudyFinding(
        expected=f"{name} helps",
        source="PPO-max, arXiv:2307.04964",
        found=f"it adds {with_interval(together)} points to the share with the others, {with_interval(alone)} alone",
        holds=_one_way(verdicts),
    )


def _one_way(verdicts: Sequence[bool | None]) -> bool | None:
    """True where something says yes and nothing no, False where something says no and nothing yes."""
    if True in verdicts and False not in verdicts:
        return True
    return False if False in verdicts and True not in verdicts else None


def _drawing(results: StudyResults) -> str:
    rows = [
        PlotRow(label=f"{name}, {how}", estimate=estimate, slot=slot)
        for name in NAMES.values()
        for slot, (how, estimate) in enumerate(
            zip(("with the others", "alone"), _effect(results, name, "share"), strict=True), 1
        )
    ]
    return interval_chart(
        rows,
        title="What each trick adds to the share of the score at its KL",
        x_label="percentage points",
        references=[ReferenceLine(value=0.0, label="nothing")],
    )


STUDY = Study(
    title="PPO's tricks",
    question=(
        "Which of PPO-max's tricks matter? Each trick is removed from the full set, and each is added alone to plain PPO. In this world of "
        "letters the best policy for the reward model is known at each KL."
    ),
    settings=PpoTricksSettings,
    cells=cells,
    work=work,
    report=report,
)
