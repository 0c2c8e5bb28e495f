"""`prefloop launch`: check the command that is to run elsewhere, and write the script."""

import logging
import re
import shlex
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from prefloop.cli.trainings import ENGINE, require_engine, training_named
from prefloop.configs.common import require
from prefloop.configs.launch import LaunchConfig
from prefloop.errors import InputError
from prefloop.runtime.launch import SHARED, Training, kubernetes, skypilot, slurm

logger = logging.getLogger(__name__)


def launch(config: LaunchConfig) -> None:
    """Write the script, or print it."""
    text, out = script(config), config.out
    if not out:
        print(text, end="")
        return
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    start = {"slurm": "sbatch", "skypilot": "sky launch", "k8s": "kubectl apply -f"}[config.scheduler]
    print(f"start it with: {start} {shlex.quote(out)}")


def script(config: LaunchConfig) -> str:
    """The script for these settings.

    Raises:
        InputError: The command is none that several processes run, its settings are wrong, or its run would lie where the nodes do not share a folder.
    """
    name, words, settings, file = training_named(config.command, engine=config.engine_gpus > 0)
    _check(config, name, settings)
    run = settings.run
    training = Training(
        name=config.name or re.sub(r"[^a-z0-9]+", "-", f"prefloop-{name}").strip("-"),
        # After a restart, by torchrun or the scheduler, the same line goes on from the last checkpoint.
        words=words if run.resume else (*words, "--run.resume", "true"),
        nodes=config.nodes,
        gpus=config.gpus,
        port=config.port,
        restarts=config.restarts,
        setup=config.setup,
        written_by=f"Written by: {shlex.join(['prefloop', 'launch', *_own_words(config), '--', *words])}",
        engine=_engine(settings) if config.engine_gpus else (),
        engine_gpus=config.engine_gpus,
    )
    text = Path(file).read_text(encoding="utf-8") if file else ""
    image, volume = config.image, config.volume
    write = {
        "slurm": partial(slurm, hours=config.hours),
        "skypilot": partial(skypilot, accelerator=config.accelerator, image=image, volume=volume),
        "k8s": partial(kubernetes, image=image, volume=volume, settings_file=text),
    }
    return write[config.scheduler](training)


def _check(config: LaunchConfig, name: str, settings: Any) -> None:
    """Raise `InputError` for settings with which the command cannot run this way."""
    out, shared = settings.run.out, settings.run.out.startswith(f"{SHARED}/")
    require(
        shared or not (config.volume and config.skypilot),
        f"run.out is {out}, which each node has for itself; name a folder in {SHARED}, where the bucket is, such as {SHARED}/{out.lstrip('/')}",
    )
    require(
        shared or not (config.k8s and out.startswith("/")),
        f"run.out is {out}, which is not on the volume; give a path in {SHARED}, or a relative one",
    )
    _check_engine(config, name, settings)
    restarted, every = config.restarts or config.slurm, settings.run.save_every
    if restarted and every == 0:
        logger.warning(
            "run.save_every is 0: a run whose node is lost starts from the beginning; set it to some steps"
        )


def _check_engine(config: LaunchConfig, name: str, settings: Any) -> None:
    """Raise `InputError` for an engine that the command has no use for, or that cannot run this way."""
    gpus = config.engine_gpus
    require_engine(gpus, name, settings)
    if not gpus:
        return
    require(
        settings.sampling.engine == ENGINE,
        f"sampling.engine is {settings.sampling.engine}, and engine_gpus {gpus} starts another one; leave one of them out",
    )
    require(
        not config.skypilot or config.nodes == 1,
        f"engine_gpus is {gpus} with nodes {config.nodes}, but a SkyPilot task ends when all its nodes do, and an engine does not; "
        "start `prefloop engine serve` in a task of its own, and give its address as --sampling.engine",
    )


def _engine(settings: Any) -> tuple[str, ...]:
    """The command of the engine for a run with these settings."""
    rank, versions = settings.lora.rank, 1 + settings.sampling.staleness
    return (
        *("engine", "serve", settings.model),
        *("--dtype", settings.compute.dtype),
        *("--max_sequences", str(settings.sampling.batch_size)),
        *(("--max_lora_rank", str(rank)) if rank else ()),
        *(("--max_adapters", str(versions)) if rank and versions > 1 else ()),
    )


def _own_words(config: LaunchConfig) -> list[str]:
    """The flags that give these settings."""
    words = []
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name != "command" and value != field.default:
            words += [f"--{field.name}"] if value is True else [f"--{field.name}", str(value)]
    return words
