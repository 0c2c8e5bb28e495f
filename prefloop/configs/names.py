"""Short names of settings, on the command line and from Python."""

from typing import Any

from prefloop.configs.load import names_of

SHORT = {
    "data": "data.source",
    "out": "run.out",
    "seed": "run.seed",
    "resume": "run.resume",
    "store": "run.store",
    "skip_bad": "data.skip_bad",
    "format": "data.format",
    "columns": "data.columns",
    "environment": "environment.name",
}
"""What may be written shorter, in every command that has the long one and no setting of the short name."""


def short_names(cls: Any) -> dict[str, str]:
    """Short name -> setting, for the settings of a command."""
    names = names_of(cls)
    return {short: name for short, name in SHORT.items() if name in names and short not in names}
