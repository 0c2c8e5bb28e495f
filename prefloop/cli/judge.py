"""`prefloop label judge` and `prefloop label score`."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.configs.judge import JudgeConfig, LabelScoreConfig
from prefloop.data.store import Store
from prefloop.data.write import write_rows
from prefloop.errors import InputError
from prefloop.feedback.judges import Cached, Endpoint, Failures
from prefloop.feedback.judges.stored import JudgedPairs, score_stored
from prefloop.feedback.judges.wording import cost_lines, judged_lines, own_lines, scored_lines
from prefloop.loop.asked import asking


def judge(config: JudgeConfig) -> str:
    """Judge the pairs, print what came of it and what it cost; the store's name. Ends with an error where nothing could be judged."""
    with (
        Store.open(config.store, create=False) as store,
        asking(config, logprobs=config.mode != "tags") as model,
    ):
        cached = Cached(model, config.cache or store.folder / "judge_cache.db")
        pairs = JudgedPairs(config, store, cached)
        report = pairs.judge()
        _print(judged_lines(config.called, report, asked=len(pairs.items)))
        _print([*cost_lines(model, cached, report), *own_lines(store, config.called)])
        if pairs.items and not report.verdicts:
            raise InputError(f"nothing was judged: {report.why}")
        _write(config.labels, pairs.rows(report), "comparisons", setting="labels")
        result = pairs.try_injection(report, config.injection)
        _print([f"  {result}"] if result else [])
    return config.store


def score(config: LabelScoreConfig) -> None:
    """Score a store's completions by themselves, write the scores, print what came of it and what it cost."""
    with Store.open(config.store, create=False) as store, asking(config) as model:
        # A checkpoint gives whole answers' probabilities in batches, which costs nothing and is not kept.
        cached = None
        if isinstance(model, Endpoint):
            cached = Cached(model, config.cache or store.folder / "judge_cache.db")
        found = score_stored(config, store, cached or model)
        _print([*scored_lines(config.called, found), *own_lines(store, config.called)])
        result = found.try_injection(config.injection)
        _print([f"  {result}"] if result else [])
        _print(cost_lines(model, cached, Failures()) if cached else [])
    _write(config.out, found.rows(f"judge:{config.called}"), "scores", setting="out")


def _write(file: str, rows: Sequence[Mapping[str, Any]], what: str, *, setting: str) -> None:
    """Write rows where a file is named, and say so."""
    if file:
        write_rows(file, rows, setting=setting)
        print(f"wrote {len(rows)} {what} to {file}")


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)
