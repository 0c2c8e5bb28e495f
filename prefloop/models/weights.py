"""Which weights a name stands for: the files, and a hash of what is in them, for caches, provenance and going on with a run."""

import hashlib
import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from prefloop.errors import InputError

_CONFIG = "config.json"
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def check_name(name: str) -> None:
    """Refuse at once what can be neither a folder nor a hub name, instead of asking the hub for it for a minute."""
    path = Path(name).expanduser()
    if path.is_file():
        raise InputError(
            f"model {name!r} is a file; give the folder that holds config.json and model.safetensors, or a hub name"
        )
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if is_path and not path.exists():
        raise InputError(
            f"model {name!r} is not there; give a folder that holds config.json and safetensors weights, or a hub name"
        )


def weights_sha256(name: str) -> str:
    """Hash of a model's safetensors and `config.json`, by folder or hub name.

    A hub model that is not in the cache yet is downloaded to it, from where it is loaded afterwards. The hash reads every byte (about a
    second per GiB), so take it once per start.

    Raises:
        InputError: There is no such model, or it has no safetensors weights.
    """
    check_name(name)
    config, files = _local(Path(name)) if Path(name).is_dir() else _from_hub(name)
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    if config.exists():
        digest.update(json.dumps(json.loads(config.read_text()), sort_keys=True).encode())
    return digest.hexdigest()


def _local(folder: Path) -> tuple[Path, list[Path]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"model {str(folder)!r} holds no safetensors weights; give the folder that `save_pretrained` or a stage of prefloop wrote"
        )
    return folder / _CONFIG, files


def _from_hub(name: str) -> tuple[Path, list[Path]]:
    """What `from_pretrained` loads of a hub model: its configuration, and one file of weights or all that its index names."""
    try:
        config = Path(hf_hub_download(name, _CONFIG))
        try:
            return config, [Path(hf_hub_download(name, _WHOLE))]
        except EntryNotFoundError:  # not there, or offline and not in the cache
            index = json.loads(Path(hf_hub_download(name, _INDEX)).read_text())
            return config, [
                Path(hf_hub_download(name, shard)) for shard in sorted(set(index["weight_map"].values()))
            ]
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"model {name!r}: its safetensors weights were not found here or on the hub: {reason}"
        ) from error
