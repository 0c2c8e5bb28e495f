"""One optimiser step: micro-batches in, summed gradients, clipping, a check that all is finite, the update.

The only place that touches gradients. It knows nothing of losses: it is given micro-batches and a function from one of them to a scalar.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softshrink

from prefloop.errors import InputError
from prefloop.runtime.dealt import clip, here, is_dealt, like, restore, total_norm
from prefloop.runtime.files import writing
from prefloop.runtime.optim import (
    ParameterGroup,
    load_optimizer_state,
    make_optimizer,
    named,
    optimizer_state,
    set_learning_rates,
)
from prefloop.runtime.pace import settle, tell_backward
from prefloop.runtime.sending import filling
from prefloop.runtime.state import StateTree, random_state, save_dealt, save_state
from prefloop.runtime.world import World, naming_peers

MicroBatch = TypeVar("MicroBatch")


class NonFiniteError(InputError):
    """The loss or the gradient was not finite for too many steps in a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What one update did."""

    loss: float
    """Sum of the micro-batches' losses over all processes: the mean loss, since each was divided by the global count."""
    grad_norm: float
    """Euclidean norm of the whole gradient before clipping."""
    learning_rates: dict[str, float]
    """By parameter group."""
    skipped: bool
    """The loss or gradient was not finite and no weight was changed."""

    def metrics(self) -> dict[str, float]:
        """The numbers to log: `loss`, `grad_norm`, `lr` (`lr/GROUP` where there are several) and `skipped` (0 or 1)."""
        rates = self.learning_rates
        named_rates = {"lr" if len(rates) == 1 else f"lr/{name}": rate for name, rate in rates.items()}
        return {"loss": self.loss, "grad_norm": self.grad_norm, **named_rates, "skipped": float(self.skipped)}


