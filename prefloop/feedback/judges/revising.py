"""A model that criticises and rewrites a store's completions by a constitution: what `prefloop revise` does."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefloop.configs.judge import ReviseConfig
from prefloop.data.store import Judgement, Store
from prefloop.errors import InputError
from prefloop.feedback.judges.asking import Failures, ask_all
from prefloop.feedback.judges.constitution import (
    Principle,
    constitution_sha256,
    drawn_order,
)
from prefloop.feedback.judges.model import ChatModel
from prefloop.feedback.judges.prompts import VERSION, speaks_to_the_judge
from prefloop.feedback.judges.rlaif import Revision, revise, try_revision_injection
from prefloop.records import Completion, Prompt


@dataclass(slots=True)
class RevisionReport(Failures):
    """What came of revising."""

    steps: dict[int, tuple[Revision, ...]] = field(default_factory=dict)
    """By the completion's place; one without is not there."""

    @property
    def unchanged(self) -> int:
        """Completions whose last revision is the original."""
        return sum(steps[-1].after == steps[0].before.strip() for steps in self.steps.values())

    @property
    def words(self) -> tuple[float, float]:
        """Mean words before and after. Not of none."""
        before = sum(len(steps[0].before.split()) for steps in self.steps.values())
        after = sum(len(steps[-1].after.split()) for steps in self.steps.values())
        return before / len(self.steps), after / len(self.steps)


class StoredRevisions:
    """A policy's completions in a store, and the model that revises them."""

    def __init__(
        self, config: ReviseConfig, principles: Sequence[Principle], store: Store, model: ChatModel
    ) -> None:
        """Find the completions, and note the reviser in the store.

        Raises `InputError` if there is no completion, or where the store knows the annotator with other settings.
        """
        self._store, self._config, self._model = store, config, model
        self._principles = principles
        policy = store.find_checkpoint(config.policy)
        self.completions = _completions(config, store, policy)
        self._annotator = _annotator(config, store, model, self._principles, policy)

    @property
    def speaking(self) -> int:
        """Completions that look as if they spoke to the reviser."""
        return sum(speaks_to_the_judge(one.text) for one in self.completions)

    def revise(self) -> RevisionReport:
        """Revise all; each revision is in the store, preferred to its original, as soon as it is there."""
        report = RevisionReport()

        def keep(place: int, steps: tuple[Revision, ...]) -> None:
            _write_comparison(
                self._store, self._annotator, self.completions[place], steps, self._config.round
            )
            report.steps[place] = steps

        ask_all(
            range(len(self.completions)),
            lambda place: self._rework(self.completions[place].prompt, self.completions[place].text),
            keep,
            failures=report,
            name=lambda place: f"completion {self.completions[place].text[:40]!r}",
            workers=self._config.limits.workers,
        )
        return report

    def demonstrations(self, report: RevisionReport) -> list[dict[str, Any]]:
        """Prompts with their last revisions."""
        return [
            {"prompt": self.completions[place].prompt.to_json(), "completion": steps[-1].after}
            for place, steps in sorted(report.steps.items())
        ]

    def steps(self, report: RevisionReport) -> list[dict[str, Any]]:
        """Every critique and revision."""
        return [
            {
                "prompt": self.completions[place].prompt.to_json(),
                "step": number,
                "principle": step.principle,
                "before": step.before,
                "critique": step.critique,
                "after": step.after,
            }
            for place, steps in sorted(report.steps.items())
            for number, step in enumerate(steps, 1)
        ]

    def try_injection(self, report: RevisionReport, count: int) -> tuple[int, int] | None:
        """Revise the first `count` again with an instruction to the reviser planted; see `try_revision_injection`. None of none."""
        some = [self.completions[place] for place in sorted(report.steps)][:count]
        if not some:
            return None
        return try_revision_injection(self._rework, [(one.prompt, one.text) for one in some])

    def _rework(self, prompt: Prompt, text: str) -> tuple[Revision, ...]:
        config, principles = self._config, self._principles
        order = drawn_order(len(principles), config.seed, prompt.sha256, text)
        drawn = [principles[order[step % len(order)]] for step in range(config.revisions)]
        return revise(self._model, prompt, text, drawn, max_tokens=config.max_tokens, seed=config.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Annotator:
    """Who prefers the revisions, and the checkpoint that wrote them, in the store."""

    name: str
    id: int
    policy: int
    checkpoint: int


def _completions(config: ReviseConfig, store: Store, policy: int) -> list[Completion]:
    """What is revised: the first completions of each prompt."""
    taken: Counter[Prompt] = Counter()
    found: list[Completion] = []
    most = config.per_prompt or math.inf
    for one in store.completions([policy]):
        if one.text and taken[one.prompt] < most:
            taken[one.prompt] += 1
            found.append(one)
    if not found:
        raise InputError(
            f"{store.label}: there are no completions of {config.policy} to revise; draw some with `prefloop sample`"
        )
    return found[: config.limit or None]


def _annotator(
    config: ReviseConfig, store: Store, model: ChatModel, principles: Sequence[Principle], policy: int
) -> _Annotator:
    """The rows that revisions and their comparisons belong to."""
    name = config.annotator or f"constitution:{config.called}"
    settings = {
        **model.identity,
        "constitution_sha256": constitution_sha256(principles),
        "revisions": config.revisions,
        "max_tokens": config.max_tokens,
        "template": VERSION,
        "seed": config.seed,
    }
    id = store.add_annotator(name, kind="ai", settings=settings)
    # The reviser's texts are a source of their own: whoever trains on them sees in the lineage where they come from.
    checkpoint = store.add_checkpoint(f"revised by {name}", kind="generator", parent=policy)
    return _Annotator(name=name, id=id, policy=policy, checkpoint=checkpoint)


def _write_comparison(
    store: Store, annotator: _Annotator, original: Completion, steps: Sequence[Revision], round: int
) -> None:
    """The last revision, preferred to the original, into the store; nothing if nothing was changed. Repeating it changes nothing."""
    after = steps[-1].after
    if after == original.text.strip():
        return
    revised = Completion(
        prompt=original.prompt,
        text=after,
        policy=f"revised by {annotator.name}",
        logprob=0.0,
        tokens=0,
        ended=True,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=original.index,
    )
    (before,) = store.add_completions([original], annotator.policy)
    (new,) = store.add_completions([revised], annotator.checkpoint)
    (item,) = store.add_items([(before, new)], strategy="revision", round=round)
    store.add_judgement(
        Judgement(
            item=item,
            annotator=annotator.id,
            choice="b",
            order_shown=(0, 1),
            idempotency_key=f"revision {annotator.id} {item}",
        )
    )
