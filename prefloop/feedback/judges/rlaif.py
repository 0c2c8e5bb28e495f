"""The two published ways to learn from an AI's feedback, besides comparing: a constitution's critiques and revisions, and scores used as rewards.

- Constitutional AI (Bai et al. 2022): critique an answer by a principle, revise it, again for the next principle; train on the last revision. The
  revision over the original is a comparison too. Its second stage, comparisons by principles, is `PairJudge` with `principles`.
- RLAIF (Lee et al. 2023): distilled, a reward model is trained on an AI judge's comparisons; direct, the judge's own score is the reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prefloop.errors import InputError
from prefloop.feedback.judges.model import CallFailed, ChatModel
from prefloop.feedback.judges.prompts import RUBRIC, critique_messages, revision_messages, score_messages
from prefloop.feedback.judges.verdicts import Unreadable, soft_score
from prefloop.records import Comparison, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """One step of critique and revision."""

    before: str
    principle: str
    critique: str
    after: str


def revise(
    model: ChatModel,
    prompt: Prompt,
    completion: str,
    principles: Sequence[str],
    *,
    max_tokens: int = 512,
    seed: int = 0,
) -> tuple[Revision, ...]:
    """Critique and revise by each principle in turn, each step starting from the revision before.

    Raises `Unreadable` for an empty critique or revision, and what the model raises.
    """
    steps: list[Revision] = []
    for principle in principles:
        ask = critique_messages(prompt, completion, principle, seed=seed)
        critique = model.complete(ask, max_tokens=max_tokens).text.strip()
        if not critique:
            raise Unreadable("the critique is empty")
        ask = revision_messages(prompt, completion, principle, critique, seed=seed)
        after = model.complete(ask, max_tokens=max_tokens).text.strip()
        if not after:
            raise Unreadable("the revision is empty")
        steps.append(Revision(before=completion, principle=principle, critique=critique, after=after))
        completion = after
    return tuple(steps)


def revision_over_original(prompt: Prompt, steps: Sequence[Revision], *, annotator: str) -> Comparison | None:
    """The last revision preferred to the original; None where nothing was changed."""
    if not steps or steps[-1].after == steps[0].before.strip():
        return None
    return Comparison(prompt=prompt, chosen=steps[-1].after, rejected=steps[0].before, annotator=annotator)


class DirectScorer:
    """A judge's own score as the reward of PPO: a callable (prompts, completions) -> scores in [-1, 1], as `--reward_function` takes."""

    def __init__(self, model: ChatModel, *, rubric: str = RUBRIC, seed: int = 0) -> None:
        self._model, self._rubric, self._seed = model, rubric, seed

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One score for each completion. Raises `InputError` where one has none: a made-up reward would be trained on."""
        return [self._score(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]

    def _score(self, prompt: Prompt, completion: str) -> float:
        messages = score_messages(prompt, completion, rubric=self._rubric, seed=self._seed)
        try:
            return soft_score(self._model.complete(messages, max_tokens=1))
        except (Unreadable, CallFailed) as error:
            raise InputError(
                f"the judge gave no score for completion {completion[:60]!r} ({error}); take a model that gives log-probabilities, and look at its replies"
            ) from error
