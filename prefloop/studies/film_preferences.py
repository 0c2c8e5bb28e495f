"""Preferences between a language model's continuations of film reviews, policies that learn from them, and how good their continuations are.

The true reward is the judge's log-odds that a continuation is positive, in standard deviations of the reference's, whose mean is 0. The reference is
the language model of reviews. An annotator gives each continuation its true reward plus noise, as in `offline`: comparisons, rankings and scores
show this number in different ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from prefloop.algorithms import critic_free, ppo, prefer
from prefloop.configs.common import Data, Optim
from prefloop.configs.critic_free import GRPOConfig, RLOOConfig
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.functions import give_function
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig
from prefloop.configs.prefer import PreferConfig
from prefloop.evaluation.json_files import read_json, write_json
from prefloop.feedback.gold import SentimentJudge
from prefloop.losses.objectives import OBJECTIVES
from prefloop.models.load import load_policy
from prefloop.records import Comparison, Prompt, Ranking, Score
from prefloop.rollout.scoring import summed_kl
from prefloop.runtime import start_world
from prefloop.studies.films import (
    CPU,
    Films,
    FilmSettings,
    Learned,
    draw,
    fit_reward,
    pretrain_on_reviews,
    read_demonstrations,
    write_reviews,
)

SCALE = "scale.json"
COMPARED, RANKED, SCORED = "compared", "ranked", "scored"
"""Files of what the annotator said, of the same continuations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceSettings(FilmSettings):
    """What the studies of preferences between film reviews have in common."""

    pretraining: int = 400
    tokens: int = 24
    temperature: float = 0.5
    """Of the annotator, in standard deviations of the true reward."""
    answers: int = 2
    """Continuations of each held-out opening that a policy is measured by."""
    reward_epochs: float = 3.0
    """Passes of the reward model over its comparisons."""
    offline_rate: float = 5e-4
    online_rate: float = 5e-4
    batch: int = 64
    """Continuations in a step of the offline methods."""
    online_batch: int = 64
    """Continuations of a step of the methods that sample."""
    group: int = 4
    """Continuations of a prompt in it, for grpo and rloo."""


PreferenceFilms = Films[Any]


class TrueReward:
    """The judge's log-odds that a continuation is positive, less their mean and by their standard deviation under the reference."""

    def __init__(self, judge: SentimentJudge, mean: float = 0.0, deviation: float = 1.0) -> None:
        self.judge, self.mean, self.deviation = judge, mean, deviation

    @classmethod
    def of(cls, films: PreferenceFilms) -> "TrueReward":
        """With the seed's scale."""
        return cls(films.judge, **read_json(films.place.prepared / SCALE))

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Of each continuation."""
        pairs = zip(prompts, completions, strict=True)
        return [(self.judge.utility(prompt, text) - self.mean) / self.deviation for prompt, text in pairs]


def prepare_preferences(films: PreferenceFilms) -> None:
    """The judge, the reviews' files, the language model, and the scale of the true reward."""
    write_reviews(films)
    pretrain_on_reviews(films)
    prompts = heldout_prompts(films)
    texts = draw(films.pretrained, prompts, films, k=4).texts
    odds = np.array(
        [TrueReward(films.judge)([prompt] * 4, own) for prompt, own in zip(prompts, texts, strict=True)]
    )
    scale = {"mean": float(odds.mean()), "deviation": float(odds.std())}
    write_json(films.place.prepared / SCALE, scale)


