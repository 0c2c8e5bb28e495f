"""What a model's name stands for: a folder, a hub repository, one of its revisions (`NAME@REVISION`), or a `.gguf` file. No torch here."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prefloop.configs.copies import here
from prefloop.errors import InputError

GGUF = ".gguf"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelName:
    """A name in its parts."""

    source: str
    """Folder, or hub repository."""
    revision: str = ""
    """Branch, tag or commit of a hub repository; empty uses its main branch."""
    gguf: str = ""
    """File in it that holds the model; empty if it holds config.json and safetensors."""

    @property
    def options(self) -> dict[str, str]:
        """For `from_pretrained`, beside the source."""
        given = {"revision": self.revision, "gguf_file": self.gguf}
        return {key: value for key, value in given.items() if value}

    @property
    def is_path(self) -> bool:
        """Whether it can be no hub repository, by its spelling."""
        return (
            self.source.startswith((".", "/", "~"))
            or self.source.count("/") > 1
            or "\\" in self.source
            or ":" in self.source
        )


def model_name(given: str) -> ModelName:
    """The parts of a name. What exists here is what it is; only the rest may name a revision or a file on the hub.

    Raises:
        InputError: A revision of something that has none, or a .gguf file without the package that reads it.
    """
    given = here(given)
    path = Path(given).expanduser()
    if path.is_file() and path.suffix == GGUF:
        _need_gguf(given)
        return ModelName(source=str(path.parent), gguf=path.name)
    if path.exists():
        return ModelName(source=given)
    source, at, revision = given.partition("@")
    if at and not (source and revision):
        raise InputError(f"model {given!r}: a revision is written NAME@REVISION, as in team/model@v2")
    if at and Path(source).expanduser().exists():
        raise InputError(
            f"model {given!r}: {source} is here, where there are no revisions; leave @{revision} out"
        )
    gguf = ""
    if (
        source.endswith(GGUF)
        and source.count("/") == 2
        and not ModelName(source=source.rpartition("/")[0]).is_path
    ):
        _need_gguf(given)
        source, _, gguf = source.rpartition("/")
    return ModelName(source=source, revision=revision, gguf=gguf)


def is_revision(part: str, of: str) -> bool:
    """Whether what stands after an @ is a revision of the model before it, not another model: those are folders or have an owner."""
    exists = Path(here(of)).expanduser().exists() or Path(here(part)).expanduser().exists()
    return not exists and ("/" not in part or part.startswith("refs/"))


def _need_gguf(given: str) -> None:
    if find_spec("gguf") is None:
        raise InputError(
            f"model {given!r} is read by the package gguf, which is not installed: pip install 'prefloop[gguf]'"
        )