class Updater:
    """Owns the optimiser of some parameters and everything that must survive a restart with it.

    Weights in bfloat16 are updated through float32 copies, and their gradients are added up in float32: an update smaller than the weight's
    last bit is not lost, and the sum does not depend on the number of micro-batches.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        total_steps: int,
        world: World,
        dump_folder: Path,
        max_nonfinite: int,
    ) -> None:
        """Set up for `total_steps` updates.

        Args:
            groups: Parameters that are updated together, clipped by one common norm. Their weights must be in place, loaded and the
                same on all processes: float32 copies of coarser ones are taken now.
            total_steps: Updates until the learning rate has fallen to zero.
            world: The processes whose gradients are added up. All must hold the same weights.
            dump_folder: Where a step that is not finite leaves what is needed to look into it, `step-N/`.
            max_nonfinite: Stop at this many such steps in a row.

        Raises:
            InputError: The groups ask for different gradient clipping.
        """
        norms = {group.name: group.optim.max_grad_norm for group in groups}
        if len(set(norms.values())) > 1:
            raise InputError(
                f"max_grad_norm differs ({norms}) between parameters updated together; give all the same"
            )
        self._groups = tuple(groups)
        self._max_grad_norm = groups[0].optim.max_grad_norm
        self._total_steps = total_steps
        self._world = world
        self._dump_folder = dump_folder
        self._max_nonfinite = max_nonfinite
        self._names = [name for name, _ in named(groups)]
        self._parameters = [parameter for _, parameter in named(groups)]
        self._masters = [_master(parameter) for parameter in self._parameters]
        self._optimizer = make_optimizer(groups, self._masters)
        self.steps = 0
        """Updates so far, skipped ones included: the learning rate goes by it."""
        self.skipped = 0
        """Updates skipped so far."""
        self._skipped_in_a_row = 0

    def step(
        self,
        micro_batches: Iterable[MicroBatch],
        loss: Callable[[MicroBatch], Tensor],
        *,
        replay: Callable[[], StateTree],
    ) -> StepResult:
        """Make one update from this process's micro-batches; all processes call it together.

        Args:
            micro_batches: This process's share, cut as memory allows, gone over by `in_step`; may be empty where another process has some.
            loss: A micro-batch's loss, a scalar already divided by the count over all micro-batches and processes.
            replay: This process's batch as a tree for `save_state`. Called only if the step is not finite.

        Raises:
            NonFiniteError: This was the last step allowed not to be finite; the batch and the weights are in the dump folder.
            ValueError: No process has a micro-batch.
        """
        rates = set_learning_rates(self._optimizer, self._groups, self.steps, self._total_steps)
        totals = self._backward(micro_batches, loss)
        self._world.sum_gradients([master for master in self._masters if not is_dealt(master)])
        norm = total_norm([master.grad for master in self._masters if master.grad is not None])
        # The step's one wait for the device.
        loss_value, count, norm_value = torch.cat([totals, norm.to(totals).reshape(1)]).tolist()
        if count == 0:
            raise ValueError("a step has no micro-batch on any process")
        result = StepResult(
            loss=loss_value,
            grad_norm=norm_value,
            learning_rates=rates,
            # Both numbers are sums over processes, the same everywhere, so all processes decide alike.
            skipped=not (math.isfinite(loss_value) and math.isfinite(norm_value)),
        )
        if result.skipped:
            self._skip(result, replay)
        else:
            self._apply(norm, norm_value)
        self._forget_gradients()
        settle()
        self.steps += 1
        if self._skipped_in_a_row >= self._max_nonfinite:
            raise NonFiniteError(
                f"{_trouble(result)} at update {self.steps}, the last of {self._skipped_in_a_row} in a row; "
                f"the batches and the weights are in {self._dump_folder}; lower the learning rate, or inspect that data"
            )
        return result

    def _backward(self, micro_batches: Iterable[MicroBatch], loss: Callable[[MicroBatch], Tensor]) -> Tensor:
        """Add up the gradients of this process's micro-batches.

        Returns:
            Sum of the losses and number of micro-batches over all processes, [2] in float64.
        """
        totals = torch.zeros(2, dtype=torch.float64, device=self._world.device)
        for micro_batch in micro_batches:
            part = loss(micro_batch)
            if part.numel() != 1:
                raise ValueError(f"the loss has shape {tuple(part.shape)}; it must be a scalar")
            tell_backward()
            naming_peers(part.backward)
            totals[0] += part.detach().reshape(())
            totals[1] += 1
        # A missing gradient is a zero one: what is updated depends neither on the number of processes nor on the past.
        for master in self._masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return self._world.sum(totals)

    def _apply(self, norm: Tensor, value: float) -> None:
        if 0 < self._max_grad_norm < value:
            clip(self._masters, self._max_grad_norm, norm)
        self._optimizer.step()
        self._publish()
        self._skipped_in_a_row = 0

    def _publish(self) -> None:
        """Round the float32 copies into the weights they stand for."""
        with torch.no_grad():
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)

    def _forget_gradients(self) -> None:
        # Not zeroed in place: autograd hands its own buffer to an empty `.grad`, which saves a pass over all of them.
        for master in self._masters:
            master.grad = None

    def _skip(self, result: StepResult, replay: Callable[[], StateTree]) -> None:
        """Count the step and leave on disk what it was made of."""
        self.skipped += 1
        self._skipped_in_a_row += 1
        folder = self._dump_folder / f"step-{self.steps + 1}"
        bad = [
            name
            for name, master in zip(self._names, self._masters, strict=True)
            if master.grad is not None and not bool(torch.isfinite(here(master.grad)).all())
        ]
        everywhere = {name for names in self._world.gather_objects(bad) for name in names}
        report = {
            "update": self.steps + 1,
            "reason": _trouble(result),
            "loss": repr(result.loss),
            "grad_norm": repr(result.grad_norm),
            "learning_rates": result.learning_rates,
            "parameters_with_bad_gradients": [name for name in self._names if name in everywhere],
        }
        last = self._skipped_in_a_row >= self._max_nonfinite
        # Skipped steps change no weight, so these are the weights of every dump in this row.
        weights = dict(zip(self._names, self._masters, strict=True)) if last else {}

        def dump(place: Path) -> None:
            with writing(folder, way_out="make room, then resume with --run.resume true"):
                batch = {"batch": replay(), "random": random_state(self._world.device)}
                save_state(batch, place / f"rank-{self._world.rank}")
                if self._world.is_main:
                    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                    if weights:
                        save_state(weights, folder / "weights")

        with filling(self._world, folder) as place:
            self._world.together(lambda: dump(place))
        save_dealt(weights, folder / "weights", self._world)

    def pull_back(self, start: Mapping[str, Tensor], *, by: float) -> float:
        """Move every weight `by` towards where it was in `start` (by `group/parameter`), and no further.

        The proximal step of an l1 penalty on the changes: a change of `by` or less becomes exactly none. Returns the share of weights that have changed.
        """
        changed = total = 0
        with torch.no_grad():
            for name, master in zip(self._names, self._masters, strict=True):
                own, origin = here(master), here(like(start[name].to(master.dtype), master))
                change = softshrink(own - origin, by)
                own.copy_(torch.where(change == 0, origin, origin + change))
                changed += int((change != 0).sum())
                total += change.numel()
        self._publish()
        if any(map(is_dealt, self._masters)):
            changed, total = self._world.sum_float(changed), self._world.sum_float(total)
        return changed / total

    def state(self) -> StateTree:
        """Everything that a resumed run needs beside the weights."""
        pairs = zip(self._names, self._parameters, self._masters, strict=True)
        return {
            "optimizer": optimizer_state(self._optimizer, self._names, self._masters),
            "masters": {name: master for name, parameter, master in pairs if master is not parameter},
            "steps": self.steps,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned. The weights themselves must be loaded already.

        Raises:
            InputError: The state is of other parameters.
        """
        load_optimizer_state(self._optimizer, self._names, self._masters, state["optimizer"])
        triples = zip(self._names, self._parameters, self._masters, strict=True)
        masters = {name: master for name, parameter, master in triples if master is not parameter}
        restore(state["masters"], masters)
        self._publish()
        self.steps = state["steps"]
        self.skipped = state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]


def _master(parameter: nn.Parameter) -> Tensor:
    """The tensor that is updated: `parameter` itself, or a float32 copy that collects the gradients of a coarser one."""
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    master = parameter.detach().float().clone()

    def collect(coarse: Tensor) -> None:
        if coarse.grad is not None:
            if master.grad is None:
                master.grad = coarse.grad.float()
            else:
                master.grad += coarse.grad
            coarse.grad = None

    parameter.register_post_accumulate_grad_hook(collect)
    return master


def _trouble(result: StepResult) -> str:
    """What is not finite, in words."""
    if math.isfinite(result.loss):
        return f"the gradient's norm is {result.grad_norm}"
    return f"the loss is {result.loss}"
