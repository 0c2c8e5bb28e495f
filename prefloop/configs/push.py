"""Settings of `prefloop push`."""

import re
from dataclasses import dataclass

from prefloop.configs.common import require

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class PushConfig:
    """Put a finished model, or an adapter by itself, on the Hugging Face hub, with a card that says what made it and how it was measured."""

    folder: str
    """Folder of the model (`RUN/final`), of an adapter (`RUN/final/adapter`), or of the run that made it."""
    name: str
    """Repository as OWNER/NAME. It is made if it is not there."""
    private: bool = False
    """Make the repository private. One that is there stays as it is."""
    revision: str = ""
    """Branch to push to, made if it is not there; empty is the main one."""
    base: str = ""
    """Of an adapter, the hub name of its base: needed where it was trained on a folder, which nobody else has."""
    store: str = ""
    """Store that knows the model: a file or a database URL; empty takes the nearest prefloop.db above the folder, or here."""
    summary: str = ""
    """`summary.json` of an evaluation to quote; empty takes the one in the project folder, if it measured this model."""
    message: str = ""
    """Commit message; empty says what the model is."""
    dry_run: bool = False
    """Write the card into the folder as README.md, and say what would be pushed. A README.md that is there is pushed as it is."""

    def __post_init__(self) -> None:
        require(bool(self.folder), "folder is empty; name the folder of a finished model")
        require(
            bool(_NAME.fullmatch(self.name)),
            f"name is {self.name!r}; a repository is named OWNER/NAME, for example team/helpful-dpo",
        )
        require(
            not self.base or bool(_NAME.fullmatch(self.base)),
            f"base is {self.base!r}; it must be a hub name, OWNER/NAME",
        )
