"""What came of asking a model, in lines: pairs that it judged, completions that it scored or revised, and what that cost."""

import statistics
from collections import Counter

from prefloop.configs.judge import ReviseConfig
from prefloop.data.store import Store
from prefloop.feedback.judges.asking import Failures
from prefloop.feedback.judges.cache import Cached
from prefloop.feedback.judges.endpoint import cost_of
from prefloop.feedback.judges.judge import JudgeReport
from prefloop.feedback.judges.model import ChatModel
from prefloop.feedback.judges.revising import RevisionReport, StoredRevisions
from prefloop.feedback.judges.stored import StoredScores, own_policies


def judged_lines(called: str, report: JudgeReport, *, asked: int) -> list[str]:
    """Verdicts, and how much they depend on the order; `asked` pairs were to be judged."""
    choices = Counter(verdict.choice for verdict in report.verdicts.values())
    counts = ", ".join(f"{choice} {count}" for choice, count in sorted(choices.items())) or "none"
    lines = [f"{called} judged {len(report.verdicts)} of {asked} pairs ({counts})"]
    if report.verdicts:
        lines.append(
            f"  both orders name the same side: {report.consistency:.1%}; probability of what is shown first: {report.first_shown:.3f} "
            "(0.5 without position bias)"
        )
    lines += _failures(report, "these pairs have no judgement")
    if report.speaking:
        lines.append(
            f"  ! {report.speaking} pairs hold a completion that looks as if it spoke to the judge; look at them"
        )
    return lines


def scored_lines(called: str, found: StoredScores) -> list[str]:
    """Scores, and what got none."""
    values, failures = found.values, found.failures
    lines = [
        f"{called} scored {len(values)} of {found.asked} completions, on [-1, 1]: "
        f"mean {statistics.fmean(values):.3f}, standard deviation {statistics.pstdev(values):.3f}",
        *_failures(failures, "these completions have no score"),
    ]
    if failures.stopped:
        lines.append(f"  ended early: {failures.stopped}")
    return lines


def revised_lines(config: ReviseConfig, revisions: StoredRevisions, report: RevisionReport) -> list[str]:
    """Revisions, and what got none."""
    revised = len(report.steps)
    lines = [
        f"{config.called} revised {revised} of {len(revisions.completions)} completions of {config.policy}, {config.revisions} times each",
        f"  unchanged {report.unchanged}; {revised - report.unchanged} comparisons of revision over original are in the store",
        *_failures(report, "these completions have no revision"),
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


def cost_lines(model: ChatModel, cached: Cached, failures: Failures) -> list[str]:
    """What asking has cost, and why it ended early if it did."""
    lines = [f"  answers from the cache: {cached.hits}"]
    if cost := cost_of(model):
        lines.append(f"  {cost}")
    if failures.stopped:
        lines.append(f"  ended early: {failures.stopped}")
    return lines


def own_lines(store: Store, called: str) -> list[str]:
    """A warning where a model judges its own completions."""
    own = ", ".join(own_policies(store, called))
    return (
        [f"  ! {called} judges completions of {own}: models prefer their own, so take another judge"]
        if own
        else []
    )


def _failures(failures: Failures, so: str) -> list[str]:
    return [
        f"  unreadable replies {failures.unreadable}, no answer {failures.failed}; {so}",
        *(f"    {problem}" for problem in failures.problems),
    ]
