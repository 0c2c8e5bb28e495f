"""`prefloop report` and `prefloop lineage`."""

import json
from pathlib import Path

from prefloop.configs.project import LineageConfig, ReportConfig
from prefloop.errors import InputError

STORE = "prefloop.db"


def report(config: ReportConfig) -> None:
    """Write the report and say where it is."""
    from prefloop.evaluation.report import write_report

    print(f"wrote {write_report(config.project)}; open it in a browser")


def lineage(config: LineageConfig) -> None:
    """Print the tree of what made a checkpoint."""
    from prefloop.data.store import Store
    from prefloop.data.store import lineage as find_lineage

    with Store.open(config.store or nearest_store(config.checkpoint), create=False) as store:
        tree = find_lineage(store, config.checkpoint)
    print(json.dumps(tree.to_json(), indent=1, ensure_ascii=False) if config.json else tree.render())


def nearest_store(checkpoint: str) -> Path:
    """The first `prefloop.db` in the folders above a checkpoint's, then in the current folder."""
    places = [*Path(checkpoint).resolve().parents, Path.cwd()] if Path(checkpoint).exists() else [Path.cwd()]
    for folder in places:
        if (folder / STORE).is_file():
            return folder / STORE
    raise InputError(
        f"there is no {STORE} above {checkpoint!r} or here; name the store that knows the checkpoint with --store"
    )
