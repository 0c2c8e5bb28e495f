"""`prefloop verify`."""

from pathlib import Path

from prefloop.configs.verify import VerifyConfig
from prefloop.runtime.verify import checked


def verify(config: VerifyConfig) -> int:
    """Check every manifest in the folder; print a line for each. Raises `InputError` that names every file that was changed, up to five."""
    for line in checked(Path(config.folder)):
        print(line, flush=True)
    return 0
