"""`prefloop label judge`."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefloop.configs.judge import JudgeConfig
from prefloop.data.store import Item, Store
from prefloop.errors import InputError
from prefloop.feedback.judges import (
    Cached,
    ChatModel,
    Endpoint,
    JudgeReport,
    JudgeSettings,
    Limits,
    PairJudge,
    Spent,
    Verdict,
    judge_items,
    keep_in,
    try_injection,
)
from prefloop.feedback.judges.prompts import RUBRIC


def judge(config: JudgeConfig) -> str:
    """Judge the pairs, print what came of it and what it cost; the store's name. Ends with an error where nothing could be judged."""
    settings = JudgeSettings(
        mode=config.mode,
        rubric=config.rubric or RUBRIC,
        principles=config.principles,
        disagreeing=config.disagreeing,
        tie_within=config.tie_within,
        seed=config.seed,
    )
    called = config.model or config.checkpoint
    name = config.annotator or f"judge:{called}"
    with Store.open(config.store, create=False) as store, _model(config) as model:
        cached = Cached(model, config.cache or store.folder / "judge_cache.db")
        asked = PairJudge(cached, settings)
        annotator = store.add_annotator(name, kind="ai", settings=asked.identity())
        items = _items(config, store, annotator)
        labels = Path(config.labels) if config.labels else None
        write = keep_in(store, annotator, config.seed)
        rows: list[str] = []

        def keep(item: Item, verdict: Verdict) -> None:
            write(item, verdict)
            rows.append(_row(item, verdict, name))

        report = judge_items(asked, items, keep=keep, workers=config.limits.workers)
        print("\n".join(_lines(config, report, model, cached, len(items))))
        own = sorted({each.policy for each in store.completions() if called in each.policy})
        if own:
            print(
                f"  ! {called} judges completions of {', '.join(own)}: models prefer their own, so take another judge"
            )
        if labels is not None and rows:
            try:
                labels.write_text("".join(row for row in rows if row), encoding="utf-8")
            except OSError as error:
                raise InputError(
                    f"labels is {config.labels!r}, which cannot be written ({error}); name a file"
                ) from error
            print(f"wrote {sum(map(bool, rows))} comparisons to {labels}")
        if config.injection and report.verdicts:
            decided = [
                item
                for item in items
                if item.id in report.verdicts and report.verdicts[item.id].choice in ("a", "b")
            ]
            result = try_injection(asked, decided[: config.injection], report.verdicts)
            print(
                f"  an instruction planted in the worse completion turned {result.turned} of {result.tried} verdicts"
                f" (its probability rose by {result.mean_gain:.2f} on average; {result.unreadable} gave none)"
            )
        if items and not report.verdicts:
            raise InputError(
                f"nothing was judged: {report.stopped or '; '.join(report.problems) or 'no reply'}"
            )
    return config.store


@contextmanager
def _model(config: JudgeConfig) -> Iterator[ChatModel]:
    """The model that is asked."""
    if config.checkpoint:
        from prefloop.evaluation.local_judge import LocalChat  # torch, which no other judge needs

        yield LocalChat(config.checkpoint, config.compute)
        return
    limits = Limits(
        timeout=config.limits.timeout,
        attempts=config.limits.attempts,
        per_minute=config.limits.per_minute,
        max_calls=config.limits.max_calls,
        max_cost=config.limits.max_cost,
        price_in=config.limits.price_in,
        price_out=config.limits.price_out,
    )
    with Endpoint(
        config.base_url,
        config.model,
        key=os.environ.get(config.key_variable, ""),
        limits=limits,
        logprobs=config.mode != "tags",
    ) as endpoint:
        yield endpoint


def _items(config: JudgeConfig, store: Store, annotator: int) -> list[Item]:
    """Pairs that the judge has not judged, in order."""
    made: set[int] | None = None
    if config.pairs != "stored":
        made = set(store.add_pairs(strategy=config.pairs, seed=config.seed, round=config.round).ids)
    found = [
        item
        for item in store.open_items(annotator, rounds=(config.round,))
        if item.kind == "pair" and (made is None or item.id in made)
    ]
    if not found and not store.counts()["judgement"] and not store.counts()["item"]:
        raise InputError(
            f"{store.label}: there is no pair of round {config.round}; make some with --pairs all or random"
        )
    return found[: config.limit] if config.limit else found


def _lines(
    config: JudgeConfig, report: JudgeReport, model: ChatModel, cached: Cached, items: int
) -> list[str]:
    choices = Counter(verdict.choice for verdict in report.verdicts.values())
    said = ", ".join(f"{choice} {count}" for choice, count in sorted(choices.items())) or "none"
    lines = [f"{config.model or config.checkpoint} judged {len(report.verdicts)} of {items} pairs ({said})"]
    if report.verdicts:
        lines.append(
            f"  both orders name the same side: {report.consistency:.1%}; probability of what is shown first: {report.first_shown:.3f} "
            "(0.5 without position bias)"
        )
    lines.append(
        f"  unreadable replies {report.unreadable}, no answer {report.failed}; these pairs have no judgement"
    )
    lines += [f"    {problem}" for problem in report.problems]
    if report.speaking:
        lines.append(
            f"  ! {report.speaking} pairs hold a completion that looks as if it spoke to the judge; look at them"
        )
    lines.append(f"  answers from the cache: {cached.hits}")
    if isinstance(model, Endpoint):
        lines.append(f"  {_cost(config, model.spent)}")
    if report.stopped:
        lines.append(f"  ended early: {report.stopped}")
    return lines


def _cost(config: JudgeConfig, spent: Spent) -> str:
    failures = ", ".join(f"{reason} {count}" for reason, count in sorted(spent.failures.items()))
    cost = f", cost {spent.cost:.4f}" if config.limits.price_in or config.limits.price_out else ""
    return (
        f"{spent.calls} requests, {spent.retries} of them retries{f' ({failures})' if failures else ''}, "
        f"{spent.prompt_tokens} + {spent.completion_tokens} tokens{cost}"
    )


def _row(item: Item, verdict: Verdict, annotator: str) -> str:
    """A line of the file of comparisons; empty for what names no side."""
    if verdict.choice not in ("a", "b") or math.isnan(verdict.probability):
        return ""
    a, b = item.completions
    first = verdict.choice == "a"
    row = {
        "prompt": item.prompt.to_json(),
        "chosen": a if first else b,
        "rejected": b if first else a,
        "p_soft": round(verdict.probability if first else 1 - verdict.probability, 6),
        "consistent": verdict.consistent,
        "annotator": annotator,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
