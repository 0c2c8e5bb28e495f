"""An engine's weights, kept in step with the policy's and compared after every update.

After an update the engine draws a few tokens, and its log-probabilities are compared with the trainer's own of the same tokens. Only that shows an
update that went wrong: a server that has half of the new weights, or a stale cache, answers as ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Compute
from prefloop.configs.engine import OnlineSampling
from prefloop.errors import EngineLost, InputError
from prefloop.loop.tensors import logprobs_of, mask_of
from prefloop.models.roles import BASE, Policy
from prefloop.rollout.engine.client import EngineClient, ServedModel
from prefloop.rollout.engine.routes import VLLM, ServedWeights
from prefloop.rollout.engine.weights import AdapterSender, DiskSender, MemorySender, Sender
from prefloop.runtime import World
from prefloop.text.groups import Group

T = TypeVar("T")

NOISE = {"float32": 2e-3, "bfloat16": 0.1}
"""`compute.dtype` -> how far two forward passes of the same tokens may differ: in different micro-batches (bfloat16: on average), or in an engine on average."""
PROBE_PROMPTS, PROBE_TOKENS = 4, 16
"""What is drawn and compared after an update."""
PROBE_KEYS = 3 << 61
"""Added to a prompt's key for a draw that is only compared."""
TRIES = 2
"""How often an update of the weights is sent before the run stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """Prompts that are only drawn from to compare; the same on all processes."""

    ids: list[Sequence[int]]
    keys: list[int]
    stop_ids: Sequence[int]
    seed: int

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        *,
        stop_ids: Sequence[int],
        seed: int,
        world: World,
    ) -> "Probes":
        """The first of rank 0's, which has one at least: another's share may be empty. Collective: all processes call it."""
        ids, keys = world.broadcast_object((list(prompts[:PROBE_PROMPTS]), list(keys[:PROBE_PROMPTS])))
        return cls(ids=ids, keys=list(keys), stop_ids=stop_ids, seed=seed)


class WeightSync:
    """What an engine has of a run's weights. Its methods are collective: all processes call them."""

    def __init__(
        self,
        client: EngineClient,
        settings: OnlineSampling,
        *,
        compute: Compute,
        out: Path,
        tokenizer: PreTrainedTokenizerBase,
        world: World,
    ) -> None:
        """Raises `InputError` or `EngineLost` if there is no engine."""
        self._client, self._settings, self._world = client, settings, world
        self._compute, self._folder, self._tokenizer = compute, out / "engine", tokenizer
        self._tolerance = settings.engine_tolerance or NOISE[compute.dtype]
        self._sender: Sender | None = None
        self.served: ServedModel = together(world, client.about)
        self.weights: ServedWeights | None = None
        """What the engine has; None while that is not known, or it is not whole."""

    def waits(self, policy: Policy) -> bool:
        """Whether nothing may be under way while weights are sent."""
        return self._sender_of(policy).waits

    def holds(self, version: int) -> bool:
        """Whether the engine still has weights that it was sent."""
        sender = self._sender
        return together(
            self._world,
            lambda: not self._world.is_main or (sender is not None and sender.holds(version)),
            of_main=True,
        )

    def renew(self, policy: Policy, version: int, probes: Probes) -> dict[str, float]:
        """Send the policy's weights and compare; once more if that fails, for only a whole update makes a half-updated engine good again.

        Returns the mean and the largest distance of the engine's log-probabilities. Raises `EngineLost` if they are too far apart.
        """
        sender, self.weights = self._sender_of(policy), None
        sender.write(policy, version)
        problem = ""
        for _ in range(TRIES):
            try:
                sent = together(self._world, lambda: sender.load(version), of_main=True)
                gap, largest = self._compare(policy, sent, probes)
            except InputError as error:
                problem = problem or str(error)
                continue
            if gap <= self._tolerance:
                self.weights = sent
                return {"engine_gap": gap, "engine_gap_max": largest}
            problem = problem or (
                f"log-probabilities of {sent.name} differ from the trainer's by {gap:.2g} per token on average, {largest:.2g} at most, where "
                f"{self._tolerance:g} is allowed"
            )
        raise EngineLost(
            f"sampling.engine {self._client.shown} does not have the policy's weights of step {version} after {TRIES} attempts: {problem}; nothing was drawn "
            "with them. Does it serve this very model, in this precision, with --logprobs-mode processed_logprobs, as `prefloop engine serve` "
            "starts it? (docs/engine.md)"
        )

    def close(self) -> None:
        """Take what was sent off the engine again, where it still answers."""
        if self._sender is not None and self._world.is_main:
            self._sender.close()

    def _sender_of(self, policy: Policy) -> Sender:
        if self._sender is None:
            self._sender = self._make_sender(policy)
        return self._sender

    def _make_sender(self, policy: Policy) -> Sender:
        sync, has_adapter = self._settings.sync, policy.adapter_name != BASE
        if sync == "auto":
            sync = "adapter" if has_adapter else "disk"
        client, world, model = self._client, self._world, self.served.model
        if sync == "adapter":
            if not has_adapter:
                raise InputError(
                    "sampling.sync is adapter, but all weights are trained; set lora.rank, or another sampling.sync"
                )
            return AdapterSender(client, self._folder, world, kept=1 + self._settings.staleness)
        if sync == "disk":
            return DiskSender(client, model, world, self._folder, self._tokenizer)
        if client.routes.name != VLLM.name:
            raise InputError(
                f"sampling.sync is {sync}, but {client.shown} is {client.routes.name}, to which prefloop sends an adapter or a folder only; set "
                "sampling.sync to adapter or disk"
            )
        if sync != "gloo" and world.device.type != "cuda":
            raise InputError(
                f"sampling.sync is {sync}, which sends from a GPU, but the run is on {world.device.type}; set it to gloo"
            )
        dtype = getattr(torch, self._compute.dtype)
        return MemorySender(client, model, world, way=sync, dtype=dtype)

    def _compare(self, policy: Policy, weights: ServedWeights, probes: Probes) -> tuple[float, float]:
        """Mean and largest distance of the engine's log-probabilities from the trainer's, per token of a few short completions."""
        settings = self._settings
        short = replace(settings, max_new_tokens=min(PROBE_TOKENS, settings.max_new_tokens))
        drawn = together(
            self._world,
            lambda: (
                self._client.sample(
                    probes.ids,
                    weights=lambda: weights,
                    k=1,
                    stop_ids=probes.stop_ids,
                    sampling=short,
                    seed=probes.seed,
                    row_keys=[PROBE_KEYS + key for key in probes.keys],
                )
                if self._world.is_main
                else []
            ),
            of_main=True,
        )
        groups = [
            Group(prompt=list(ids), completions=(one.tokens,), masks=([True] * len(one.tokens),))
            for ids, (one,) in zip(probes.ids, drawn, strict=True)
        ]
        mask = mask_of(groups, self._world.device)
        (ours,) = logprobs_of(
            [policy],
            groups,
            mask,
            temperature=settings.temperature,
            tokens=self._compute.micro_batch_tokens,
        )
        theirs = torch.zeros_like(ours)
        for row, (one,) in enumerate(drawn):
            theirs[row, : len(one.logprobs)] = torch.tensor(one.logprobs, device=ours.device)
        gaps = (ours - theirs).abs()[mask]
        return gaps.mean().item(), gaps.max().item()


def together(world: World, work: Callable[[], T], *, of_main: bool = False) -> T:
    """Do `work` on every process; if it failed on any, all raise the first one's error, of its kind. `of_main`: all return rank 0's result."""
    result: T | None = None
    error: InputError | None = None
    try:
        result = work()
    except InputError as raised:
        error = raised
    told = (type(error), str(error)) if error is not None else None
    if world.size > 1:
        failures = [failure for failure in world.gather_objects(told) if failure is not None]
        told = failures[0] if failures else None
    if told is not None:
        kind, message = told
        raise kind(message) from error
    return world.broadcast_object(result) if of_main else result  # pyright: ignore[reportReturnType]  without an error there is one
