"""Who says which of two answers is better: a reward model, a Python function, or an AI judge. All give log-odds, so they are measured alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.special import logit

from prefloop.configs.common import Compute
from prefloop.configs.judge import SCORER
from prefloop.configs.verifiers import is_verifier
from prefloop.errors import InputError
from prefloop.feedback.judges import Cached, JudgeSettings, PairJudge, cost_of
from prefloop.feedback.judges.asking import Failures, ask_all
from prefloop.feedback.judges.judge import Verdict
from prefloop.loop.asked import open_chat
from prefloop.loop.judge_scorer import read_scorer, rubric_of
from prefloop.models.load import load_reward_model
from prefloop.records import Prompt
from prefloop.rollout.scorers import load_function
from prefloop.rollout.scoring import score_groups
from prefloop.runtime import World
from prefloop.text import completions_group, encode_prompt, load_tokenizer

SURE = 1e-4
"""Probabilities are kept this far from 0 and 1, so that log-odds are finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """One answer to each prompt."""

    texts: Sequence[str]
    ended: Sequence[bool]
    """False if the limit of tokens cut it."""


class Judge(Protocol):
    """Compares answers to the same prompts."""

    called: str
    """In sentences: `a judge`, with what it is."""

    def compare(self, prompts: Sequence[Prompt], a: Answers, b: Answers) -> np.ndarray:
        """Log-odds that each answer of a is the better one, NaN if it gave no answer. Collective: all processes call it."""
        ...

    def scores(self, prompts: Sequence[Prompt], answers: Answers) -> np.ndarray | None:
        """A score of each answer by itself; None from a judge that only compares."""
        ...


class ModelJudge:
    """A reward model."""

    called = "a judge fitted on other comparisons"

    def __init__(self, folder: str, compute: Compute, world: World) -> None:
        self._tokenizer = load_tokenizer(folder, trust_remote_code=compute.trust_remote_code)
        self._model = load_reward_model(folder, compute)
        self._tokens, self._world = compute.micro_batch_tokens, world
        settings = self._model.model.config.get_text_config()
        self._positions = getattr(settings, "max_position_embeddings", None) or 2**31

    def scores(self, prompts: Sequence[Prompt], answers: Answers) -> np.ndarray:
        """The model's scores. Drawn text may be more tokens when it is read again; it is cut only where the model has no more positions."""
        asked = [encode_prompt(self._tokenizer, prompt) for prompt in prompts]
        longest = max(map(len, asked), default=0)
        budgets = (longest, self._positions - longest)
        groups = [
            completions_group(self._tokenizer, prompt, [text], ended=[end], origin="drawn", budgets=budgets)
            for prompt, text, end in zip(prompts, answers.texts, answers.ended, strict=True)
        ]
        return score_groups(self._model, groups, tokens=self._tokens, world=self._world).double().numpy()

    def compare(self, prompts: Sequence[Prompt], a: Answers, b: Answers) -> np.ndarray:
        """Differences of scores, which Bradley-Terry reads as log-odds."""
        return self.scores(prompts, a) - self.scores(prompts, b)


class FunctionJudge:
    """A Python function of (prompts, completions)."""

    def __init__(self, name: str) -> None:
        self._function = load_function(name)
        self.called = f"the function {name}"

    def scores(self, prompts: Sequence[Prompt], answers: Answers) -> np.ndarray:
        """What it returns."""
        return np.array(list(self._function(prompts, answers.texts)), dtype=np.float64)

    def compare(self, prompts: Sequence[Prompt], a: Answers, b: Answers) -> np.ndarray:
        """Differences of what it returns, in its own unit."""
        return self.scores(prompts, a) - self.scores(prompts, b)


class AskedJudge:
    """A language model that is shown both answers, in both orders."""

    def __init__(self, file: str, cache: Path, world: World) -> None:
        settings = read_scorer(f"{SCORER}{file}")
        self.called = f"the AI judge {settings.called}"
        self._workers, self._world = settings.limits.workers, world
        self._model = open_chat(settings)
        cached = Cached(self._model, settings.cache or cache)
        self._judge = PairJudge(cached, JudgeSettings(rubric=rubric_of(settings), seed=settings.seed))

    def scores(self, prompts: Sequence[Prompt], answers: Answers) -> None:
        """It only compares."""
        del prompts, answers

    def compare(self, prompts: Sequence[Prompt], a: Answers, b: Answers) -> np.ndarray:
        """Log-odds of the probability averaged over both orders. Equal answers are not asked about: even odds."""
        return self._world.on_main(lambda: self._ask(prompts, a.texts, b.texts))

    def _ask(self, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        found = np.full(len(prompts), np.nan)
        different = [place for place in range(len(prompts)) if a[place] != b[place]]
        found[[place for place in range(len(prompts)) if a[place] == b[place]]] = 0.0
        failures = Failures()

        def keep(place: int, verdict: Verdict) -> None:
            found[place] = logit(min(1 - SURE, max(SURE, verdict.probability)))

        ask_all(
            different,
            lambda place: self._judge.compare(prompts[place], a[place], b[place]),
            keep,
            failures=failures,
            name=lambda place: f"prompt {place + 1}",
            workers=self._workers,
        )
        cost = cost_of(self._model)
        print(
            f"{self.called}: {np.isfinite(found).sum()} of {len(prompts)} pairs judged, {failures.unreadable} replies unreadable, "
            f"{failures.failed} without an answer{cost and f'; {cost}'}"
        )
        if failures.stopped or not np.isfinite(found).any():
            raise InputError(
                f"the judge stopped: {failures.why}; its answers are kept; continue with --resume true"
            )
        return found


def open_judge(judge: str, project: Path, compute: Compute, world: World) -> Judge:
    """The judge that `--judge` names. Raises `InputError` if there is none."""
    check_judge(judge)
    if judge == "reward":
        return ModelJudge(str(project / "judge" / "final"), compute, world)
    if judge.endswith((".yaml", ".yml")):
        return AskedJudge(judge, project / "judge_cache.db", world)
    return FunctionJudge(judge)


def check_judge(judge: str) -> None:
    """Raise `InputError` for a judge that could not be opened later, before anything is trained."""
    if judge.endswith((".yaml", ".yml")):
        read_scorer(f"{SCORER}{judge}")
    elif is_verifier(judge):
        raise InputError(
            f"judge is {judge!r}, but answers to the prompts of comparisons are judged, and those have no columns; name a function `module:name`, "
            "or train with `prefloop grpo --reward_model` and measure with `prefloop eval --gold`"
        )
    elif ":" in judge:
        load_function(judge)
    elif judge != "reward":
        raise InputError(
            f"judge is {judge!r}; set it to `reward`, or name a .yaml file of an AI judge's settings or a function `module:name`"
        )
