"""`prefloop label judge` and `prefloop label score`."""

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prefloop.configs.judge import JudgeConfig, LabelScoreConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.judges import (
    Cached,
    ChatModel,
    Endpoint,
    Failures,
    JudgeReport,
    cost_of,
)
from prefloop.feedback.judges.stored import JudgedPairs, StoredScores, own_policies, score_stored
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
        print("\n".join([*_lines(config, pairs, report), *costs(model, cached, report)]))
        _warn_of_own(store, config.called)
        if pairs.items and not report.verdicts:
            raise InputError(f"nothing was judged: {problems(report)}")
        _write_rows(config.labels, pairs.rows(report), "comparisons", setting="labels")
        result = pairs.try_injection(report, config.injection)
        if result:
            print(
                f"  an instruction injected into the worse completion flipped {result.turned} of {result.tried} verdicts"
                f" (its probability rose by {result.mean_gain:.2f} on average; {result.unreadable} gave none)"
            )
    return config.store


def score(config: LabelScoreConfig) -> None:
    """Score a store's completions by themselves, write the scores, print what came of it and what it cost."""
    with Store.open(config.store, create=False) as store, asking(config) as model:
        # A checkpoint gives whole answers' probabilities in batches, which costs nothing and is not kept.
        cached = None
        if isinstance(model, Endpoint):
            cached = Cached(model, config.cache or store.folder / "judge_cache.db")
        found = score_stored(config, store, cached or model)
        print("\n".join(_score_lines(config, found)))
        _warn_of_own(store, config.called)
        result = found.try_injection(config.injection)
        if result:
            print(
                f"  an instruction injected into a completion raised {result.raised} of {result.tried} scores by a tenth of the scale or more"
                f" (by {result.mean_gain:.2f} on average)"
            )
        if cached:
            print("\n".join(costs(model, cached, Failures())))
    _write_rows(config.out, found.rows(f"judge:{config.called}"), "scores", setting="out")


def _write_rows(file: str, rows: Sequence[str], what: str, *, setting: str) -> None:
    """Write rows where a file is named, and say so."""
    if file:
        write_lines(file, "".join(rows), setting=setting)
        print(f"wrote {len(rows)} {what} to {file}")


def write_lines(file: str, text: str, *, setting: str) -> None:
    """Write a file of rows. Raises `InputError` that names the setting."""
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{setting} is {file!r}, which cannot be written ({error}); name a file") from error


def problems(failures: Failures) -> str:
    """Why nothing came of asking."""
    return failures.stopped or "; ".join(failures.problems) or "no reply"


def costs(model: ChatModel, cached: Cached, failures: Failures) -> list[str]:
    """What asking has cost, and why it ended early if it did."""
    lines = [f"  answers from the cache: {cached.hits}"]
    if cost := cost_of(model):
        lines.append(f"  {cost}")
    if failures.stopped:
        lines.append(f"  ended early: {failures.stopped}")
    return lines


def _warn_of_own(store: Store, called: str) -> None:
    """Say it where a model judges its own completions."""
    own = own_policies(store, called)
    if own:
        print(
            f"  ! {called} judges completions of {', '.join(own)}: models prefer their own, so take another judge"
        )


def _lines(config: JudgeConfig, pairs: JudgedPairs, report: JudgeReport) -> list[str]:
    choices = Counter(verdict.choice for verdict in report.verdicts.values())
    counts = ", ".join(f"{choice} {count}" for choice, count in sorted(choices.items())) or "none"
    lines = [f"{config.called} judged {len(report.verdicts)} of {len(pairs.items)} pairs ({counts})"]
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
    return lines


def _score_lines(config: LabelScoreConfig, found: StoredScores) -> list[str]:
    values, failures = found.values, found.failures
    lines = [
        f"{config.called} scored {len(values)} of {found.asked} completions, on [-1, 1]: "
        f"mean {statistics.fmean(values):.3f}, standard deviation {statistics.pstdev(values):.3f}",
        f"  unreadable replies {failures.unreadable}, no answer {failures.failed}; these completions have no score",
        *(f"    {problem}" for problem in failures.problems),
    ]
    if failures.stopped:
        lines.append(f"  ended early: {failures.stopped}")
    return lines
