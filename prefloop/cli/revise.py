"""`prefloop revise`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.cli.judge import costs, problems, write_lines
from prefloop.configs.judge import ReviseConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.judges import Cached, read_constitution
from prefloop.feedback.judges.revising import RevisionReport, StoredRevisions
from prefloop.loop.asked import asking


def revise_completions(config: ReviseConfig) -> str:
    """Criticise and revise, write demonstrations, comparisons and steps, print what came of it; the file of demonstrations."""
    principles = read_constitution(config.constitution)
    with (
        Store.open(config.store, create=False) as store,
        asking(config, temperature=config.temperature, logprobs=False) as model,
    ):
        cached = Cached(model, config.cache or store.folder / "judge_cache.db")
        revisions = StoredRevisions(config, principles, store, cached)
        report = revisions.revise()
        _write_rows(config.demonstrations, revisions.demonstrations(report), setting="demonstrations")
        _write_rows(config.steps, revisions.steps(report), setting="steps")
        print("\n".join([*_lines(config, revisions, report), *costs(model, cached, report)]))
        tried_again = revisions.try_injection(report, config.injection)
        if tried_again:
            obeyed, tried = tried_again
            print(f"  an instruction injected into a completion took over {obeyed} of {tried} revisions")
        if not report.steps:
            raise InputError(f"nothing was revised: {problems(report)}")
    return config.demonstrations


def _write_rows(file: str, rows: Sequence[Mapping[str, Any]], *, setting: str) -> None:
    if file and rows:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_lines(file, "".join(lines), setting=setting)


def _lines(config: ReviseConfig, revisions: StoredRevisions, report: RevisionReport) -> list[str]:
    revised = len(report.steps)
    lines = [
        f"{config.called} revised {revised} of {len(revisions.completions)} completions of {config.policy}, {config.revisions} times each",
        f"  unchanged {report.unchanged}; {revised - report.unchanged} comparisons of revision over original are in the store",
        f"  unreadable replies {report.unreadable}, no answer {report.failed}; these completions have no revision",
        *(f"    {problem}" for problem in report.problems),
    ]
    if revised:
        before, after = report.words
        lines.insert(1, f"  words on average: {before:.1f} before, {after:.1f} after")
        lines.append(f"  wrote {revised} demonstrations to {config.demonstrations}")
    if revisions.speaking:
        lines.append(
            f"  ! {revisions.speaking} completions look as if they spoke to whoever judges or revises; look at them"
        )
    return lines
