"""A judge at work on a store: pairs that it compares as an annotator (`label judge`), completions that it scores by themselves (`label score`)."""

import math
from dataclasses import dataclass
from typing import Any

from prefloop.configs.judge import JudgeConfig, LabelScoreConfig
from prefloop.data.store import Item, Store
from prefloop.errors import InputError
from prefloop.feedback.judges.asking import Failures
from prefloop.feedback.judges.judge import (
    InjectionResult,
    JudgeReport,
    PairJudge,
    Verdict,
    judge_items,
    judge_settings,
    keep_in,
    try_injection,
)
from prefloop.feedback.judges.model import AnswersByProbability, ChatModel
from prefloop.feedback.judges.rlaif import DirectScorer, ScoreInjection, rubric_of, try_score_injection
from prefloop.marks import refuse_images
from prefloop.records import Completion


class JudgedPairs:
    """Pairs of a store, and the judge that compares them as an annotator of it."""

    def __init__(self, config: JudgeConfig, store: Store, model: ChatModel) -> None:
        """Note the judge in the store, and find the pairs that it has not judged.

        Raises `InputError` if the store has no pair, or knows the annotator with other settings.
        """
        self.name = config.annotator or f"judge:{config.called}"
        self._store, self._seed, self._workers = store, config.seed, config.limits.workers
        self._judge = PairJudge(model, judge_settings(config))
        self._annotator = store.add_annotator(self.name, kind="ai", settings=self._judge.identity())
        self.items = _open_pairs(config, store, self._annotator)

    def judge(self) -> JudgeReport:
        """Judge all pairs; each verdict is in the store as soon as it is there."""
        keep = keep_in(self._store, self._annotator, self._seed)
        return judge_items(self._judge, self.items, keep=keep, workers=self._workers)

    def rows(self, report: JudgeReport) -> list[dict[str, Any]]:
        """The comparisons with their probabilities; verdicts that name no side give none."""
        by_id = {item.id: item for item in self.items}
        return [
            _comparison(by_id[id], verdict, self.name)
            for id, verdict in report.verdicts.items()
            if _decides(verdict) and not math.isnan(verdict.probability)
        ]

    def try_injection(self, report: JudgeReport, count: int) -> InjectionResult | None:
        """Judge the first `count` decided pairs again with an instruction to the judge planted; see `try_injection`. None of none."""
        verdicts = report.verdicts
        if not (count and verdicts):
            return None
        decided = [item for item in self.items if item.id in verdicts and _decides(verdicts[item.id])]
        return try_injection(self._judge, decided[:count], verdicts)


def _decides(verdict: Verdict) -> bool:
    """Whether it names a side."""
    return verdict.choice in ("a", "b")


def _comparison(item: Item, verdict: Verdict, annotator: str) -> dict[str, Any]:
    a, b = item.completions
    first = verdict.choice == "a"
    return {
        "prompt": item.prompt.to_json(),
        "chosen": a if first else b,
        "rejected": b if first else a,
        "p_soft": round(verdict.probability if first else 1 - verdict.probability, 6),
        "consistent": verdict.consistent,
        "annotator": annotator,
    }


def _open_pairs(config: JudgeConfig, store: Store, annotator: int) -> list[Item]:
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
            f"{store.label}: round {config.round} has no pairs; make some with --pairs all or random"
        )
    found = found[: config.limit or None]
    refuse_images(found, "an item to judge", "a judge")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredScores:
    """A judge's scores of a store's completions."""

    scorer: DirectScorer
    asked: int
    """Completions that were to be scored."""
    scored: tuple[tuple[Completion, float], ...]
    """Those that got a score, on [-1, 1]."""
    failures: Failures

    @property
    def values(self) -> list[float]:
        """The scores alone."""
        return [value for _, value in self.scored]

    def rows(self, annotator: str) -> list[dict[str, Any]]:
        """A row for each score."""
        return [
            {
                "prompt": one.prompt.to_json(),
                "completion": one.text,
                "score": round(value, 6),
                "annotator": annotator,
                "policy": one.policy,
            }
            for one, value in self.scored
        ]

    def try_injection(self, count: int) -> ScoreInjection | None:
        """Score the first `count` again with an instruction to the judge planted; see `try_score_injection`. None of none."""
        some = self.scored[:count]
        if not some:
            return None
        prompts, texts = [one.prompt for one, _ in some], [one.text for one, _ in some]
        return try_score_injection(self.scorer, prompts, texts, [value for _, value in some])


def score_stored(
    config: LabelScoreConfig, store: Store, model: ChatModel | AnswersByProbability
) -> StoredScores:
    """Score the completions that the settings name. Raises `InputError` if there is none, or none got a score."""
    found = store.completions([store.find_checkpoint(name) for name in config.checkpoints])
    found = [one for one in found if one.text][: config.limit or None]
    if not found:
        raise InputError(
            f"{store.label}: there are no completions to score; draw some with `prefloop sample`"
        )
    refuse_images(found, "a completion to score", "a judge")
    scorer = DirectScorer(
        model,
        rubric=rubric_of(config),
        best=config.best,
        unreadable=config.unreadable,
        seed=config.seed,
        workers=config.limits.workers,
    )
    scores, failures = scorer.try_each([one.prompt for one in found], [one.text for one in found])
    scored = tuple((one, value) for one, value in zip(found, scores, strict=True) if value is not None)
    if not scored:
        raise InputError(f"nothing was scored: {failures.why}")
    return StoredScores(scorer=scorer, asked=len(found), scored=scored, failures=failures)


def own_policies(store: Store, called: str) -> list[str]:
    """Policies whose completions the model of this name would judge as its own."""
    return sorted({one.policy for one in store.completions() if called in one.policy})
