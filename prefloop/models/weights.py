"""Which weights a name stands for: the files, and a hash of what is in them, for caches, provenance and resuming a run."""

import hashlib
import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from prefloop.configs.adapters import WEIGHTS, Adapter, adapter_of, read_object
from prefloop.configs.model_names import ModelName, model_name
from prefloop.errors import InputError

_CONFIG = "config.json"
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def check_name(name: str) -> None:
    """Refuse at once what can be neither a folder nor a hub name, instead of asking the hub for it for a minute, and files that are damaged."""
    adapter = adapter_of(name)
    if adapter is not None:
        check_name(adapter.base)
        return
    place = model_name(name)
    path = Path(place.source).expanduser()
    if path.is_file():
        raise InputError(
            f"model {name!r} is a file; give the folder that holds config.json and model.safetensors, a .gguf file, or a hub name"
        )
    if place.is_path and not path.exists():
        raise InputError(
            f"model {name!r} does not exist; give a folder that holds config.json and safetensors weights, or a hub name"
        )
    if path.is_dir() and not place.gguf:
        check_files(path)


def check_files(folder: Path) -> None:
    """Raise `InputError` that names the file if a saved model's configuration or weights are cut off or damaged; reads headers only."""
    for name in (_CONFIG, "generation_config.json"):
        if (folder / name).is_file():
            read_object(folder / name)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (OSError, SafetensorError) as error:
            raise InputError(_damaged(file, error)) from error
    if (folder / _INDEX).is_file():
        shards = read_object(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise InputError(f"{folder / _INDEX} has no weight_map; restore it, or save the model again")
        for shard in sorted({str(file) for file in shards.values()}):
            if not (folder / shard).is_file():
                raise InputError(f"{folder / shard} is missing ({_INDEX} names it); restore it")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises `InputError` that names the file if it is not there, cut off or damaged."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(_damaged(file, error)) from error


def _damaged(file: Path, error: Exception) -> str:
    return (
        f"{file} is truncated or damaged ({str(error).strip() or type(error).__name__}); "
        "restore the file, or save the model again"
    )


def weights_sha256(name: str) -> str:
    """Hash of a model's safetensors and `config.json`, or of its .gguf file, by name.

    A hub model that is not in the cache yet is downloaded to it, from where it is loaded afterwards. The hash reads every byte (about a
    second per GiB), so take it once per start.

    Raises:
        InputError: There is no such model, or it has no safetensors weights.
    """
    check_name(name)
    digest = hashlib.sha256()
    adapter = adapter_of(name)
    if adapter is not None:
        return _of_adapter(adapter)
    place = model_name(name)
    about, files = _local(place) if Path(place.source).is_dir() else _from_hub(name, place)
    for file in files:
        _add(digest, file)
    if about is not None and about.exists():
        digest.update(json.dumps(read_object(about), sort_keys=True).encode())
    return digest.hexdigest()


def _of_adapter(adapter: Adapter) -> str:
    """Of the base, and of what the adapter changes, wherever either lies."""
    file = adapter.folder / WEIGHTS
    if not file.is_file():
        raise InputError(f"adapter {str(adapter.folder)!r} holds no {WEIGHTS}")
    digest = hashlib.sha256(weights_sha256(adapter.base).encode())
    _add(digest, file)
    settings = {key: value for key, value in adapter.settings.items() if key != "base_model_name_or_path"}
    digest.update(json.dumps([settings, adapter.about.get("config")], sort_keys=True).encode())
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", file: Path) -> None:
    digest.update(file.name.encode())
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)


def _local(place: ModelName) -> tuple[Path | None, list[Path]]:
    folder = Path(place.source)
    if place.gguf:
        return None, [folder / place.gguf]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"model {str(folder)!r} holds no safetensors weights; give the folder that `save_pretrained` or a stage of prefloop wrote"
        )
    return folder / _CONFIG, files


def _from_hub(name: str, place: ModelName) -> tuple[Path | None, list[Path]]:
    """What `from_pretrained` loads of a hub model: its configuration, and one file of weights or all that its index names."""

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(place.source, file, revision=place.revision or None))

    try:
        if place.gguf:
            return None, [fetch(place.gguf)]
        config = fetch(_CONFIG)
        try:
            return config, [fetch(_WHOLE)]
        except EntryNotFoundError:  # not there, or offline and not in the cache
            shards = read_object(fetch(_INDEX))["weight_map"]
            return config, [fetch(shard) for shard in sorted(set(shards.values()))]
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"model {name!r}: its safetensors weights were not found here or on the hub: {reason}"
        ) from error
