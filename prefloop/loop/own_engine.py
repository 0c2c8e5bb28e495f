"""An engine that a run starts for itself and ends with itself: `sampling.engine colocated`.

It is a process of its own in vLLM's own environment, as that of `prefloop engine serve`, beside rank 0 and on its GPU: vLLM fixes the versions of PyTorch
and transformers, so it cannot run in the trainer's process.
"""

import atexit
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from prefloop.configs.adapters import adapter_of
from prefloop.configs.common import Compute, LoRA
from prefloop.configs.engine import EngineServeConfig, OnlineSampling
from prefloop.loop.engine_sync import together
from prefloop.rollout.engine.environment import find_environment
from prefloop.rollout.engine.server import free_port, serving
from prefloop.runtime import World


def start_engine(
    model: str, sampling: OnlineSampling, *, lora: LoRA, compute: Compute, out: Path, world: World
) -> tuple[OnlineSampling, Callable[[], None]]:
    """Start it on rank 0; the sampling's settings with its address, and what ends it. Collective: all processes call it.

    What the server says is in the file OUT.engine.log beside the run's folder. Raises `InputError` if there is no environment, or it does not start.
    """
    stack = ExitStack()

    def start() -> str:
        if not world.is_main:
            return ""
        adapter = adapter_of(model)
        log = out.with_name(f"{out.name}.engine.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        settings = EngineServeConfig(
            model=model if adapter is None else adapter.base,
            port=free_port(),
            gpus=_gpu(world),
            dtype=compute.dtype,
            max_sequences=sampling.batch_size,
            max_lora_rank=max(1, lora.rank),
            max_adapters=1 + sampling.staleness,
            gpu_memory=sampling.engine_memory,
            log=str(log),
        )
        world.say(f"starting an engine; it says how in {log}")
        server = stack.enter_context(serving(settings, find_environment(""), takes_signals=False))
        atexit.register(stack.close)  # where the run does not come so far as to end it
        world.say(f"the engine is up after {server.seconds:.0f} s")
        return server.url

    return replace(sampling, engine=together(world, start, of_main=True)), stack.close


def _gpu(world: World) -> str:
    """The number of this process's GPU, as the engine's own variable counts them; empty on a CPU."""
    if world.device.type != "cuda":
        return ""
    index = world.device.index or 0
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return seen.split(",")[index] if seen else str(index)
