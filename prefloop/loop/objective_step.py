"""A step as an objective sees it: its models, the examples' per-token numbers, and quantities of the whole step.

`prefer.py` tells the story; here a micro-batch becomes the quantities that a loss names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.configs.common import Optim
from prefloop.configs.functions import find_function
from prefloop.errors import InputError
from prefloop.loop.objective_examples import Example
from prefloop.loop.roles import parameters_of
from prefloop.loop.session import Session
from prefloop.losses import sequence_sum
from prefloop.losses.objectives import (
    OBJECTIVES,
    Objective,
    Setting,
    call,
    objective_of,
    only_mismatched,
    over_labels,
    parameters,
    unknown_objective,
)
from prefloop.losses.quantities import MISMATCHED, TokenNumbers, quantities
from prefloop.losses.whole_step import Prepared
from prefloop.models.head import Want
from prefloop.models.packing import Batch, MicroBatch, micro_batches
from prefloop.models.roles import Policy, scalar_head, scatter_tokens
from prefloop.runtime import ParameterGroup, World
from prefloop.runtime.pace import in_step
from prefloop.text.groups import Group


def find_objective(name: str) -> Objective:
    """A named objective, or a function of the user's. Raises `InputError` with the nearest name."""
    if ":" in name:
        return objective_of(find_function(name, what="loss"), name=name)
    if name not in OBJECTIVES:
        raise InputError(unknown_objective(name))
    return OBJECTIVES[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The objective with the models that it needs."""

    loss: str
    objective: Objective
    settings: Mapping[str, Setting]
    policy: Policy
    reference: Policy | None
    """The reference model where it must be run beside the policy; else its log-probabilities are kept."""
    moves: bool
    """Whether that reference follows the policy."""
    value_head: nn.Linear | None
    """Where the objective predicts scores from prompts: a linear function of the policy's state, without gradient into the policy."""
    tokens: int
    world: World

    @property
    def beta(self) -> float:
        """Scale of the implicit rewards that are logged."""
        return float(self.settings.get(self.objective.scale, 1.0))

    def parameters(self, optim: Optim) -> list[ParameterGroup]:
        """What is trained."""
        groups = [parameters_of(self.policy, optim, name="policy")]
        if self.value_head:
            groups.append(ParameterGroup.of(self.value_head, optim, name="value_head"))
        return groups

    def at_reference(self, numbers: TokenNumbers) -> Tensor | None:
        """The loss that the formula gives at policy = reference, one number or one an example; None if it gives none."""
        start = self.objective.start
        if start is None:
            return None
        known = [name for name in parameters(start) if name not in self.settings]
        with torch.no_grad():
            values = quantities(self.objective.data, known, numbers)
            expected = call(start, {**values, **self.settings})
        return torch.as_tensor(expected, dtype=torch.float32).detach().cpu()

    def follow(self, rate: float) -> None:
        """Move the reference towards the policy."""
        assert self.reference
        with torch.no_grad():
            pairs = zip(self.reference.model.parameters(), self.policy.model.parameters(), strict=True)
            for theirs, ours in pairs:
                theirs.lerp_(ours, rate)

    def state(self) -> dict[str, Any]:
        """What no saved model holds: a reference that has moved, and the value head."""
        state: dict[str, Any] = {}
        if self.moves and self.reference:
            state["reference"] = {name: p.detach() for name, p in self.reference.model.named_parameters()}
        if self.value_head:
            state["value_head"] = self.value_head.weight.detach()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        with torch.no_grad():
            if self.moves and self.reference:
                for name, parameter in self.reference.model.named_parameters():
                    parameter.copy_(state["reference"][name])
            if self.value_head:
                self.value_head.weight.copy_(state["value_head"])


def value_head_on(policy: Policy, model: str, session: Session) -> nn.Linear:
    """A head of zeros. Raises `InputError` if the policy gives no hidden states."""
    if not policy.linear_head:
        raise InputError(
            f"the loss predicts scores from the policy's last hidden state, which {model} does not give; choose another model"
        )
    generator = torch.Generator().manual_seed(session.settings.seed)
    width = policy.model.config.get_text_config().hidden_size
    return scalar_head(width, std=0.0, generator=generator).to(policy.device)


def numbers_of(task: Task, examples: Sequence[Example], micro: MicroBatch) -> TokenNumbers:
    """A micro-batch's per-token numbers: a forward pass of the policy, and of the reference where it is run beside it."""
    needs, policy, batch = task.objective.needs, task.policy, micro.batch
    own = [examples[g] for g in micro.groups]
    hidden = policy.hidden(batch) if policy.linear_head and not needs.forward_kl else None
    if needs.forward_kl:
        assert task.reference
        want = Want(forward_kl=True, log_collision=needs.log_collision)
        statistics = policy.statistics_against(task.reference, batch, want=want)
    elif hidden is not None:
        statistics = policy.statistics_of(hidden, batch, log_collision=needs.log_collision)
    else:
        statistics = policy.statistics(batch)
    value = None
    if needs.value and task.value_head and hidden is not None:
        # A completion's first token is predicted from its prompt's last one.
        prompt_ends = hidden.detach().index_select(0, batch.predictors.shared)
        value = task.value_head(prompt_ends.float()).squeeze(-1)

    def floats(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=batch.completion_mask.device)

    def tokens(values: Tensor) -> Float[Tensor, "B T"]:
        return scatter_tokens(values, batch)

    odds = [one.prompt_odds for one in own if one.prompt_odds is not None]
    return TokenNumbers(
        logprobs=tokens(statistics.logprobs),
        mask=batch.completion_mask,
        group=batch.group,
        labels=floats([label for one in own for label in one.labels]),
        reference=_reference_of(task, own, batch) if needs.reference else None,
        forward_kl=tokens(statistics.forward_kl) if needs.forward_kl else None,
        log_collision=tokens(statistics.log_collision) if needs.log_collision else None,
        contrast=tokens(policy.contrast(batch, hidden)) if needs.contrast else None,
        value=value,
        prompt_odds=floats(odds) if needs.prompt_odds else None,
    )


def _reference_of(task: Task, examples: Sequence[Example], batch: Batch) -> Float[Tensor, "B T"]:
    if task.reference:
        with torch.no_grad():
            return task.reference(batch)
    kept = [one.reference for one in examples if one.reference is not None]
    return scatter_tokens(torch.cat(kept).to(batch.completion_mask.device), batch)


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
        examples: Sequence[Example],
        running: Mapping[str, float],
        seed: int,
        step: int,
    ) -> None:
        self._task, self._examples = task, examples
        self.groups = [example.group for example in examples]
        self.parts = micro_batches(self.groups, tokens=task.tokens, device=task.world.device)
        self._running, self._draw = running, torch.Generator().manual_seed(seed * 1_000_003 + step)
        self._result = Prepared()
        alone = task.world.size == 1 and len(self.parts) == 1
        self._waits = task.objective.prepare is not None and alone and not task.objective.needs.mismatched
        if task.objective.prepare is not None and not self._waits:
            self._prepare(self._local())

    def losses(self, micro: MicroBatch) -> tuple[TokenNumbers, Float[Tensor, " B"]]:
        """A micro-batch's numbers, and the loss of each of its examples."""
        numbers = numbers_of(self._task, self._examples, micro)
        return numbers, losses_of(self._task, numbers, self.prepared(numbers).at(micro.groups))

    def prepared(self, numbers: TokenNumbers) -> Extra:
        """The step's quantities; `numbers` are those of the micro-batch that asks."""
        if self._waits:
            self._waits = False
            (only,) = self.parts
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
            numbers = [
                (micro, numbers_of(self._task, self._examples, micro)) for micro in in_step(self.parts)
            ]
        return self._in_order(numbers) | (self._mismatched() if self._task.objective.needs.mismatched else {})

    def _in_order(self, numbers: Sequence[tuple[MicroBatch, TokenNumbers]]) -> dict[str, Tensor]:
        objective = self._task.objective
        names = [name for name in objective.prepare_names if name not in MISMATCHED]
        values: dict[str, Tensor] = {}
        for micro, of in numbers:
            for name, value in quantities(objective.data, names, of).items():
                whole = values.setdefault(name, value.new_zeros(len(self._examples)).detach().cpu())
                whole[list(micro.groups)] = value.detach().cpu()
        return values

    def _mismatched(self) -> dict[str, Tensor]:
        task = self._task
        others = [one.mismatched for one in self._examples if one.mismatched]
        kept = [one.mismatched_reference for one in self._examples if one.mismatched_reference is not None]
        ours = _sums(task.policy, others, tokens=task.tokens)
        if task.reference:
            theirs = _sums(task.reference, others, tokens=task.tokens)
        else:
            theirs = torch.stack(kept) if kept else torch.zeros(0)
        return dict(zip(MISMATCHED, (ours, theirs), strict=True))

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


@torch.no_grad()
def _sums(policy: Policy, groups: Sequence[Group], *, tokens: int) -> Float[Tensor, " B"]:
    """The log-probability of each group's one completion, summed over its tokens, on the CPU."""
    sums = torch.zeros(len(groups))
    for micro in in_step(micro_batches(groups, tokens=tokens, device=policy.device)):
        sums[list(micro.groups)] = sequence_sum(policy(micro.batch), micro.batch.completion_mask).cpu()
    return sums
