"""`prefloop launch`: check the command that is to run elsewhere, and write the script."""

import logging
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from prefloop.cli.trainings import training_named
from prefloop.configs.engine import PROCESS
from prefloop.configs.launch import LaunchConfig
from prefloop.configs.load import names_of
from prefloop.errors import InputError
from prefloop.runtime.launch import SHARED, Training, kubernetes, skypilot, slurm

logger = logging.getLogger(__name__)


def launch(config: LaunchConfig) -> None:
    """Write the script, or print it."""
    text = script(config)
    if not config.out:
        print(text, end="")
        return
    try:
        Path(config.out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{config.out}: cannot be written ({error.strerror})") from None
    start = {"slurm": "sbatch", "skypilot": "sky launch", "k8s": "kubectl apply -f"}[config.scheduler]
    print(f"start it with: {start} {shlex.quote(config.out)}")


def script(config: LaunchConfig) -> str:
    """The script for these settings.

    Raises:
        InputError: The command is none that several processes run, its settings are wrong, or its run would lie where the nodes do not share a folder.
    """
    name, words, settings, file = training_named(config.command)
    _check(config, name, settings)
    training = Training(
        name=config.name or re.sub(r"[^a-z0-9]+", "-", f"prefloop-{name}").strip("-"),
        # After a restart, by torchrun or the scheduler, the same line goes on from the last checkpoint.
        words=words if settings.run.resume else (*words, "--run.resume", "true"),
        nodes=config.nodes,
        gpus=config.gpus,
        port=config.port,
        restarts=config.restarts,
        setup=config.setup,
        written_by=f"Written by: {shlex.join(['prefloop', 'launch', *_own_words(config), '--', *words])}",
        engine=_engine(settings) if config.engine_gpus else (),
        engine_gpus=config.engine_gpus,
    )
    if config.slurm:
        return slurm(training, hours=config.hours)
    if config.skypilot:
        return skypilot(training, accelerator=config.accelerator, image=config.image, volume=config.volume)
    text = Path(file).read_text(encoding="utf-8") if file else ""
    return kubernetes(training, image=config.image, volume=config.volume, settings=text)


def _check(config: LaunchConfig, name: str, settings: Any) -> None:
    """Raise `InputError` for settings with which the command cannot run this way."""
    out, mounted = settings.run.out, bool(config.volume)
    if mounted and config.skypilot and not out.startswith(f"{SHARED}/"):
        raise InputError(
            f"run.out is {out}, which each node has for itself; name a folder in {SHARED}, where the bucket is, such as {SHARED}/{out.lstrip('/')}"
        )
    if config.k8s and out.startswith("/") and not out.startswith(f"{SHARED}/"):
        raise InputError(
            f"run.out is {out}, which is not on the volume; give a path in {SHARED}, or a relative one"
        )
    if config.engine_gpus:
        if "sampling.engine" not in names_of(type(settings)):
            raise InputError(
                f"engine_gpus is {config.engine_gpus}, but prefloop {name} draws nothing from an engine; leave it out"
            )
        if settings.sampling.engine != PROCESS:
            raise InputError(
                f"sampling.engine is {settings.sampling.engine}, and engine_gpus {config.engine_gpus} starts another one; leave one of them out"
            )
        if config.skypilot and config.nodes > 1:
            raise InputError(
                f"engine_gpus is {config.engine_gpus} with nodes {config.nodes}, but a SkyPilot task ends when all its nodes do, and an engine does not; "
                "start `prefloop engine serve` in a task of its own, and give its address as --sampling.engine"
            )
    if settings.run.save_every == 0 and (config.restarts or config.slurm):
        logger.warning(
            "run.save_every is 0: a run whose node is lost starts from the beginning; set it to some steps"
        )


def _engine(settings: Any) -> tuple[str, ...]:
    """The command of the engine for a run with these settings."""
    rank = settings.lora.rank
    return (
        *("engine", "serve", settings.model),
        *("--dtype", settings.compute.dtype),
        *("--max_sequences", str(settings.sampling.batch_size)),
        *(("--max_lora_rank", str(rank)) if rank else ()),
    )


def _own_words(config: LaunchConfig) -> list[str]:
    """The flags that give these settings."""
    words = []
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name != "command" and value != field.default:
            words += [f"--{field.name}"] if value is True else [f"--{field.name}", str(value)]
    return words
