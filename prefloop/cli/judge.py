"""`prefloop label judge` and `prefloop label score`."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefloop.configs.judge import AskedModel, JudgeConfig, LabelScoreConfig
from prefloop.data.store import Item, Store
from prefloop.errors import InputError
from prefloop.feedback.judges import (
    Cached,
    ChatModel,
    DirectScorer,
    Endpoint,
    Failures,
    JudgeReport,
    JudgeSettings,
    PairJudge,
    Verdict,
    cost_line,
    judge_items,
    keep_in,
    open_endpoint,
    read_constitution,
    try_injection,
    try_score_injection,
)
from prefloop.feedback.judges.prompts import RUBRIC, as_rubric
from prefloop.records import Completion


def judge(config: JudgeConfig) -> str:
    """Judge the pairs, print what came of it and what it cost; the store's name. Ends with an error where nothing could be judged."""
    name = config.annotator or f"judge:{config.called}"
    with (
        Store.open(config.store, create=False) as store,
        open_model(config, logprobs=config.mode != "tags") as model,
    ):
        cached = Cached(model, config.cache or store.folder / "judge_cache.db")
        asked = PairJudge(cached, _settings(config))
        annotator = store.add_annotator(name, kind="ai", settings=asked.identity())
        items = _items(config, store, annotator)
        write = keep_in(store, annotator, config.seed)
        rows: list[str] = []

        def keep(item: Item, verdict: Verdict) -> None:
            write(item, verdict)
            rows.append(_row(item, verdict, name))

        report = judge_items(asked, items, keep=keep, workers=config.limits.workers)
        print("\n".join(_lines(config, report, model, cached, len(items))))
        warn_of_own(store, config.called)
        if config.labels and rows:
            write_lines(config.labels, "".join(rows), setting="labels")
            print(f"wrote {sum(map(bool, rows))} comparisons to {config.labels}")
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


def score(config: LabelScoreConfig) -> None:
    """Score a store's completions by themselves, write the scores, print what came of it and what it cost."""
    rubric = config.rubric or RUBRIC
    if config.constitution:
        rubric = as_rubric([each.preference for each in read_constitution(config.constitution)])
    with Store.open(config.store, create=False) as store, open_model(config) as model:
        found = store.completions([store.find_checkpoint(name) for name in config.checkpoints])
        found = [one for one in found if one.text]
        found = found[: config.limit] if config.limit else found
        if not found:
            raise InputError(
                f"{store.label}: there is no completion to score; draw some with `prefloop sample`"
            )
        # A checkpoint gives whole answers' probabilities in batches, which costs nothing and is not kept.
        caches: list[Cached] = []
        if isinstance(model, Endpoint):
            caches = [Cached(model, config.cache or store.folder / "judge_cache.db")]
        scorer = DirectScorer(
            caches[0] if caches else model,
            rubric=rubric,
            best=config.best,
            unreadable=config.unreadable,
            seed=config.seed,
            workers=config.limits.workers,
        )
        scores, failures = scorer.try_each([one.prompt for one in found], [one.text for one in found])
        done = [(one, value) for one, value in zip(found, scores, strict=True) if value is not None]
        if not done:
            raise InputError(
                f"nothing was scored: {failures.stopped or '; '.join(failures.problems) or 'no reply'}"
            )
        print("\n".join(_score_lines(config, len(found), [value for _, value in done], failures)))
        warn_of_own(store, config.called)
        if config.injection:
            some = done[: config.injection]
            asked, texts = [one.prompt for one, _ in some], [one.text for one, _ in some]
            result = try_score_injection(scorer, asked, texts, [value for _, value in some])
            print(
                f"  an instruction planted in a completion raised {result.raised} of {result.tried} scores by a tenth of the scale or more"
                f" (by {result.mean_gain:.2f} on average)"
            )
        if isinstance(model, Endpoint):
            print(f"  answers from the cache: {caches[0].hits}\n  {cost_line(model.limits, model.spent)}")
    rows = [_score_row(one, value, f"judge:{config.called}") for one, value in done]
    write_lines(config.out, "".join(rows), setting="out")
    print(f"wrote {len(rows)} scores to {config.out}")


def _score_row(one: Completion, value: float, annotator: str) -> str:
    row: dict[str, Any] = {
        "prompt": one.prompt.to_json(),
        "completion": one.text,
        "score": round(value, 6),
        "annotator": annotator,
        "policy": one.policy,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _score_lines(
    config: LabelScoreConfig, found: int, values: Sequence[float], failures: Failures
) -> list[str]:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    lines = [
        f"{config.called} scored {len(values)} of {found} completions, on [-1, 1]: mean {mean:.3f}, standard deviation {deviation:.3f}",
        f"  unreadable replies {failures.unreadable}, no answer {failures.failed}; these completions have no score",
        *(f"    {problem}" for problem in failures.problems),
    ]
    if failures.stopped:
        lines.append(f"  ended early: {failures.stopped}")
    return lines


def write_lines(file: str, text: str, *, setting: str) -> None:
    """Write a file of rows. Raises `InputError` that names the setting."""
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{setting} is {file!r}, which cannot be written ({error}); name a file") from error


def warn_of_own(store: Store, called: str) -> None:
    """Say it where a model judges its own completions."""
    own = sorted({each.policy for each in store.completions() if called in each.policy})
    if own:
        print(
            f"  ! {called} judges completions of {', '.join(own)}: models prefer their own, so take another judge"
        )


@contextmanager
def open_model(config: AskedModel, *, temperature: float = 0.0, logprobs: bool = True) -> Iterator[ChatModel]:
    """The model that is asked."""
    if config.checkpoint:
        from prefloop.loop.local_judge import LocalChat  # torch, which no other judge needs

        yield LocalChat(config.checkpoint, config.compute, temperature=temperature, seed=config.seed)
        return
    with open_endpoint(config, temperature=temperature, logprobs=logprobs) as endpoint:
        yield endpoint


def _settings(config: JudgeConfig) -> JudgeSettings:
    principles = config.principles
    if config.constitution:
        principles = tuple(each.preference for each in read_constitution(config.constitution))
    return JudgeSettings(
        mode=config.mode,
        rubric=config.rubric or RUBRIC,
        principles=principles,
        drawn=config.principle == "drawn",
        disagreeing=config.disagreeing,
        tie_within=config.tie_within,
        seed=config.seed,
    )


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
    lines = [f"{config.called} judged {len(report.verdicts)} of {items} pairs ({said})"]
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
        lines.append(f"  {cost_line(model.limits, model.spent)}")
    if report.stopped:
        lines.append(f"  ended early: {report.stopped}")
    return lines


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
