"""Film reviews continued: a small language model of reviews, positive demonstrations and comparisons for it, the methods, and what is measured.

What the study `rl4lms` runs. As in RL4LMs the judge of sentiment is the reward as well as the measure, except where a reward model is trained.
Completions are cut at a number of tokens, and demonstrations are longer, so that all policies write equally much.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefloop.algorithms import nlpo, ppo, sft, trpo
from prefloop.configs.common import Optim, Sampling
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.functions import give_function
from prefloop.configs.ppo import KL, A2CConfig, CriticSettings, NLPOConfig, PPOConfig, TRPOConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data import write_jsonl
from prefloop.evaluation.text_statistics import Words, distinct, ngrams, words
from prefloop.feedback.gold import SentimentJudge
from prefloop.models.load import load_policy
from prefloop.models.roles import Policy
from prefloop.records import Comparison, Prompt
from prefloop.rollout.scoring import summed_kl, summed_logprobs
from prefloop.runtime import start_world
from prefloop.studies.films import (
    CPU,
    Films,
    Learned,
    cut_group,
    draw,
    pretrain_on_reviews,
    read_demonstrations,
    read_prompts,
    write_reviews,
)
from prefloop.studies.rl4lms_settings import RL4LMsSettings
from prefloop.text import load_tokenizer
from prefloop.text.encode import completions_group
from prefloop.text.groups import Group


class Positive:
    """The reward: the judge's log-odds that a completion is positive."""

    def __init__(self, judge: SentimentJudge) -> None:
        self.judge = judge

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """See `SentimentJudge.utility`."""
        return [self.judge.utility(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]


def prepare_films(films: Films[RL4LMsSettings]) -> None:
    """The judge, the reviews' files, the language model, its samples compared, and the supervised policy."""
    write_reviews(films)
    pretrain_on_reviews(films)
    write_comparisons(films)
    demonstrate(films, films.settings.demonstrations)


def write_comparisons(films: Films[RL4LMsSettings]) -> None:
    """Two of the language model's completions for each of some openings, compared by the judge with noise."""
    settings, judge = films.settings, films.judge
    prompts = read_prompts(films, "openings")[: max(settings.labels)]
    drawn = draw(films.pretrained, prompts, films, k=2)
    chance, found = random.Random(films.place.seed), []
    for prompt, (first, second) in zip(prompts, drawn.texts, strict=True):
        gap = (judge.utility(prompt, first) - judge.utility(prompt, second)) / settings.temperature
        won = chance.random() < 0.5 * (1 + math.tanh(gap / 2))
        chosen, rejected = (first, second) if won else (second, first)
        if chosen and rejected and chosen != rejected:
            found.append(Comparison(prompt=prompt, chosen=chosen, rejected=rejected))
    write_jsonl(found, films.file("compared"))


def demonstrate(films: Films[RL4LMsSettings], count: int) -> str:
    """The language model after so many demonstrations."""
    config = SFTConfig(
        run=films.run("sft"),
        data=films.data("shown", limit=count),
        model=films.pretrained,
        batch_size=16,
        epochs=2,
        optim=Optim(lr=5e-4, schedule="linear", warmup=0.1),
        compute=CPU,
    )
    return str(sft.train(config))


def learn(
    films: Films[RL4LMsSettings], method: str, *, start: str, reward_model: str = "", kl: float | None = None
) -> str:
    """The model after a method; the judge is the reward where no reward model is given."""
    settings = films.settings
    common: dict[str, Any] = {
        "run": films.run(method),
        "data": films.data("openings"),
        "model": start,
        "reward_model": give_function(Learned(reward_model) if reward_model else Positive(films.judge)),
        "steps": settings.steps,
        "batch_prompts": settings.batch,
        "kl": KL(coef=settings.kl if kl is None else kl),
        "compute": CPU,
    }
    return train(method, common, tokens=settings.tokens, batch=settings.batch)


def train(method: str, common: Mapping[str, Any], *, tokens: int, batch: int, lr: float = 1e-3) -> str:
    """The model after a method, whose settings but what all have in common are here."""
    online = {"sampling": OnlineSampling(max_new_tokens=tokens, batch_size=batch)}
    shared = CriticSettings(start="shared", coef=0.5, clip=0.0)
    twice = {"epochs": 2, "minibatches": 2, "critic": shared, "optim": Optim(lr=lr, schedule="linear")}
    if method == "trpo":
        own = CriticSettings(start="policy", optim=Optim(lr=lr, schedule="constant"))
        settings = {"sampling": Sampling(max_new_tokens=tokens, batch_size=batch), "critic": own}
        fewer = {**common, "steps": max(1, common["steps"] // 4)}
        return str(trpo.train(TRPOConfig(**fewer, **settings, max_kl=0.05, cg_iterations=4, critic_epochs=2)))
    if method == "a2c":
        once = {"whiten_advantages": True, "critic": shared, "optim": Optim(lr=2 * lr, schedule="linear")}
        return str(ppo.train(A2CConfig(**common, **online, **once)))
    if method == "nlpo":
        return str(nlpo.train(NLPOConfig(**common, **online, **twice, top_p=0.9, mask_every=5)))
    return str(ppo.train(PPOConfig(**common, **online, **twice)))


def measure(films: Films[RL4LMsSettings], model: str, start: str) -> dict[str, float]:
    """Sentiment, likelihood, diversity, length and the KL to the model it was trained from, on held-out openings."""
    people = read_demonstrations(films.file("people"))
    policy, tokenizer = load_policy(model, CPU), load_tokenizer(model)
    drawn = draw(model, [one.prompt for one in people], films)
    texts = [text for own in drawn.texts for text in own]
    wrote = [completions_group(tokenizer, one.prompt, [one.completion]) for one in people]
    written = [cut_group(group.prompt, [group.completions[0][:-1]]) for group in wrote]
    judge, world = films.judge, start_world("cpu")
    odds = np.array([judge.utility(one.prompt, text) for one, text in zip(people, texts, strict=True)])
    kl = 0.0
    if model != start:
        reference = load_policy(start, CPU)
        kl = float(summed_kl(policy, reference, drawn.groups, tokens=8192, world=world).mean())
    counted = some_words(texts, films.settings.counted)
    return {
        "sentiment": 100 * float(judge.positive_probability(texts).mean()),
        "odds": float(odds.mean()),
        "positive": 100 * float((odds > 0).mean()),
        "perplexity": perplexity(load_policy(films.pretrained, CPU), drawn.groups),
        "of_people": perplexity(policy, written),
        "distinct_1": 100 * distinct(counted, n=1),
        "distinct_2": 100 * distinct(counted, n=2),
        "entropy_1": entropy(counted, n=1),
        "entropy_2": entropy(counted, n=2),
        "words_counted": sum(map(len, counted)),
        "length": float(np.mean([len(tokens) for group in drawn.groups for tokens in group.completions])),
        "kl": kl,
    }


def perplexity(policy: Policy, groups: Sequence[Group]) -> float:
    """exp of the mean negative log-probability of a token, all completions together."""
    total = summed_logprobs(policy, groups, tokens=8192, world=start_world("cpu")).double().sum()
    return math.exp(-float(total) / sum(len(tokens) for group in groups for tokens in group.completions))


def some_words(texts: Sequence[str], count: int) -> list[Words]:
    """The texts' words, up to so many in all: the share of different n-grams falls with the amount of text."""
    found, left = [], count
    for text in texts:
        found.append(words(text)[:left])
        left -= len(found[-1])
    return [text for text in found if text]


def entropy(texts: Sequence[Words], *, n: int) -> float:
    """Of the n-grams of all texts, in nats."""
    counts = np.array(list(Counter(gram for text in texts for gram in ngrams(text, n)).values()), dtype=float)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def agreement(films: Films[RL4LMsSettings], model: str) -> float:
    """How often a reward model agrees with the judge about two of the language model's completions of held-out openings, in %."""
    people = read_demonstrations(films.file("people"))
    prompts = [one.prompt for one in people]
    texts, judge = draw(films.pretrained, prompts, films, k=2).texts, films.judge
    first, second = ([own[side] for own in texts] for side in (0, 1))
    score = Learned(model)
    gaps = np.array(score(prompts, first)) - np.array(score(prompts, second))
    true = [
        judge.utility(prompts[0], a) - judge.utility(prompts[0], b)
        for a, b in zip(first, second, strict=True)
    ]
    return 100 * float((gaps * np.array(true) > 0).mean())
