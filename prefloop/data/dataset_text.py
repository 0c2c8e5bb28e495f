"""Saved versions of data sets in words."""

import json
from dataclasses import asdict
from typing import Any

from prefloop.data.hashing import canonical_json
from prefloop.data.store.datasets import Difference, Taken
from prefloop.data.store.values import DatasetVersion
from prefloop.records import Comparison, Demonstration, Label, Prompt, Ranking, Score

WIDTH = 60
"""Characters of a text that are shown."""


def history(version: DatasetVersion) -> str:
    """A version in a few lines."""
    by = f" by {version.made_by}" if version.made_by else ""
    lines = [
        f"{version.label}: {about(version)}",
        f"  saved {version.created_at:%Y-%m-%d %H:%M}{by}; {changes_text(version)}",
    ]
    if version.chosen:
        lines.append(f"  {', '.join(f'{name} {_shown(value)}' for name, value in version.chosen.items())}")
    if version.note:
        lines.append(f"  {version.note}")
    return "\n".join(lines)


def plain_difference(before: DatasetVersion, after: DatasetVersion, found: Difference) -> dict[str, Any]:
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


def difference_text(
    before: DatasetVersion, after: DatasetVersion, found: Difference, *, examples: int
) -> str:
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


def about(version: DatasetVersion) -> str:
    """Its records and the export that they were written by."""
    export = version.export
    return f"{export.rows} {export.kind}, export {export.id}, sha256 {export.sha256[:12]}"


def changes_text(version: DatasetVersion) -> str:
    """How it differs from the version before."""
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
