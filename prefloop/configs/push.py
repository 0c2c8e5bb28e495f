"""Settings of `prefloop push`."""

import re
from dataclasses import dataclass

from prefloop.configs.common import require

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class PushConfig:
    """Push a finished model, or an adapter by itself, to the Hugging Face hub, with a card that lists its data, runs and results."""

    folder: str
    """Folder of the model (`RUN/final`), of an adapter (`RUN/final/adapter`), or of the run that made it."""
    name: str
    """Repository as OWNER/NAME. It is created if it does not exist."""
    private: bool = False
    """Make the repository private. An existing one is not changed."""
    revision: str = ""
    """Branch to push to, created if it does not exist; empty is the main one."""
    base: str = ""
    """Hub name of an adapter's base; needed if it was trained on a local folder."""
    store: str = ""
    """Store that knows the model: a file or a database URL; empty uses the nearest prefloop.db above the folder, or here."""
    summary: str = ""
    """`summary.json` of an evaluation to quote; empty uses the one in the project folder, if it measured this model."""
    message: str = ""
    """Commit message; empty says what the model is."""
    dry_run: bool = False
    """Write the card into the folder as README.md, and say what would be pushed. An existing README.md is pushed unchanged."""

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
