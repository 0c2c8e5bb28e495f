"""`prefloop data save`, `data versions` and `data diff`."""

from prefloop.cli.printing import show
from prefloop.configs.data import DiffConfig, SaveConfig, VersionsConfig
from prefloop.data.dataset_text import about, changes_text, difference_text, history, plain_difference
from prefloop.data.store import Store
from prefloop.data.store.datasets import difference
from prefloop.feedback.datasets import command_for
from prefloop.feedback.datasets import save as save_version
from prefloop.feedback.judged import summary_of


def save(config: SaveConfig) -> str:
    """Save a version and print what it holds; the command that trains on it."""
    with Store.open(config.store, create=False) as store:
        version, new = save_version(
            store, config.name, config.kind, config, skip_bad=config.skip_bad, note=config.note
        )
    print(f"{version.label}: {about(version)}" + ("" if new else "; nothing has changed since it was saved"))
    if new and version.version > 1:
        print(f"  since {version.name}@{version.version - 1}: {changes_text(version)}")
    if left_out := summary_of({name: count for name, count in version.export.left_out.items() if count}):
        print(f"  left out: {left_out}")
    return command_for(version, config.store)


def versions(config: VersionsConfig) -> None:
    """Print the versions, with what each was selected by."""
    with Store.open(config.store, create=False) as store:
        found = store.datasets(config.name)
        label = store.label
    none = f"{label}: it has no saved dataset yet; save one with `prefloop data save`"
    show(
        [version.to_json() for version in found],
        lambda: "\n".join(map(history, found)) or none,
        as_json=config.json,
    )


def diff(config: DiffConfig) -> None:
    """Print how two versions differ, in settings and in records."""
    with Store.open(config.store, create=False) as store:
        before, after = store.dataset(config.before), store.dataset(config.after)
        found = difference(
            store.exported(before.export.id, erased=True), store.exported(after.export.id, erased=True)
        )
    show(
        plain_difference(before, after, found),
        lambda: difference_text(before, after, found, examples=config.examples),
        as_json=config.json,
    )
