"""Completions that an inference engine draws with the policy's weights.

Before a batch is drawn from weights that the engine does not have, they are sent and compared (`engine_sync`). Batches may be drawn ahead; new
weights wait for those under way, or interrupt them (`sampling.partial`): each completion then goes on with the new weights, and each of its tokens has
the version that drew it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Compute, Sampling
from prefloop.configs.engine import OnlineSampling
from prefloop.errors import EngineLost, InputError
from prefloop.loop.engine_sync import TRIES, Probes, WeightSync, together
from prefloop.models.roles import Policy
from prefloop.rollout.engine.client import EngineClient, EngineSample
from prefloop.rollout.engine.routes import ServedWeights
from prefloop.rollout.steered import Drawer
from prefloop.runtime import World
from prefloop.text import reads_apart

log = logging.getLogger(__name__)


def do_nothing() -> None:
    """To end an engine that is not the run's own."""


@dataclass(eq=False)
class BatchUnderWay:
    """A batch that the engine draws."""

    version: int
    """Of the weights that it began with."""
    result: Future[tuple[list[list[EngineSample]], float]]
    """This process's completions, and the seconds that they took."""
    kept: bool | None = None
    """Whether the engine had the run's weights all the while; None before that is known."""


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
        stop: Callable[[], None] = do_nothing,
    ) -> None:
        """`stop` ends the server, where it is the run's own.

        Raises `InputError` if there is no engine at the address, and for an encoder-decoder, whose prompts an engine would continue.
        """
        if reads_apart(tokenizer):
            raise InputError(
                f"sampling.engine is {settings.engine}, but the policy is an encoder-decoder, which engines do not draw from here; set it to process"
            )
        self.settings, self.world = settings, world
        self._stop, self._partial = stop, settings.partial
        self._client = EngineClient(settings.engine, minutes=settings.engine_minutes)
        self._sync = WeightSync(
            self._client, settings, compute=compute, out=out, tokenizer=tokenizer, world=world
        )
        self._metrics: dict[str, float] = {}
        self._under_way: list[BatchUnderWay] = []
        self._pool = ThreadPoolExecutor(1 + settings.staleness, thread_name_prefix="drawing")

    def check_room(self, longest: int) -> None:
        """Raise `InputError` if the server has too few positions for a prompt of so many tokens and its completion."""
        needed, positions = longest + self.settings.max_new_tokens, self._sync.served.positions
        if 0 < positions < needed:
            raise InputError(
                f"sampling.engine {self._client.shown} reads at most {positions} tokens, but the longest prompt ({longest}) with "
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
    ) -> list[list[EngineSample]]:
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
        probes = Probes.of(prompts, row_keys, stop_ids=stop_ids, seed=seed, world=self.world)
        self._client.in_flight = max(1, sampling.batch_size // k)
        began = time.monotonic()
        if self._sync.weights is None or version != self._sync.weights.version:
            self._renew(policy, version, probes)
        # More than one batch may be begun in a step.
        spent = self._metrics.get("engine_sync_seconds", 0.0) + time.monotonic() - began
        self._metrics["engine_sync_seconds"] = spent
        fixed, partial = self._sync.weights, self._partial

        def weights() -> ServedWeights:
            now = self._sync.weights if partial else fixed
            assert now is not None, "nothing is drawn while the engine's weights are not known"
            return now

        def draw() -> tuple[list[list[EngineSample]], float]:
            sent = time.monotonic()
            drawn = self._client.sample(
                prompts,
                weights=weights,
                k=k,
                stop_ids=stop_ids,
                sampling=sampling,
                seed=seed,
                row_keys=row_keys,
                interruptible=partial,
            )
            return drawn, max(time.monotonic() - sent, 1e-9)

        drawing = BatchUnderWay(version=version, result=self._pool.submit(draw))
        self._under_way.append(drawing)
        return drawing

    def finish(self, drawing: BatchUnderWay) -> list[list[EngineSample]] | None:
        """Wait for what was begun; None if the engine lost its weights meanwhile. Collective: all processes call it.

        Raises:
            EngineLost: The engine is gone or too slow; on every process.
        """
        began = time.monotonic()
        drawn, seconds = together(self.world, drawing.result.result)
        self._under_way.remove(drawing)
        if not self._kept_its_weights(drawing):
            self._sync.weights = None
            return None
        completions = [one for row in drawn for one in row]
        tokens = self.world.sum_float(sum(len(one.tokens) for one in completions))
        self._metrics |= {
            "engine_wait_seconds": time.monotonic() - began,
            "engine_tokens_per_second": tokens / seconds,
        }
        if self._partial:
            mixed = sum(len(set(one.versions)) > 1 for one in completions)
            self._metrics["engine_interrupted"] = self.world.sum_float(mixed) / self.world.sum_float(
                len(completions)
            )
        return drawn

    def metrics(self) -> dict[str, float]:
        """What happened since they were last asked for: `engine_gap` and `engine_gap_max` (distance of engine's from trainer's log-probability after the
        last update), seconds for weights, tokens drawn in a second."""
        seen, self._metrics = self._metrics, {}
        return seen

    def close(self) -> None:
        """Take what was sent off the engine again, where it still answers, close the connections, and stop the engine if it is the run's own."""
        self._client.gate.fail("the run has ended")
        try:
            self._sync.close()
        except InputError as error:
            log.info("%s", error)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        self._stop()

    def _renew(self, policy: Policy, version: int, probes: Probes) -> None:
        if self._partial and self._under_way:
            self._interrupt()
        elif self._sync.waits(policy):
            self._wait_for_all()
        self._metrics |= self._sync.renew(policy, version, probes)
        self._client.gate.open()

    def _kept_its_weights(self, drawing: BatchUnderWay) -> bool:
        """Whether the engine had a drawing's weights until its end, or until they were replaced; looked at once."""
        if drawing.kept is None:
            now = self._sync.weights if self._partial else None
            drawing.kept = self._sync.holds(drawing.version if now is None else now.version)
        return drawing.kept

    def _wait_for_all(self) -> None:
        """Wait until nothing is under way on any process, and note what has the weights it began with."""
        wait([drawing.result for drawing in self._under_way])
        self.world.gather_objects(None)
        for drawing in self._under_way:
            self._kept_its_weights(drawing)

    def _interrupt(self) -> None:
        """End what is under way on all processes; it waits at the gate until there are new weights. Note if it did not have those it should."""
        gate, client = self._client.gate, self._client
        gate.close()
        until = time.monotonic() + 60 * self.settings.engine_minutes
        while True:
            together(self.world, lambda: client.post(client.routes.interrupt) if self.world.is_main else None)
            if not self.world.sum_float(float(not gate.is_empty())):
                break
            if self.world.max_float(float(time.monotonic() > until)):
                raise EngineLost(
                    f"sampling.engine {client.shown} has not let go of what it draws within engine_minutes = {self.settings.engine_minutes:g}"
                )
        if self._sync.weights is None or not self._sync.holds(self._sync.weights.version):
            for drawing in self._under_way:
                drawing.kept = False
