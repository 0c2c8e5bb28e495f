"""Completions that an inference engine draws with the policy's weights: kept in step, and checked after every update.

Before a batch is drawn from weights that the engine does not have, they are sent; then the engine draws a few tokens, and its log-probabilities are
compared with the trainer's own of the same tokens. Only that shows an update that went wrong: a server that has half of the new weights, or
a stale cache, answers as ever.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Compute, Sampling
from prefloop.configs.engine import OnlineSampling
from prefloop.errors import EngineLost, InputError
from prefloop.loop.tensors import logprobs_of, mask_of
from prefloop.models.roles import BASE, Policy
from prefloop.rollout.engine.client import EngineClient
from prefloop.rollout.engine.weights import AdapterSender, DiskSender, Sender
from prefloop.rollout.sampler import Sampled
from prefloop.rollout.steered import Drawer
from prefloop.runtime import World
from prefloop.text import reads_apart
from prefloop.text.groups import Group

T = TypeVar("T")
log = logging.getLogger(__name__)

NOISE = {"float32": 2e-3, "bfloat16": 0.1}
"""`compute.dtype` -> how far two forward passes of the same tokens may differ: in different micro-batches, or in an engine on average."""
PROBE_PROMPTS, PROBE_TOKENS = 4, 16
"""What is drawn and compared after an update."""
PROBE_KEYS = 3 << 61
"""Added to a prompt's key for a draw that is only compared."""
TRIES = 2
"""How often an update of the weights is sent before the run stops."""


@dataclass(eq=False)
class BatchUnderWay:
    """A batch that the engine draws."""

    version: int
    """Of the weights."""
    result: Future[tuple[list[list[Sampled]], float]]
    """This process's completions, and the seconds that they took."""
    kept: bool | None = None
    """Whether the engine had these weights at its end; None before that is known."""


