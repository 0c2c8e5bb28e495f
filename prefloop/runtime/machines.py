"""The machines of a run: how each was started, whether they were given the same settings, and what they see of the run's folder."""

import os
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.configs.launch import MEETING_PORT
from prefloop.errors import InputError
from prefloop.runtime.environment import environment

if TYPE_CHECKING:
    from prefloop.runtime.world import World

_MOST_NAMED = 5
"""Settings that one message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A process of the run, as it says itself."""

    host: str
    leads: bool
    """Whether it is the first one of its machine."""
    launcher: str
    """How torchrun was started there, without what it runs; empty where that cannot be found out."""


def launcher() -> str:
    """The command line of the torchrun that started this process, as far as its own flags go; empty where the system does not say.

    Where nodes meet, and under what name, is known to that command line only.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().split("\0")[:-1]
    except (OSError, UnicodeDecodeError):
        return ""
    program, flags = _program(words)
    if not program:
        return ""
    from torch.distributed.run import get_args_parser

    try:
        known = get_args_parser().parse_args(flags)
    except SystemExit:
        return ""
    own = flags[: len(flags) - len(known.training_script_args) - 1]
    while own and own[-1] in ("-m", "--module", "--"):
        own.pop()
    return shlex.join([*program, *own])


def _program(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is typed to start torchrun, and what follows; nothing if these words start something else."""
    for place, word in enumerate(words[:3]):
        path = Path(word)
        if path.name == "torchrun":
            found = shutil.which("torchrun")
            known = found is not None and Path(found).resolve() == path.resolve()
            return (["torchrun"] if known else [word]), list(words[place + 1 :])
        if word == "torch.distributed.run" and place and words[place - 1] == "-m":
            return [*words[: place + 1]], list(words[place + 1 :])
        if path.parts[-3:] == ("torch", "distributed", "run.py"):
            return [*words[:place], "-m", "torch.distributed.run"], list(words[place + 1 :])
    return [], []


def command(world: "World", words: str) -> str:
    """What to type to start prefloop again with these words, as it was started now. With several machines it is typed on each; where they differ, each has its own."""
    if world.size == 1:
        return f"prefloop {words}"
    leaders = [peer for peer in world.peers if peer.leads]
    if len(leaders) > 1 and all(peer.launcher for peer in leaders):
        if len({peer.launcher for peer in leaders}) == 1:
            return f"{leaders[0].launcher} -m prefloop {words}"
        return "; ".join(f"on {peer.host}: {peer.launcher} -m prefloop {words}" for peer in leaders)
    here = os.environ.get("LOCAL_WORLD_SIZE", world.size)
    nodes = os.environ.get("GROUP_WORLD_SIZE", "1")
    meeting = ""
    if nodes != "1":
        meeting = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint {os.environ['MASTER_ADDR']}:{MEETING_PORT} "
    return f"torchrun {meeting}--nproc-per-node {here} -m prefloop {words}"


def differing(ours: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """The settings in which a process differs from the first one, with both values; empty if there are none."""
    names = [name for name in {**first, **ours} if repr(ours.get(name)) != repr(first.get(name))]
    shown = [f"{name} is {ours.get(name)!r} and not {first.get(name)!r}" for name in names[:_MOST_NAMED]]
    return ", ".join(shown) + (f", and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else "")


def differ(rank: int, host: str, first: str, what: str) -> InputError:
    """The error for a process that was given other settings than the first one."""
    return InputError(
        f"process {rank} on {host} was given other settings than process 0 on {first}: {what}; start all machines with the same"
    )


def check_settings(world: "World", settings: Mapping[str, Any]) -> None:
    """Raise `InputError` on all processes if one was given other settings than the first, with its machine and the settings. Collective."""
    first = world.broadcast_object(dict(settings))
    found = world.gather_objects(differing(settings, first))
    for rank, what in enumerate(found):
        if what:
            raise differ(rank, world.host(rank), world.host(0), what)


def describe_machines(world: "World", folder: Path) -> list[str]:
    """What the log says of several machines: who sees the run's folder, and who has other versions. Collective: all processes call it."""
    leaders = [rank for rank, peer in enumerate(world.peers) if peer.leads]
    if len(leaders) < 2:
        return []
    blind, versions = _blind(world, folder), world.gather_objects(environment())
    hosts = ", ".join(world.host(rank) for rank in leaders)
    seen = (
        f"not seen on {', '.join(blind)}: process 0 on {world.host(0)} reads and writes for all"
        if blind
        else "seen on all of them"
    )
    lines = [f"{len(leaders)} machines ({hosts}); the run's folder is {seen}"]
    for rank in leaders[1:]:
        own, main = versions[rank], versions[0]
        for name in ("prefloop", "torch", "transformers", "python"):
            if own[name] != main[name]:
                lines.append(
                    f"process {rank} on {world.host(rank)} has {name} {own[name]}, process 0 has {main[name]}: results may differ"
                )
    return lines


def _blind(world: "World", folder: Path) -> list[str]:
    """The machines that do not see this folder of process 0, which is there. Collective: all processes call it."""
    mark = folder.absolute() / f".{secrets.token_hex(8)}"
    world.on_main(mark.touch)
    mark = world.broadcast_object(mark)
    views = world.gather_objects(mark.exists())
    world.on_main(mark.unlink)
    return [peer.host for peer, seen in zip(world.peers, views, strict=True) if peer.leads and not seen]


def require_shared(world: "World", folder: Path, *, what: str) -> None:
    """Raise `InputError` on all processes if a machine does not see where this folder is, or will be. Collective. `what` says what reads it there."""
    if world.machines == 1:
        return
    there = world.on_main(
        lambda: next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())
    )
    blind = _blind(world, there)
    if blind:
        raise InputError(
            f"{what} reads {folder} on every machine, but it is not seen on {', '.join(blind)}; name a folder that all machines share, "
            "or type the stages one by one: they need it on one machine only"
        )
