"""Scoring a step's completions: reward models, judges and functions by name, and what becomes of their scores."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from prefloop.configs.judge import SCORER
from prefloop.configs.ppo import ScoreShaping
from prefloop.configs.scorers import Combining, scorers_named
from prefloop.configs.verifiers import FILE, is_verifier, read_verifier
from prefloop.loop.adaptive import ScoreShaper
from prefloop.loop.judge_scorer import JudgeScorer, is_judge, judge_content, read_scorer
from prefloop.loop.provenance import Models, models_read, same_models
from prefloop.loop.roles import shard_roles
from prefloop.loop.session import Session
from prefloop.models.roles import RewardModel
from prefloop.rollout.environment_rewards import EnvironmentScorer
from prefloop.rollout.reward_scorers import EnsembleScorer, OnlineScorer, RolloutScorer, user_function
from prefloop.rollout.scorers import Scorer, checked
from prefloop.runtime import World
from prefloop.runtime.checkpoint import Content
from prefloop.runtime.sending import bring


def scorer_roles(reward_model: str) -> tuple[dict[str, str], dict[str, str]]:
    """Role -> folder or hub name of every model that scores, and role -> `judge:FILE` or a verifier's name.

    The first scorer is `reward_model`, `judge`, `verifier`, or `scorer_policy` with `scorer_reference` (a log-ratio); later ones have their number behind it.
    """
    roles: dict[str, str] = {}
    judges: dict[str, str] = {}
    for place, named in enumerate(scorers_named(reward_model) if reward_model else ()):
        number = f"_{place + 1}" if place else ""
        if named.kind == "model":
            roles[f"reward_model{number}"] = named.name
        elif named.kind == "implicit":
            roles[f"scorer_policy{number}"] = named.name
            roles[f"scorer_reference{number}"] = named.reference
        elif is_judge(named.name):
            roles[f"judge{number}"] = read_scorer(named.name).checkpoint
            judges[f"judge{number}"] = named.name
        elif is_verifier(named.name):
            judges[f"verifier{number}"] = named.name
    return roles, judges


def models_of(world: World, *, model: str, reward_model: str, reference: str = "") -> Models:
    """The models that a run reads, hashed once; a Python function that scores is none, a judge on this machine is one."""
    names, judges = _named_roles(world, reward_model)
    constitutions = world.on_main(
        lambda: [read_scorer(name).constitution for name in judges.values() if is_judge(name)]
    )
    bring(world, *constitutions)
    read = models_read(world, model=model, reference=reference, **names)
    contents = {
        role: verifier_content(name) if is_verifier(name) else judge_content(name)
        for role, name in judges.items()
    }
    return replace(read, others=contents)


def bring_scorers(world: World, *given: str) -> None:
    """See to it that every machine has the models that scorers are made of, and the files of settings that name them. Collective.

    `given` are scorers as `--reward_model` names them; empty ones are left out. Call it before anything else reads these names, on every process.

    Raises:
        InputError: There is no such model, no room for a copy, or a machine has other weights under a hub name.
    """
    names, _ = _named_roles(world, ",".join(filter(None, given)))
    same_models(world, *names.values())


def _named_roles(world: World, reward_model: str) -> tuple[dict[str, str], dict[str, str]]:
    """`scorer_roles` as process 0 sees them: what a name stands for depends on what is there."""
    bring(world, *_files_of(reward_model))
    return world.on_main(lambda: scorer_roles(reward_model))


def _files_of(reward_model: str) -> list[str]:
    """Files of settings that scorers are named by."""
    kinds = (SCORER, FILE)
    named = [part.strip() for part in reward_model.split(",")]
    return [name.removeprefix(kind) for name in named for kind in kinds if name.startswith(kind)]


def verifier_content(name: str) -> Content:
    """What a verifier checks, for a run's fingerprint."""
    content = json.dumps(read_verifier(name).stated, sort_keys=True)
    return Content(what=f"the settings of {name}", sha256=hashlib.sha256(content.encode()).hexdigest())


def open_scorer(
    session: Session, reward_model: str, rules: Combining, *, loaded: Sequence[RewardModel] = ()
) -> tuple[OnlineScorer, tuple[float, float]]:
    """What scores this process's samples, and the mean and standard deviation that are stored with it (0 and 1 if there are none).

    `loaded` are reward models that are in memory already, in the order in which `reward_model` names them.
    """
    world = session.world

    def function(name: str) -> Scorer:
        # A judge is asked by all processes together, also by one that has nothing to score.
        return checked(JudgeScorer(name, world), name=name) if is_judge(name) else user_function(name)

    scorer = EnsembleScorer.load(
        reward_model,
        session.compute,
        world,
        rules=rules,
        normalise=False,
        loaded=loaded,
        function=function,
    )
    shard_roles(session, *scorer.roles)
    return OnlineScorer(scorer, session.tokenizer, world), scorer.moments


def open_shaped_scorer(
    session: Session,
    reward_model: str,
    shaping: ScoreShaping,
    *,
    longest: int,
    environment: str = "",
    loaded: Sequence[RewardModel] = (),
) -> tuple[RolloutScorer, ScoreShaper]:
    """As `open_scorer`, and what shapes its scores; `longest` is the limit of a completion's tokens.

    With an environment, its rewards are added to the scorer's, and `reward_model` may be empty.
    """
    world = session.world
    if not environment:
        score, stored = open_scorer(session, reward_model, shaping, loaded=loaded)
        return score, ScoreShaper(shaping, stored=stored, longest=longest, world=world)
    scorer = open_scorer(session, reward_model, shaping, loaded=loaded)[0] if reward_model else None
    score = EnvironmentScorer(scorer, world, normalise=shaping.normalise)
    return score, ScoreShaper(shaping, stored=(0.0, 1.0), longest=longest, world=world)
