"""Before the processes of a run have settings: they meet, the one that has the run's files becomes the first, and it tells the others its settings.

A machine needs neither the file of settings nor the small files that settings name. Where it has them it reads its own, and what differs is an
error: processes with other settings would each do something else.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed.distributed_c10d import PrefixStore, Store

from prefloop.addresses import without_passwords
from prefloop.configs.copies import here, keep_copy
from prefloop.configs.judge import SCORER
from prefloop.configs.load import Given, Tree, load_config, overlay, read_file
from prefloop.configs.verifiers import FILE
from prefloop.errors import InputError, PeerLost
from prefloop.runtime.environment import flatten
from prefloop.runtime.machines import Peer, differ, differing
from prefloop.runtime.sending import scratch
from prefloop.runtime.world import WAIT_MINUTES, meet_early

T = TypeVar("T")

SMALL = 2**20
"""Bytes of a file that is sent with the settings."""
_BETWEEN = re.compile(r"[,=@+]")
"""What stands between names in one text: `sft=FOLDER`, `POLICY@REFERENCE`, `ADAPTER+BASE`, `REWARD,REWARD`."""


def settings_of_all(cls: type[T], file: str, flags: Tree) -> T:
    """The settings of a file with flags over them, as `load_config` reads them, agreed on by all processes. Collective: all processes call it.

    Raises:
        InputError: Something is wrong with them, or a process was given others; all processes raise it.
        PeerLost: A process did not come in time.
    """
    minutes = _minutes(cls, file, flags)
    store, rank, peers = meet_early(
        minutes, votes=sum(Path(name).expanduser().exists() for name in _named(file, flags))
    )
    store = PrefixStore("settings", store)
    store.set_timeout(timedelta(minutes=minutes))
    return _first(store, peers, cls, file, flags) if rank == 0 else _other(store, rank, cls, file, flags)


def _minutes(cls: Any, file: str, flags: Tree) -> float:
    """How long to wait, as far as this process has been told."""
    tree = flags
    with suppress(InputError):  # no such file here, or something is wrong with it: that is said later
        tree = overlay(read_file(file, cls), flags) if file else flags
    compute = tree.get("compute", {})
    given = compute.get("wait_minutes") if isinstance(compute, dict) else None
    return float(given.value) if isinstance(given, Given) else WAIT_MINUTES


def _named(file: str, flags: Tree) -> Iterator[str]:
    """What may be a file or folder among what was given."""
    if file:
        yield file
    for value in flags.values():
        if isinstance(value, Given):
            for text in _texts(value.value):
                yield from dict.fromkeys((text, *(part for part in _BETWEEN.split(text) if part)))
        else:
            yield from _named("", value)


def _texts(value: object) -> tuple[str, ...]:
    """The texts of a setting that is text or several."""
    given = value if isinstance(value, list | tuple) else (value,)
    return tuple(text for text in given if isinstance(text, str) and text)


def _first(store: Store, peers: list[Peer], cls: type[T], file: str, flags: Tree) -> T:
    """Read the settings, tell them to the others, and hear whether theirs are the same."""
    try:
        config = load_config(cls, file, flags)
    except InputError as error:
        store.set("first", json.dumps({"error": str(error)}))
        raise
    flat = _flat(config)
    files = {file: _content(file)} if file else {}
    files |= {name: _content(name) for name in _small_files(flat)}
    store.set("first", json.dumps({"settings": flat, "files": files}))
    found = [(rank, _heard(store, f"of-{rank}")) for rank in range(1, len(peers))]
    wrong = next(((rank, text) for rank, text in found if text), None)
    problem = (
        str(differ(wrong[0], peers[wrong[0]].host, peers[0].host, wrong[1])) if wrong is not None else ""
    )
    store.set("verdict", json.dumps(problem))
    if problem:
        raise InputError(problem)
    return config


def _other(store: Store, rank: int, cls: type[T], file: str, flags: Tree) -> T:
    """The first process's settings, from its files where this machine has none."""
    first = _heard(store, "first")
    if "error" in first:
        raise InputError(first["error"])
    faults = []
    for name, content in first["files"].items():
        path = Path(name).expanduser()
        if not path.is_file():
            copy = scratch() / f"settings-{len(list(scratch().iterdir()))}" / path.name
            copy.parent.mkdir()
            copy.write_bytes(base64.b64decode(content))
            keep_copy(name, copy)
        elif name != file and _content(name) != content:
            faults.append(f"its {name} has other content")
    try:
        config = load_config(cls, here(file) if file else "", flags)
        # As the others' have come: through JSON.
        faults += [differing(json.loads(json.dumps(_flat(config))), first["settings"])]
    except InputError as error:
        faults.append(str(error))
        config = None
    store.set(f"of-{rank}", json.dumps("; ".join(filter(None, faults))))
    problem = _heard(store, "verdict")
    if problem:
        raise InputError(problem)
    assert config is not None
    return config


def _heard(store: Store, key: str) -> Any:
    """What another process says under this key."""
    try:
        return json.loads(store.get(key))
    except RuntimeError as error:
        raise PeerLost(
            f"another process ended, or did not say in time what its settings are ({str(error).splitlines()[0]})",
            speaks=os.environ.get("LOCAL_RANK", "0") == "0",
        ) from error


def _flat(config: Any) -> dict[str, Any]:
    return flatten(without_passwords(asdict(config)))


def _small_files(settings: Mapping[str, Any]) -> list[str]:
    """Files of settings and functions that are named; data and models are sent when they are read."""
    texts = [
        part.strip()
        for name, value in settings.items()
        if not name.startswith(("data.", "run."))
        for text in _texts(value)
        for part in text.split(",")
    ]
    names = [text.removeprefix(SCORER).removeprefix(FILE) for text in texts]
    names = [name.rpartition(":")[0] if ".py:" in name else name for name in names]
    return [name for name in dict.fromkeys(names) if _is_small_file(name)]


def _is_small_file(name: str) -> bool:
    path = Path(name).expanduser()
    return bool(name) and len(name) < 4096 and path.is_file() and path.stat().st_size <= SMALL


def _content(name: str) -> str:
    return base64.b64encode(Path(name).expanduser().read_bytes()).decode()
