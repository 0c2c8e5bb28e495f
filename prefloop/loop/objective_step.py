"""What an objective sees of a step: its models, its examples, their per-token numbers, and what it needs of all of them together.

`prefer.py` tells the story; here a micro-batch becomes the quantities that a loss names, and the numbers that are logged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.configs.common import Optim
from prefloop.loop.roles import parameters_of
from prefloop.losses import pairwise_accuracy, sequence_sum
from prefloop.losses.listwise import pairs_of
from prefloop.losses.objectives import Objective, Setting, call, only_mismatched, over_labels
from prefloop.losses.quantities import MISMATCHED, TokenNumbers, as_lists, quantities
from prefloop.losses.whole_step import Prepared
from prefloop.models.head import Want
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.runtime import Metrics, ParameterGroup, World
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Examples of a data set or of a step, in order, with what they carry."""

    groups: list[Group]
    said: list[tuple[float, ...]]
    """What the data says of each completion, group by group."""
    reference: list[Tensor]
    """Reference log-probability of every trained token, completions after one another; no elements where it is not kept."""
    mismatched: list[Group]
    """The prompt with another prompt's completion, where the objective looks at that; else empty."""
    mismatched_reference: Float[Tensor, " _"]
    prompt_odds: list[float]
    """Of each example's prompt, where the objective weighs by that; else empty."""

    def at(self, places: Sequence[int]) -> "Part":
        """Some of the examples."""
        return Part(
            groups=[self.groups[i] for i in places],
            said=[self.said[i] for i in places],
            reference=[self.reference[i] for i in places],
            mismatched=[self.mismatched[i] for i in places] if self.mismatched else [],
            mismatched_reference=self.mismatched_reference[list(places)]
            if self.mismatched
            else self.mismatched_reference,
            prompt_odds=[self.prompt_odds[i] for i in places] if self.prompt_odds else [],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The objective with the models that it needs."""

    loss: str
    objective: Objective
    settings: Mapping[str, Setting]
    policy: Policy
    live_reference: tuple[Policy, ...]
    """The reference model where it must be run beside the policy; else none, and its log-probabilities are kept."""
    value_heads: tuple[nn.Linear, ...]
    """One where the objective predicts scores from prompts; a linear function of the policy's state, without gradient into the policy."""
    moves: bool
    """Whether the reference follows the policy."""
    tokens: int
    world: World

    @property
    def beta(self) -> float:
        """Scale of the implicit rewards that are logged."""
        return float(self.settings.get("beta", self.settings.get("tau", 1.0)))

    def parameters(self, optim: Optim) -> list[ParameterGroup]:
        """What is trained."""
        groups = [parameters_of(self.policy, optim, name="policy")]
        for head in self.value_heads:
            groups.append(ParameterGroup.of(head, optim, name="value_head"))
        return groups

    def follow(self, rate: float) -> None:
        """Move the reference towards the policy."""
        (reference,) = self.live_reference
        with torch.no_grad():
            pairs = zip(reference.model.parameters(), self.policy.model.parameters(), strict=True)
            for theirs, ours in pairs:
                theirs.lerp_(ours, rate)

    def state(self) -> dict[str, Any]:
        """What no saved model holds: a reference that has moved, and the value head."""
        moved = self.live_reference if self.moves else ()
        return {
            "reference": [{name: p.detach() for name, p in each.model.named_parameters()} for each in moved],
            "value_head": [head.weight.detach() for head in self.value_heads],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            moved = self.live_reference if self.moves else ()
            for reference, saved in zip(moved, state["reference"], strict=True):
                for name, parameter in reference.model.named_parameters():
                    parameter.copy_(saved[name])
            for head, weight in zip(self.value_heads, state["value_head"], strict=True):
                head.weight.copy_(weight)


def numbers_of(task: Task, part: Part, micro: MicroBatch) -> TokenNumbers:
    """A micro-batch's per-token numbers: a forward pass of the policy, and of the reference where it is run beside it."""
    needs, batch = task.objective.needs, micro.batch
    nothing = batch.completion_mask.new_empty((0, 0), dtype=torch.float32)
    forward_kl = log_collision = contrast = nothing
    reference, value = nothing, nothing[0:0].flatten()
    if needs.forward_kl:
        (live,) = task.live_reference
        want = Want(forward_kl=True, log_collision=needs.log_collision)
        statistics = task.policy.statistics_against(live, batch, want=want)
        forward_kl = scatter_tokens(statistics.forward_kl, batch)
        if needs.contrast:
            contrast = scatter_tokens(task.policy.contrast(batch), batch)
    elif task.policy.linear_head:
        hidden = task.policy.hidden(batch)
        statistics = task.policy.statistics_of(hidden, batch, log_collision=needs.log_collision)
        if needs.contrast:
            contrast = scatter_tokens(task.policy.contrast(batch, hidden), batch)
        if needs.value:
            (head,) = task.value_heads
            # A completion's first token is predicted from its prompt's last one.
            prompt_ends = hidden.detach().index_select(0, batch.predictors.shared)
            value = head(prompt_ends.float()).squeeze(-1)
    else:
        statistics = task.policy.statistics(batch)
        if needs.contrast:
            contrast = scatter_tokens(task.policy.contrast(batch), batch)
    if needs.log_collision:
        log_collision = scatter_tokens(statistics.log_collision, batch)
    if needs.reference:
        reference = _reference_of(task, part, micro)
    said = [value for g in micro.groups for value in part.said[g]]
    return TokenNumbers(
        logprobs=scatter_tokens(statistics.logprobs, batch),
        mask=batch.completion_mask,
        group=batch.group,
        reference=reference,
        forward_kl=forward_kl,
        log_collision=log_collision,
        contrast=contrast,
        value=value,
        prompt_odds=torch.tensor(
            [part.prompt_odds[g] for g in micro.groups] if part.prompt_odds else [],
            dtype=torch.float32,
            device=batch.completion_mask.device,
        ),
        said=torch.tensor(said, dtype=torch.float32, device=batch.completion_mask.device),
    )


def _reference_of(task: Task, part: Part, micro: MicroBatch) -> Float[Tensor, "B T"]:
    if task.live_reference:
        (live,) = task.live_reference
        with torch.no_grad():
            return live(micro.batch)
    flat = torch.cat([part.reference[g] for g in micro.groups]).to(micro.batch.completion_mask.device)
    return scatter_tokens(flat, micro.batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """More quantities for the loss of a step or a part of it."""

    shared: Mapping[str, Tensor]
    each: Mapping[str, Tensor]

    def at(self, places: Sequence[int]) -> dict[str, Tensor]:
        """Those of some of this process's examples."""
        return {**self.shared, **{name: values[list(places)] for name, values in self.each.items()}}


def losses_of(task: Task, numbers: TokenNumbers, extra: Mapping[str, Tensor]) -> Float[Tensor, " B"]:
    """The objective's loss of each example of a micro-batch."""
    objective = task.objective
    known = [name for name in objective.names if name not in extra]
    values = {**quantities(objective.data, known, numbers), **extra, **task.settings}
    if not objective.soft_labels:
        return call(objective.loss, values)
    p_soft = quantities(objective.data, ["p_soft"], numbers)
    if (p_soft["p_soft"] == 1).all():
        return call(objective.loss, values)
    return over_labels(objective.loss, values | p_soft)


class Whole:
    """What the objective needs of all examples of a step, computed when it is first asked for.

    One micro-batch on one process is the whole step, and its own forward pass gives everything; otherwise a pass without gradient goes before.
    """

    def __init__(
        self,
        *,
        task: Task,
        part: Part,
        parts: Sequence[MicroBatch],
        running: Mapping[str, float],
        seed: int,
        step: int,
    ) -> None:
        self._task, self._part, self._parts = task, part, parts
        self._running, self._draw = running, torch.Generator().manual_seed(seed * 1_000_003 + step)
        self._result = Prepared()
        alone = task.world.size == 1 and len(parts) == 1
        self._waits = task.objective.prepare is not None and alone and not task.objective.needs.mismatched
        if task.objective.prepare is not None and not self._waits:
            self._prepare(self._local())

    def prepared(self, numbers: TokenNumbers) -> Extra:
        """The step's quantities; `numbers` are those of the micro-batch that asks."""
        if self._waits:
            self._waits = False
            (only,) = self._parts
            self._prepare(self._in_order([(only, numbers)]))
        rank, size = self._task.world.rank, self._task.world.size
        device = numbers.logprobs.device
        return Extra(
            shared={name: value.to(device) for name, value in self._result.shared.items()},
            each={name: values[rank::size].to(device) for name, values in self._result.each.items()},
        )

    def result(self) -> Prepared:
        """What was prepared, once the step is done."""
        return self._result

    def _local(self) -> dict[str, Tensor]:
        """This process's quantities, in the order of its examples."""
        if only_mismatched(self._task.objective):
            return self._mismatched()
        with torch.no_grad():
            numbers = [(micro, numbers_of(self._task, self._part, micro)) for micro in self._parts]
        return self._in_order(numbers) | (self._mismatched() if self._task.objective.needs.mismatched else {})

    def _in_order(self, numbers: Sequence[tuple[MicroBatch, TokenNumbers]]) -> dict[str, Tensor]:
        objective = self._task.objective
        names = [name for name in objective.prepare_names if name not in MISMATCHED]
        values: dict[str, Tensor] = {}
        for micro, of in numbers:
            for name, value in quantities(objective.data, names, of).items():
                whole = values.setdefault(name, value.new_zeros(len(self._part.groups)).detach().cpu())
                whole[list(micro.groups)] = value.detach().cpu()
        return values

    def _mismatched(self) -> dict[str, Tensor]:
        task, part = self._task, self._part
        sums = {name: torch.zeros(len(part.mismatched)) for name in MISMATCHED}
        with torch.no_grad():
            for micro in micro_batches(part.mismatched, tokens=task.tokens, device=task.world.device):
                mask, places = micro.batch.completion_mask, list(micro.groups)
                sums["policy_mismatched"][places] = sequence_sum(task.policy(micro.batch), mask).cpu()
                if task.live_reference:
                    (live,) = task.live_reference
                    sums["reference_mismatched"][places] = sequence_sum(live(micro.batch), mask).cpu()
        if not task.live_reference:
            sums["reference_mismatched"] = part.mismatched_reference
        return sums

    def _prepare(self, local: Mapping[str, Tensor]) -> None:
        """Put all processes' examples together in the order of the batch, and prepare."""
        objective, size = self._task.objective, self._task.world.size
        assert objective.prepare is not None
        shares = [share for share in self._task.world.gather_objects(dict(local)) if share]
        count = sum(len(next(iter(share.values()))) for share in shares)
        # Rank r has every size-th example from r on; a rank without any is behind all that have one.
        values = {name: value.new_zeros(count) for name, value in shares[0].items()}
        for rank, share in enumerate(shares):
            for name, value in share.items():
                values[name][rank::size] = value
        self._result = call(
            objective.prepare,
            {**values, **self._task.settings, "running": self._running, "draw": self._draw},
        )


def best_nll(numbers: TokenNumbers) -> tuple[Tensor, Tensor]:
    """Negative log-probabilities of the first (chosen, best) completion of each prompt, and their mask."""
    group = numbers.group
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    return -numbers.logprobs[first], numbers.mask[first]


def add_metrics(task: Task, numbers: TokenNumbers, metrics: Metrics) -> None:
    """Sums and counts of what is logged of a micro-batch."""
    with torch.no_grad():
        sums = sequence_sum(numbers.logprobs, numbers.mask)
        tokens = numbers.mask.sum(dim=1)
        ratio = sums - sequence_sum(numbers.reference, numbers.mask) if numbers.reference.numel() else sums
        rewards = task.beta * (ratio / tokens.clamp(min=1) if task.objective.reward == "mean" else ratio)
        _METRICS[task.objective.data](numbers, rewards, sums, metrics)


def _comparison_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    chosen, rejected = rewards.view(-1, 2).unbind(1)
    n = len(chosen)
    metrics.add("accuracy", pairwise_accuracy(chosen, rejected).sum(), n)
    metrics.add("margin", (chosen - rejected).sum(), n)
    metrics.add("reward_chosen", chosen.sum(), n)
    metrics.add("reward_rejected", rejected.sum(), n)
    metrics.add("logp_chosen", sums[0::2].sum(), n)
    metrics.add("logp_rejected", sums[1::2].sum(), n)
    metrics.add("nll", -sums[0::2].sum(), numbers.mask[0::2].sum())


def _ranking_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    lists = as_lists(rewards, numbers.group)
    pairs = pairs_of(as_lists(torch.ones_like(numbers.group, dtype=torch.bool), numbers.group))
    better = lists[:, :, None].expand(pairs.shape)[pairs]
    worse = lists[:, None, :].expand(pairs.shape)[pairs]
    metrics.add("accuracy", pairwise_accuracy(better, worse).sum(), len(better))
    metrics.add("margin", (better - worse).sum(), len(better))
    metrics.add("reward_best", lists[:, 0].sum(), len(lists))
    metrics.add("logp_best", as_lists(sums, numbers.group)[:, 0].sum(), len(lists))
    nll, mask = best_nll(numbers)
    metrics.add("nll", torch.where(mask, nll, 0.0).sum(), mask.sum())


def _label_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    good = numbers.said > 0
    for name, side in (("good", good), ("bad", ~good)):
        metrics.add(f"reward_{name}", rewards[side].sum(), side.sum())
        metrics.add(f"logp_{name}", sums[side].sum(), side.sum())


def _score_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    n = len(rewards)
    value = numbers.value if numbers.value.numel() else torch.zeros_like(rewards)
    metrics.add("reward", rewards.sum(), n)
    metrics.add("logp", sums.sum(), n)
    metrics.add("value", value.sum(), n)
    metrics.add("error", (numbers.said - value - rewards).square().sum(), n)


_METRICS = {
    "comparisons": _comparison_metrics,
    "rankings": _ranking_metrics,
    "labels": _label_metrics,
    "scores": _score_metrics,
}
