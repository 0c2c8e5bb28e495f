"""Settings of `prefloop verify`."""

from dataclasses import dataclass

from prefloop.configs.common import require


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """Check that a run's checkpoints and finished model are unchanged: every file's length and SHA-256 against `manifest.json`."""

    folder: str = ""
    """A run's folder, a checkpoint, a finished model, or a folder in one."""

    def __post_init__(self) -> None:
        require(bool(self.folder), "folder is empty; name a run's folder, a checkpoint or a finished model")