class EngineSampler:
    """Samples with an engine; made by all processes of a run, each draws its share. Rank 0 sends the weights."""

    def __init__(
        self,
        settings: OnlineSampling,
        *,
        compute: Compute,
        out: Path,
        tokenizer: PreTrainedTokenizerBase,
        world: World,
    ) -> None:
        """Raises `InputError` if there is no engine at the address, and for an encoder-decoder, whose prompts an engine would continue."""
        if reads_apart(tokenizer):
            raise InputError(
                f"sampling.engine is {settings.engine}, but the policy is an encoder-decoder, which engines do not draw from here; set it to process"
            )
        self.settings, self.world = settings, world
        self._tokens, self._out, self._tokenizer = compute.micro_batch_tokens, out, tokenizer
        self._tolerance = settings.engine_tolerance or NOISE[compute.dtype]
        self._client = EngineClient(settings.engine, minutes=settings.engine_minutes)
        self._served = self._together(self._client.about)
        self._sender: Sender | None = None
        self._version: int | None = None
        """Of the weights that the engine has; None while that is not known, or they are not whole."""
        self._model = ""
        self._metrics: dict[str, float] = {}
        self._under_way: list[BatchUnderWay] = []
        self._pool = ThreadPoolExecutor(1 + settings.staleness, thread_name_prefix="drawing")

    def check_room(self, longest: int) -> None:
        """Raise `InputError` if the server has too few positions for a prompt of so many tokens and its completion."""
        needed = longest + self.settings.max_new_tokens
        if 0 < self._served.positions < needed:
            raise InputError(
                f"sampling.engine {self._client.shown} reads at most {self._served.positions} tokens, but the longest prompt ({longest}) with "
                f"sampling.max_new_tokens = {self.settings.max_new_tokens} has {needed}; start it with --max_model_len {needed}, or lower them"
            )

    def sample(
        self,
        policy: Drawer,
        prompts: Sequence[Sequence[int]],
        *,
        k: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        row_keys: Sequence[int],
        version: int,
    ) -> list[list[Sampled]]:
        """As `prefloop.rollout.sample`, with the policy's weights of this version. Collective: all processes call it.

        Raises:
            EngineLost: The engine is gone or too slow, or its weights cannot be made the policy's; on every process.
        """
        for _ in range(TRIES):
            drawn = self.finish(
                self.begin(
                    policy,
                    prompts,
                    k=k,
                    stop_ids=stop_ids,
                    sampling=sampling,
                    seed=seed,
                    row_keys=row_keys,
                    version=version,
                )
            )
            if drawn is not None:
                return drawn
        raise EngineLost(
            f"sampling.engine {self._client.shown} lost the weights of step {version} while it drew with them, {TRIES} times: another run sends it "
            "its own, or it is started again and again; give each run an engine of its own"
        )

    def begin(
        self,
        policy: Drawer,
        prompts: Sequence[Sequence[int]],
        *,
        k: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        row_keys: Sequence[int],
        version: int,
    ) -> BatchUnderWay:
        """Send the weights if the engine does not have them, and let it draw; `finish` waits. Collective: all processes call it.

        Raises:
            EngineLost: The engine is gone, or its weights cannot be made the policy's; on every process.
        """
        if not isinstance(policy, Policy):
            raise InputError(
                f"sampling.engine is {self._client.shown}, but these completions are drawn from more than the policy; set it to process"
            )
        # At least one prompt of this process: a share may be empty.
        probes = self.world.broadcast_object((list(prompts[:PROBE_PROMPTS]), list(row_keys[:PROBE_PROMPTS])))
        self._client.in_flight = max(1, sampling.batch_size // k)
        began = time.monotonic()
        if version != self._version:
            self._renew(policy, version, probes, stop_ids, seed)
        self._metrics["engine_sync_seconds"] = time.monotonic() - began
        model = self._model

        def draw() -> tuple[list[list[Sampled]], float]:
            sent = time.monotonic()
            drawn = self._client.sample(
                prompts,
                model=model,
                k=k,
                stop_ids=stop_ids,
                sampling=sampling,
                seed=seed,
                row_keys=row_keys,
            )
            return drawn, max(time.monotonic() - sent, 1e-9)

        drawing = BatchUnderWay(version=version, result=self._pool.submit(draw))
        self._under_way.append(drawing)
        return drawing

    def finish(self, drawing: BatchUnderWay) -> list[list[Sampled]] | None:
        """Wait for what was begun; None if the engine lost its weights meanwhile. Collective: all processes call it.

        Raises:
            EngineLost: The engine is gone or too slow; on every process.
        """
        began = time.monotonic()
        drawn, seconds = self._together(drawing.result.result)
        self._under_way.remove(drawing)
        if not self._kept_its_weights(drawing):
            self._version = None
            return None
        tokens = self.world.sum_float(sum(len(one.tokens) for row in drawn for one in row))
        self._metrics |= {
            "engine_wait_seconds": time.monotonic() - began,
            "engine_tokens_per_second": tokens / seconds,
        }
        return drawn

    def _kept_its_weights(self, drawing: BatchUnderWay) -> bool:
        """Whether the engine has, after a drawing, the weights that it began with; looked at once, before they are replaced."""
        if drawing.kept is None:
            drawing.kept = self._together(
                lambda: not self.world.is_main or self._holds(drawing.version), of_main=True
            )
        return drawing.kept

    def _wait_for_all(self) -> None:
        """Wait until nothing is under way on any process, and note what has the weights it began with."""
        wait([drawing.result for drawing in self._under_way])
        self.world.gather_objects(None)
        for drawing in self._under_way:
            self._kept_its_weights(drawing)

    def metrics(self) -> dict[str, float]:
        """What happened since they were last asked for: `engine_gap` and `engine_gap_max` (distance of engine's from trainer's log-probability after the
        last update), seconds for weights, tokens drawn in a second."""
        seen, self._metrics = self._metrics, {}
        return seen

    def close(self) -> None:
        """Take what was sent off the engine again, where it still answers, and close the connections."""
        try:
            if self._sender is not None and self.world.is_main:
                self._sender.close()
        except InputError as error:
            log.info("%s", error)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _renew(
        self,
        policy: Policy,
        version: int,
        probes: tuple[list[Sequence[int]], list[int]],
        stop_ids: Sequence[int],
        seed: int,
    ) -> None:
        """Send the policy's weights and compare; once more if that fails, for only a whole update makes a half-updated engine good again."""
        if self._sender is None:
            self._sender = self._make_sender(policy)
        sender, self._version = self._sender, None
        if sender.waits:
            self._wait_for_all()
        sender.write(policy, version)
        problem = ""
        for _ in range(TRIES):
            try:
                self._model = self._together(
                    lambda: sender.load(version) if self.world.is_main else "", of_main=True
                )
                gap, largest = self._compare(policy, probes, stop_ids, seed)
            except InputError as error:
                problem = problem or str(error)
                continue
            self._metrics |= {"engine_gap": gap, "engine_gap_max": largest}
            if gap <= self._tolerance:
                self._version = version
                return
            problem = problem or (
                f"log-probabilities of {self._model} differ from the trainer's by {gap:.2g} per token on average, {largest:.2g} at most, where "
                f"{self._tolerance:g} is allowed"
            )
        raise EngineLost(
            f"sampling.engine {self._client.shown} does not have the policy's weights of step {version} after {TRIES} attempts: {problem}; nothing was drawn "
            "with them. Does it serve this very model, in this precision, with --logprobs-mode processed_logprobs, as `prefloop engine serve` "
            "starts it? (docs/engine.md)"
        )

    def _holds(self, version: int) -> bool:
        assert self._sender is not None
        return self._sender.holds(version)

    def _make_sender(self, policy: Policy) -> Sender:
        sync, has_adapter = self.settings.sync, policy.adapter_name != BASE
        if sync == "auto":
            sync = "adapter" if has_adapter else "disk"
        folder = self._out / "engine"
        if sync == "adapter":
            if not has_adapter:
                raise InputError(
                    "sampling.sync is adapter, but all weights are trained; set lora.rank, or sampling.sync to disk"
                )
            return AdapterSender(self._client, folder, self.world, kept=1 + self.settings.staleness)
        return DiskSender(self._client, folder, self._tokenizer, self._served.model)

    def _compare(
        self,
        policy: Policy,
        probes: tuple[list[Sequence[int]], list[int]],
        stop_ids: Sequence[int],
        seed: int,
    ) -> tuple[float, float]:
        """Mean and largest distance of the engine's log-probabilities from the trainer's, per token of a few short completions."""
        prompts, keys = probes
        short = replace(self.settings, max_new_tokens=min(PROBE_TOKENS, self.settings.max_new_tokens))
        drawn = self._together(
            lambda: (
                self._client.sample(
                    prompts,
                    model=self._model,
                    k=1,
                    stop_ids=stop_ids,
                    sampling=short,
                    seed=seed,
                    row_keys=[PROBE_KEYS + key for key in keys],
                )
                if self.world.is_main
                else []
            ),
            of_main=True,
        )
        groups = [
            Group(prompt=list(ids), completions=(one.tokens,), masks=([True] * len(one.tokens),))
            for ids, (one,) in zip(prompts, drawn, strict=True)
        ]
        mask = mask_of(groups, self.world.device)
        (ours,) = logprobs_of(
            [policy], groups, mask, temperature=self.settings.temperature, tokens=self._tokens
        )
        theirs = torch.zeros_like(ours)
        for row, (one,) in enumerate(drawn):
            theirs[row, : len(one.logprobs)] = torch.tensor(one.logprobs, device=ours.device)
        gaps = (ours - theirs).abs()[mask]
        return gaps.mean().item(), gaps.max().item()

    def _together(self, work: Callable[[], T], *, of_main: bool = False) -> T:
        """Do `work` on every process; if it failed on any, all raise the first one's error, of its kind. `of_main`: all return rank 0's result."""
        result: T | None = None
        error: InputError | None = None
        try:
            result = work()
        except InputError as raised:
            error = raised
        told = (type(error), str(error)) if error is not None else None
        if self.world.size > 1:
            failures = [failure for failure in self.world.gather_objects(told) if failure is not None]
            told = failures[0] if failures else None
        if told is not None:
            kind, message = told
            raise kind(message) from error
        return self.world.broadcast_object(result) if of_main else result  # pyright: ignore[reportReturnType]  without an error there is one
