"""Adapters as models: wherever a model is named, the folder or hub name of a PEFT adapter stands for its base with the adapter in it.

The base is the one that `adapter_config.json` names. `ADAPTER+BASE` names another place for it. No torch here.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.configs.copies import here
from prefloop.configs.model_names import GGUF, model_name
from prefloop.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ABOUT = "prefloop.json"
"""What else belongs to an adapter that prefloop has made: how a score is read, and the model it was trained from."""

_PARTS = [CONFIG, WEIGHTS, ABOUT, "generation_config.json", "*token*", "chat_template*", "vocab*", "merges*"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """An adapter and the model that it belongs to."""

    name: str
    """As it was given."""
    folder: Path
    base: str
    """Folder or hub name."""
    settings: Mapping[str, Any]
    """What `adapter_config.json` says."""
    about: Mapping[str, Any]
    """What `prefloop.json` says; empty if there is none."""

    @property
    def scores(self) -> bool:
        """Whether it says that it was trained to score texts."""
        return str(self.settings.get("task_type") or "").startswith("SEQ_CLS")

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer was saved with it."""
        return any((self.folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))


def adapter_of(name: str) -> Adapter | None:
    """The adapter that a model's name stands for; None if it stands for a whole model, or for nothing.

    Raises:
        InputError: The adapter's files are damaged, or its base is not named or not there.
    """
    given, plus, base = (
        (name, "", "") if Path(here(name)).expanduser().exists() else map(str.strip, name.partition("+"))
    )
    folder = Path(here(given)).expanduser()
    if not folder.exists():
        found = _from_hub(given)
        if found is None:
            if plus:
                _refuse_base(name, given)
            return None
        folder = found
    if not (folder / CONFIG).is_file():
        if plus:
            _refuse_base(name, given)
        return None
    whole = sorted(file.name for file in folder.glob("model*.safetensors"))
    if whole:
        raise InputError(
            f"model {given!r} holds a whole model ({whole[0]}) and an adapter ({CONFIG}), which is ambiguous; "
            "move the adapter's files to a folder of their own"
        )
    settings = read_object(folder / CONFIG)
    about = read_object(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    return Adapter(
        name=name,
        folder=folder,
        base=_base(base or base_named(settings), folder, given),
        settings=settings,
        about=about,
    )


def base_named(settings: Mapping[str, Any]) -> str:
    """The base that `adapter_config.json` names, with its revision; empty where it names none."""
    named = str(settings.get("base_model_name_or_path") or "")
    revision = settings.get("revision")  # the base's, as PEFT writes it
    return f"{named}@{revision}" if revision and not Path(here(named)).exists() else named


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `InputError` that names the file if it holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file} cannot be read as JSON ({error}); the file is damaged: restore it, or save the model again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds {type(content).__name__}, not a JSON object; restore it")
    return content


def _refuse_base(name: str, given: str) -> None:
    raise InputError(
        f"model {name!r} names a base for {given!r}, which is not an adapter (it has no {CONFIG}); leave the base out"
    )


def _base(named: str, folder: Path, given: str) -> str:
    """The base's folder or hub name. A relative path may start where the run did, so the adapter's own parents are looked at too."""
    way_out = f"give the base's folder or hub name after a plus sign: {given}+BASE"
    if not named:
        raise InputError(f"{folder / CONFIG} names no base (base_model_name_or_path); {way_out}")
    path = Path(here(named)).expanduser()
    places = [path] if path.is_absolute() else [path, *(parent / path for parent in folder.resolve().parents)]
    for place in places:
        if place.is_dir() or (place.is_file() and place.suffix == GGUF):
            if place.resolve() == folder.resolve():
                raise InputError(f"{folder / CONFIG} names the adapter itself as its base; {way_out}")
            return named if place is path else str(place)
    if model_name(named).is_path:
        raise InputError(
            f"adapter {given!r} belongs to the base {named!r} (base_model_name_or_path in {CONFIG}), which does not exist; {way_out}"
        )
    return named


@functools.lru_cache(maxsize=64)
def _from_hub(name: str) -> Path | None:
    """The folder of a hub model that is an adapter; None if it is none, or cannot be asked for."""
    place = model_name(name)
    if not name or place.is_path or place.gguf:
        return None
    revision = place.revision or None
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(place.source, CONFIG, revision=revision)
        return Path(snapshot_download(place.source, revision=revision, allow_patterns=_PARTS))
    except (HfHubHTTPError, HFValidationError, OSError):  # whoever loads the model says what is wrong
        return None
