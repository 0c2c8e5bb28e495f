"""An AI judge's own score as the reward of online training: direct RLAIF (arXiv:2309.00267), `--reward_model judge:FILE`.

FILE has the settings of a `ScorerConfig`. Behind an address one process asks for all, so that budget, rate and cache are one; a checkpoint on
this machine is loaded by every process and scores that one's share. Every ten steps a line says what was scored and what it cost.
"""

import hashlib
import logging
import weakref
from collections.abc import Sequence
from pathlib import Path

from prefloop.configs.copies import here
from prefloop.configs.judge import SCORER, ScorerConfig
from prefloop.configs.load import load_config
from prefloop.errors import InputError
from prefloop.feedback.judges import Cached, DirectScorer, Endpoint, cost_of
from prefloop.feedback.judges.constitution import read_constitution
from prefloop.feedback.judges.rlaif import rubric_of
from prefloop.loop.asked import open_chat
from prefloop.records import Prompt
from prefloop.runtime import World
from prefloop.runtime.checkpoint import Content

log = logging.getLogger(__name__)

REPORT_EVERY = 10
"""Calls between two lines on what scoring has cost."""


def is_judge(reward_model: str) -> bool:
    """Whether this names a judge's settings rather than a reward model or a Python function."""
    return reward_model.startswith(SCORER)


def read_scorer(reward_model: str) -> ScorerConfig:
    """The settings in the file that `judge:FILE` names; paths in it are taken from the current folder. Raises `InputError`."""
    file = reward_model.removeprefix(SCORER)
    if not Path(here(file)).is_file():
        raise InputError(
            f"reward_model is {reward_model!r}, but there is no file {file!r}; write the judge's settings into it, "
            "for example base_url and model, or checkpoint"
        )
    return load_config(ScorerConfig, here(file))


def judge_content(reward_model: str) -> Content:
    """What the judge is asked with, for a run's fingerprint: its settings and its constitution."""
    config = read_scorer(reward_model)
    digest = hashlib.sha256(Path(here(reward_model.removeprefix(SCORER))).read_bytes())
    principles = read_constitution(config.constitution)
    if principles:
        digest.update(repr(principles).encode())
    return Content(what=f"the settings of {reward_model}", sha256=digest.hexdigest())


class JudgeScorer:
    """A scorer that every process calls together, with its own completions."""

    def __init__(self, reward_model: str, world: World) -> None:
        """Open the judge that `judge:FILE` names. Raises `InputError` for settings that are wrong."""
        config = read_scorer(reward_model)
        self._world, self._calls = world, 0
        self._asked: tuple[Endpoint, Cached] | None = None
        """Where the judge is behind a network: what is asked, and what it has answered before."""
        model = open_chat(config)
        if isinstance(model, Endpoint):
            weakref.finalize(self, model.close)
            cache = config.cache or Path(reward_model.removeprefix(SCORER)).parent / "judge_cache.db"
            self._asked = (model, Cached(model, cache))
            model = self._asked[1]
        self._direct = DirectScorer(
            model,
            rubric=rubric_of(config),
            best=config.best,
            unreadable=config.unreadable,
            seed=config.seed,
            workers=config.limits.workers,
        )

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One score on [-1, 1] for each of this process's completions."""
        world = self._world
        if not self._asked:
            scores = self._direct(prompts, completions) if completions else []
        else:
            parts = world.gather_objects((list(prompts), list(completions)))
            scores = world.on_main(
                lambda: self._direct(
                    [prompt for part in parts for prompt in part[0]],
                    [text for part in parts for text in part[1]],
                )
            )
            start = sum(len(part[1]) for part in parts[: world.rank])
            scores = scores[start : start + len(completions)]
        self._calls += 1
        if self._calls == 1 or self._calls % REPORT_EVERY == 0:
            log.info("judge: %s", self.report())
        return scores

    def report(self) -> str:
        """What this process has scored so far, and what it cost."""
        scored = f"{self._direct.scored} scores, {self._direct.unreadable} unreadable"
        if not self._asked:
            return scored
        endpoint, cache = self._asked
        return f"{scored}; {cache.hits} from the cache, {cost_of(endpoint)}"
