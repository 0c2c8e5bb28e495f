"""`prefloop report` and `prefloop lineage`."""

from prefloop.cli.printing import show
from prefloop.configs.project import LineageConfig, ReportConfig


def report(config: ReportConfig) -> None:
    """Write the report and say where it is."""
    from prefloop.evaluation.report import write_report

    print(f"wrote {write_report(config.project)}; open it in a browser")


def lineage(config: LineageConfig) -> None:
    """Print the tree of what made a checkpoint."""
    from prefloop.data.store import Store, nearest_store
    from prefloop.data.store import lineage as find_lineage

    with Store.open(config.store or nearest_store(config.checkpoint), create=False) as store:
        tree = find_lineage(store, config.checkpoint)
    show(tree.to_json(), tree.render, as_json=config.json)
