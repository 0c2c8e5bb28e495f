"""A training run's entry in the store: what it read, what it started from, what it made."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from prefloop.configs.adapters import CONFIG
from prefloop.configs.common import RunSettings
from prefloop.configs.copies import here
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.loop.reading import Read, bring_models, store_of
from prefloop.models.lora import ADAPTER
from prefloop.models.weights import weights_sha256
from prefloop.runtime.checkpoint import Content
from prefloop.runtime.sending import take_notes
from prefloop.runtime.world import World

START = "model"
"""The role of the model that a run goes on from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The models a run reads, by role, with the hashes of their weights: taken once, before anything is loaded."""

    names: Mapping[str, str]
    sha256: Mapping[str, str]
    others: Mapping[str, Content] = field(default_factory=dict)
    """What else of the models' settings must stay the same, by name."""

    @property
    def contents(self) -> dict[str, Content]:
        """For the run's fingerprint."""
        return {
            f"weights.{role}": Content(what=f"the weights of {role} {name}", sha256=self.sha256[role])
            for role, name in self.names.items()
        } | dict(self.others)

    def reference_is_start(self) -> bool:
        """Whether the reference has the weights that the policy starts with; it has where none is named."""
        return "reference" not in self.names or self.sha256["reference"] == self.sha256[START]


def models_read(world: World, **names: str) -> Models:
    """Hash the weights of models by role, the same name once; empty names are left out.

    Raises:
        InputError: There is no such model, or it has no safetensors weights.
    """
    given = {role: name for role, name in names.items() if name}
    bring_models(world, *given.values())
    by_name = world.on_main(lambda: _hashes(given.values()))
    _check_elsewhere(world, by_name)
    return Models(names=given, sha256={role: by_name[name] for role, name in given.items()})


def same_models(world: World, *names: str) -> None:
    """See to it that every machine has these models, for commands without a run's log; prints what was sent. Empty names are left out. Collective.

    Raises:
        InputError: There is no such model, no room for a copy, or a machine has other weights under a hub name.
    """
    bring_models(world, *names)
    for line in take_notes():
        world.say(line)
    if world.machines > 1:
        _check_elsewhere(
            world, world.on_main(lambda: _hashes(name for name in names if name and not _is_here(name)))
        )


def _hashes(names: Iterable[str]) -> dict[str, str]:
    return {name: weights_sha256(name) for name in dict.fromkeys(names)}


def _is_here(name: str) -> bool:
    return Path(here(name)).expanduser().exists()


def _check_elsewhere(world: World, main: Mapping[str, str]) -> None:
    """Machines that do not see process 0's models load them from the hub themselves; `InputError` where one has other weights under that name."""
    if world.machines == 1:
        return

    def check() -> None:
        for name, weights in main.items() if world.is_leader and not world.is_main else ():
            if not _is_here(name) and weights_sha256(name) != weights:
                raise InputError(
                    f"model {name!r} has other weights on {world.host(world.rank)} (process {world.rank}) than on {world.host(0)} (process 0); "
                    "name its revision (NAME@REVISION), or give a folder"
                )

    world.together(check)


class RunRecord:
    """The entry of one run, in a `with` statement: a run that ends with an error is marked so. Only rank 0 writes it."""

    def __init__(self, *, stage: str, config: Any, settings: RunSettings, world: World) -> None:
        self._stage = stage
        self._config = config
        self._settings = settings
        self._world = world
        self._store = store_of(settings.out, settings.store)
        self._id = 0

    def begin(self, *, models: Models, reads: Sequence[Read] = ()) -> None:
        """Write down that the run begins, from which models and data."""

        def work() -> None:
            with Store.open(self._store) as store:
                known = {
                    role: store.add_checkpoint(
                        name_in_store(name, store), kind=_kind(role), weights_sha256=models.sha256[role]
                    )
                    for role, name in models.names.items()
                }
                self._id = store.begin_training_run(
                    self._stage,
                    config=asdict(self._config),
                    start=known.pop(START, None),
                    models_read=known,
                    exports=[export for read in reads for export in read.exports],
                    sources=[source for read in reads for source in read.sources],
                    folder=name_in_store(self._settings.out, store),
                    resume=self._settings.resume,
                )

        self._world.on_main(work)

    def __enter__(self) -> "RunRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or not self._id or not self._world.is_main:
            return
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        # Suppressed: the error that ended the run matters more than one of its record.
        with contextlib.suppress(InputError), Store.open(self._store) as store:
            store.stop_training_run(self._id, status, f"{type(error).__name__}: {error}")

    def finish(self, folder: Path, *, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Write down what the run made."""

        adapter = folder / ADAPTER

        def work() -> None:
            with Store.open(self._store) as store:
                if (adapter / CONFIG).exists():  # a model that others start from, as the merged one is
                    store.add_run_checkpoint(
                        self._id,
                        name_in_store(str(adapter), store),
                        weights_sha256=weights_sha256(str(adapter)),
                        kind=kind,
                        step=step,
                    )
                store.finish_training_run(
                    self._id,
                    name_in_store(str(folder), store),
                    weights_sha256=weights_sha256(str(folder)),
                    kind=kind,
                    step=step,
                    metrics=metrics,
                )

        self._world.on_main(work)


def name_in_store(given: str, store: Store) -> str:
    """A path inside the project is named relative to it, so that a project can be moved; anything else as it was given."""
    return store.name_of(given)


def _kind(role: str) -> str:
    return "reward_model" if role.startswith("reward_model") else "policy"