def heldout_prompts(films: PreferenceFilms) -> list[Prompt]:
    """The openings that only measure."""
    return [one.prompt for one in read_demonstrations(films.file("people"))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Continuations of an opening as they were drawn, with what the annotator gives each."""

    prompt: Prompt
    texts: tuple[str, ...]
    seen: tuple[float, ...]
    """True reward plus Gumbel noise: the higher of two is the better one with probability σ(gap / temperature), and orders follow Plackett and Luce."""

    def order(self, places: Sequence[int]) -> list[int]:
        """Some of them, best first."""
        return sorted(places, key=lambda place: -self.seen[place])


def judge_drawn(
    films: PreferenceFilms, model: str, prompts: Sequence[Prompt], *, k: int, seed: int
) -> list[Judged]:
    """K continuations of each opening by a model, judged. Openings of which two continuations are the same, or one is empty, are left out."""
    chance, true = np.random.default_rng(seed), TrueReward.of(films)
    found = []
    for prompt, own in zip(prompts, draw(model, prompts, films, k=k, seed=seed).texts, strict=True):
        seen = np.array(true([prompt] * k, own)) + films.settings.temperature * chance.gumbel(size=k)
        if all(map(str.strip, own)) and len(set(own)) == k:
            found.append(Judged(prompt=prompt, texts=tuple(own), seen=tuple(seen.tolist())))
    return found


def comparisons_of(judged: Sequence[Judged]) -> list[Comparison]:
    """The first continuation with the second, the third with the fourth, and so on."""
    found = []
    for one in judged:
        for place in range(0, len(one.texts), 2):
            better, worse = one.order((place, place + 1))
            found.append(Comparison(prompt=one.prompt, chosen=one.texts[better], rejected=one.texts[worse]))
    return found


def rankings_of(judged: Sequence[Judged]) -> list[Ranking]:
    """Each opening's continuations, best first."""
    return [
        Ranking(
            prompt=one.prompt,
            completions=tuple(one.texts[place] for place in one.order(range(len(one.texts)))),
        )
        for one in judged
    ]


def scores_of(judged: Sequence[Judged]) -> list[Score]:
    """Each continuation with what it was given."""
    return [
        Score(prompt=one.prompt, completion=text, value=value)
        for one in judged
        for text, value in zip(one.texts, one.seen, strict=True)
    ]


def fit_reward_model(films: PreferenceFilms, file: str) -> str:
    """A reward model of a file of comparisons."""
    return fit_reward(films, Data(source=file, heldout=0.0), epochs=films.settings.reward_epochs, lr=1e-3)


def learn_offline(
    films: PreferenceFilms,
    objective: str,
    file: str,
    given: Mapping[str, float],
    *,
    epochs: float,
    ranked: int = 2,
    rate: float = 1.0,
) -> str:
    """The language model after an objective of `prefer`; rankings are of so many continuations, and `rate` multiplies the learning rate."""
    settings = films.settings
    config = PreferConfig(
        run=films.run("prefer"),
        data=Data(source=file, heldout=0.0),
        model=films.pretrained,
        loss=objective,
        settings=tuple(f"{name}={value}" for name, value in given.items()),
        from_comparisons=OBJECTIVES[objective].data == "labels",
        batch_size=settings.batch // continuations_of(objective, ranked),
        epochs=epochs,
        reference_cache=str(films.place.prepared / "cache"),
        optim=Optim(lr=rate * settings.offline_rate, schedule="linear", warmup=0.1),
        compute=CPU,
    )
    return str(prefer.train(config))


def continuations_of(objective: str, ranked: int) -> int:
    """In an example of the objective's data, where rankings are of so many."""
    return {"comparisons": 2, "rankings": ranked, "labels": 1, "scores": 1}[OBJECTIVES[objective].data]


def learn_online(
    films: PreferenceFilms, method: str, *, steps: int, kl: float, reward_model: str = ""
) -> str:
    """The language model after ppo, grpo or rloo against a reward model; against the true reward where none is given. The KL is in the reward."""
    settings = films.settings
    common: dict[str, Any] = {
        "run": films.run(method),
        "data": films.data("openings"),
        "model": films.pretrained,
        "reward_model": give_function(Learned(reward_model) if reward_model else TrueReward.of(films)),
        "steps": steps,
        "kl": KL(coef=kl),
        "sampling": OnlineSampling(max_new_tokens=settings.tokens, batch_size=settings.online_batch),
        "optim": Optim(lr=settings.online_rate, schedule="linear"),
        "compute": CPU,
    }
    if method == "ppo":
        critic = CriticSettings(start="shared", coef=0.5, clip=0.0)
        own = {"batch_prompts": settings.online_batch, "critic": critic, "epochs": 2, "minibatches": 2}
        return str(ppo.train(PPOConfig(**common, **own)))
    groups = {
        "batch_prompts": settings.online_batch // settings.group,
        "completions_per_prompt": settings.group,
    }
    if method == "rloo":
        return str(critic_free.train(RLOOConfig(**common, **groups)))
    return str(critic_free.train(GRPOConfig(**common, **groups, epochs=2, minibatches=2)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answers:
    """A policy's continuations of the held-out openings."""

    texts: list[list[str]]
    gold: Float[np.ndarray, "P K"]
    length: Float[np.ndarray, " P"]
    """Tokens, the mean over an opening's continuations."""
    kl: Float[np.ndarray, " P"]
    """To the reference, in nats, likewise."""


def answer(films: PreferenceFilms, model: str) -> Answers:
    """A policy's continuations, measured."""
    k, prompts = films.settings.answers, heldout_prompts(films)
    drawn = draw(model, prompts, films, k=k)
    true = TrueReward.of(films)
    gold = np.array([true([prompt] * k, own) for prompt, own in zip(prompts, drawn.texts, strict=True)])
    kl = np.zeros(len(prompts))
    if model != films.pretrained:
        policy, reference = load_policy(model, CPU), load_policy(films.pretrained, CPU)
        each = summed_kl(policy, reference, drawn.groups, tokens=8192, world=start_world("cpu"))
        kl = each.double().numpy().reshape(len(prompts), k).mean(1)
    length = np.array([np.mean([len(tokens) for tokens in group.completions]) for group in drawn.groups])
    return Answers(texts=drawn.texts, gold=gold, length=length, kl=kl)
