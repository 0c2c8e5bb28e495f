"""`prefloop data save`, `data versions` and `data diff`."""

import json
from dataclasses import asdict
from typing import Any

from prefloop.cli.printing import show
from prefloop.configs.data import DiffConfig, SaveConfig, VersionsConfig
from prefloop.data.hashing import canonical_json
from prefloop.data.store import Store
from prefloop.data.store.datasets import Difference, Taken, difference
from prefloop.data.store.values import DatasetVersion
from prefloop.feedback.datasets import command_for
from prefloop.feedback.datasets import save as save_version
from prefloop.feedback.judged import summary_of
from prefloop.records import Comparison, Demonstration, Label, Prompt, Ranking, Score

WIDTH = 60
"""Characters of a text that are shown."""


def save(config: SaveConfig) -> str:
    """Save a version and print what it holds; the command that trains on it."""
    with Store.open(config.store, create=False) as store:
        version, new = save_version(
            store, config.name, config.kind, config, skip_bad=config.skip_bad, note=config.note
        )
    print(f"{version.label}: {_about(version)}" + ("" if new else "; nothing has changed since it was saved"))
    if new and version.version > 1:
        print(f"  since {version.name}@{version.version - 1}: {_changes(version)}")
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
        lambda: "\n".join(map(_history, found)) or none,
        as_json=config.json,
    )


def _history(version: DatasetVersion) -> str:
    """A version in a few lines."""
    by = f" by {version.made_by}" if version.made_by else ""
    lines = [
        f"{version.label}: {_about(version)}",
        f"  saved {version.created_at:%Y-%m-%d %H:%M}{by}; {_changes(version)}",
    ]
    if version.chosen:
        lines.append(f"  {', '.join(f'{name} {_shown(value)}' for name, value in version.chosen.items())}")
    if version.note:
        lines.append(f"  {version.note}")
    return "\n".join(lines)


def diff(config: DiffConfig) -> None:
    """Print how two versions differ, in settings and in records."""
    with Store.open(config.store, create=False) as store:
        before, after = store.dataset(config.before), store.dataset(config.after)
        found = difference(store.exported(before.export.id), store.exported(after.export.id))
    show(
        _records(before, after, found),
        lambda: _differing(before, after, found, examples=config.examples),
        as_json=config.json,
    )


def _records(before: DatasetVersion, after: DatasetVersion, found: Difference) -> dict[str, Any]:
    """All that differs."""

    def plain(record: Taken) -> Any:
        return json.loads(canonical_json(record))

    return {
        "before": before.to_json(),
        "after": after.to_json(),
        "counts": asdict(found.changes),
        "records": {
            "added": [plain(record) for record in found.added],
            "removed": [plain(record) for record in found.removed],
            "changed": [
                {"before": plain(change.before), "after": plain(change.after)} for change in found.changed
            ],
        },
    }


def _differing(before: DatasetVersion, after: DatasetVersion, found: Difference, *, examples: int) -> str:
    """Counts, settings that differ, and some records of each sort."""
    counts = found.changes
    lines = [
        f"{before.label} to {after.label}: {counts.added} added, {counts.removed} removed, {counts.changed} relabelled, {counts.same} the same"
    ]
    for name in dict.fromkeys((*before.chosen, *after.chosen)):
        was, now = before.chosen.get(name), after.chosen.get(name)
        if was != now:
            lines.append(f"  {name}: {_shown(was)} before, {_shown(now)} now")
    for what, records in (("added", found.added), ("removed", found.removed)):
        lines += [f"  {what}: {_described(record)}" for record in records[:examples]]
    for change in found.changed[:examples]:
        lines += [f"  changed: {_described(change.before)}", f"  now:     {_described(change.after)}"]
    return "\n".join(lines)


def _about(version: DatasetVersion) -> str:
    export = version.export
    return f"{export.rows} {export.kind}, export {export.id}, sha256 {export.sha256[:12]}"


def _changes(version: DatasetVersion) -> str:
    changes = version.changes
    return f"{changes.added} added, {changes.removed} removed, {changes.changed} relabelled"


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _described(record: Taken) -> str:
    """A record in one line."""
    match record:
        case Comparison():
            text = f"{_short(record.chosen)} over {_short(record.rejected)}"
            text += f", p_soft {record.p_soft:g}" if record.p_soft != 1 else ""
            text += f", margin {record.margin:g}" if record.margin else ""
        case Ranking():
            text = " > ".join(_short(text) for text in record.completions)
        case Label():
            text = f"{_short(record.completion)} is {'good' if record.good else 'bad'}"
        case Score():
            text = f"{_short(record.completion)} scores {record.value:g}"
        case Demonstration():
            text = _short(record.completion)
        case Prompt():
            return _short(_visible(record))
    annotator = getattr(record, "annotator", "")
    return f"{_short(_visible(record.prompt))}: {text}" + (f" ({annotator})" if annotator else "")


def _visible(prompt: Prompt) -> str:
    """A prompt as a reader sees it: of a chat, the last message."""
    return prompt.content if isinstance(prompt.content, str) else prompt.content[-1].shown


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…")
