"""Film reviews continued: a small language model of reviews, positive demonstrations and comparisons for it, the methods, and what is measured.

What the study `rl4lms` runs. As in RL4LMs the judge of sentiment is the reward as well as the measure, except where a reward model is trained.
Completions are cut at a number of tokens, and demonstrations are longer, so that all policies write equally much.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.algorithms import nlpo, ppo, pretrain, reward, sft, trpo
from prefloop.configs.common import Compute, Data, Optim, RunSettings, Sampling
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.functions import give_function
from prefloop.configs.ppo import KL, A2CConfig, CriticSettings, NLPOConfig, PPOConfig, TRPOConfig
from prefloop.configs.pretrain import Architecture, PretrainConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data import load_demonstrations, load_prompts, write_jsonl
from prefloop.evaluation.text_statistics import Words, distinct, ngrams, words
from prefloop.feedback.gold import SentimentJudge, SentimentSettings, held_out, plain_review
from prefloop.models.load import load_policy
from prefloop.models.roles import Policy
from prefloop.recipes.imdb import JUDGE_SHARE, Review, blocks_of, read_reviews
from prefloop.records import Comparison, Demonstration, Prompt, Text
from prefloop.rollout import sample
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.rollout.scoring import summed_kl, summed_logprobs
from prefloop.runtime import start_world
from prefloop.studies.rl4lms_settings import RL4LMsSettings
from prefloop.studies.study import Place
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids
from prefloop.text.encode import completions_group
from prefloop.text.groups import Group

CPU = Compute(device="cpu")
POSITIVE = 7
"""Stars from which a review is positive."""
HELDOUT = 0.15
"""Share of the openings, drawn by the seed, that only measures."""


class Positive:
    """The reward: the judge's log-odds that a completion is positive."""

    def __init__(self, judge: SentimentJudge) -> None:
        self.judge = judge

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """See `SentimentJudge.utility`."""
        return [self.judge.utility(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]


class Learned:
    """The reward: a reward model's score of a completion that ends where it was cut, as all completions that it has learned from do."""

    def __init__(self, model: str) -> None:
        self.scorer = EnsembleScorer.load(model, CPU, start_world("cpu"))

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """In standard deviations of the scores of the reward model's own data."""
        return [float(value) for value in self.scorer(prompts, completions)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Films:
    """A seed's files and models, and the folder that a cell works in."""

    settings: RL4LMsSettings
    place: Place

    @property
    def pretrained(self) -> str:
        """The language model of reviews."""
        return str(self.place.prepared / "pretrain/final")

    @property
    def supervised(self) -> str:
        """The same after all demonstrations."""
        return str(self.place.prepared / "sft/final")

    @property
    def judge(self) -> SentimentJudge:
        """Fitted on reviews that no policy has seen."""
        return SentimentJudge.load(self.place.prepared / "judge")

    def file(self, name: str) -> Path:
        """One of the seed's files."""
        return self.place.prepared / f"{name}.jsonl"

    def run(self, name: str) -> RunSettings:
        """A run folder of that name."""
        return RunSettings(out=str(self.place.folder / name), seed=self.place.seed)

    def data(self, name: str, limit: int = 0) -> Data:
        """A file of the seed, or its first records, nothing held out."""
        return Data(source=str(self.file(name)), heldout=0.0, limit=limit)


def prepare_films(films: Films) -> None:
    """The judge, the reviews' files, the language model, its samples compared, and the supervised policy."""
    write_reviews(films)
    settings = films.settings
    pretrain.train(
        PretrainConfig(
            run=films.run("pretrain"),
            data=films.data("texts"),
            architecture=Architecture(
                hidden_size=settings.width,
                layers=settings.layers,
                heads=4,
                ffn_size=4 * settings.width,
                vocab_size=settings.vocabulary,
                max_positions=256,
            ),
            block_tokens=128,
            batch_blocks=16,
            max_steps=settings.pretraining,
            eval_every=0,
            optim=Optim(lr=3e-3, schedule="cosine", warmup=0.05, weight_decay=0.1),
            compute=CPU,
        )
    )
    write_comparisons(films)
    demonstrate(films, settings.demonstrations)


def write_reviews(films: Films) -> None:
    """Part the reviews, by film as far as the ids tell: some for the judge, the others for policies, of whose openings some only measure."""
    seed, settings = films.place.seed, films.settings
    reviews, groups = some_reviews(films.place.data, settings.reviews, seed)
    texts = [review.text for review in reviews]
    parts = SentimentSettings(seed=seed, heldout=1 - JUDGE_SHARE)
    judge = SentimentJudge.fit(texts, [review.rating for review in reviews], groups=groups, settings=parts)
    judge.save(films.place.prepared / "judge")
    seen = [
        (plain_review(review.text), review.rating)
        for review, is_open in zip(reviews, held_out(texts, groups, parts), strict=True)
        if is_open
    ]
    random.Random(seed).shuffle(seen)
    continued = list(_continued(seen, settings))
    test = max(2, round(HELDOUT * len(continued)))
    kept = continued[test:]
    write_jsonl([Text(text=text) for text, _ in seen], films.file("texts"))
    write_jsonl([one for one, _ in continued[:test]][: settings.drawn], films.file("people"))
    write_jsonl([one for one, stars in kept if stars >= POSITIVE], films.file("shown"))
    write_jsonl([one.prompt for one, _ in kept], films.file("openings"))


def some_reviews(data: str, count: int, seed: int) -> tuple[list[Review], list[str]]:
    """Whole blocks of neighbouring reviews, drawn by the seed, that are so many in all or a few more; with each the name of its block."""
    everything = list(read_reviews(data))
    blocks: dict[str, list[Review]] = {}
    for review, name in zip(everything, blocks_of(everything), strict=True):
        blocks.setdefault(name, []).append(review)
    names = list(blocks)
    random.Random(seed).shuffle(names)
    reviews, groups = [], []
    for name in names:
        if len(reviews) < count:
            reviews += blocks[name]
            groups += [name] * len(blocks[name])
    return reviews, groups


def _continued(
    reviews: Sequence[tuple[str, int]], settings: RL4LMsSettings
) -> Iterator[tuple[Demonstration, int]]:
    """Openings with the words that follow, as many as a completion has tokens, so that no demonstration ends before a completion is cut."""
    known: set[str] = set()
    for text, stars in reviews:
        found = text.split()
        opening, following = found[: settings.opening], found[settings.opening :][: settings.tokens]
        prompt = " ".join(opening)
        if len(following) == settings.tokens and prompt not in known:
            known.add(prompt)
            yield (
                Demonstration(prompt=Prompt(content=prompt), completion=" " + " ".join(following)),
                stars,
            )


def write_comparisons(films: Films) -> None:
    """Two of the language model's completions for each of some openings, compared by the judge with noise."""
    settings, judge = films.settings, films.judge
    prompts = _prompts(films, "openings")[: max(settings.labels)]
    drawn = draw(films.pretrained, prompts, films, k=2)
    chance, found = random.Random(films.place.seed), []
    for prompt, (first, second) in zip(prompts, drawn.texts, strict=True):
        gap = (judge.utility(prompt, first) - judge.utility(prompt, second)) / settings.temperature
        won = chance.random() < 0.5 * (1 + math.tanh(gap / 2))
        chosen, rejected = (first, second) if won else (second, first)
        if chosen and rejected and chosen != rejected:
            found.append(Comparison(prompt=prompt, chosen=chosen, rejected=rejected))
    write_jsonl(found, films.file("compared"))


def read_demonstrations(file: Path) -> list[Demonstration]:
    """The demonstrations in a file; it holds no conversations."""
    return [one for one in load_demonstrations(file).records if isinstance(one, Demonstration)]


def _prompts(films: Films, name: str) -> list[Prompt]:
    return list(load_prompts(films.file(name)).records)


def demonstrate(films: Films, count: int) -> str:
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


def fit_reward(films: Films, count: int) -> str:
    """A reward model of so many comparisons."""
    config = RewardConfig(
        run=films.run("reward"),
        data=films.data("compared", limit=count),
        model=films.pretrained,
        batch_size=16,
        epochs=2,
        optim=Optim(lr=5e-4, schedule="linear", warmup=0.1),
        compute=CPU,
    )
    return str(reward.train(config))


def learn(films: Films, method: str, *, start: str, reward_model: str = "", kl: float | None = None) -> str:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Completions:
    """What a policy wrote."""

    groups: list[Group]
    """With each prompt, as tokens without the stop token; a completion that has no other keeps it."""
    texts: list[list[str]]


def draw(model: str, prompts: Sequence[Prompt], films: Films, *, k: int = 1) -> Completions:
    """Completions of each prompt."""
    policy, tokenizer = load_policy(model, CPU), load_tokenizer(model)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    with policy.active() as inner:
        drawn = sample(
            inner,
            encoded,
            k=k,
            stop_ids=stop_token_ids(tokenizer),
            sampling=Sampling(max_new_tokens=films.settings.tokens, batch_size=128),
            seed=1_000 + films.place.seed,
            row_keys=range(len(prompts)),
        )
    return Completions(
        groups=[
            _group(prompt, [one.tokens[: len(one.tokens) - one.ended] or one.tokens for one in own])
            for prompt, own in zip(encoded, drawn, strict=True)
        ],
        texts=[[decode_completion(tokenizer, one.tokens) for one in own] for own in drawn],
    )


def _group(prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> Group:
    return Group(
        prompt=prompt,
        completions=tuple(completions),
        masks=tuple([True] * len(tokens) for tokens in completions),
    )


def measure(films: Films, model: str, start: str) -> dict[str, float]:
    """Sentiment, likelihood, diversity, length and the KL to the model it was trained from, on held-out openings."""
    people = read_demonstrations(films.file("people"))
    policy, tokenizer = load_policy(model, CPU), load_tokenizer(model)
    drawn = draw(model, [one.prompt for one in people], films)
    texts = [text for own in drawn.texts for text in own]
    wrote = [completions_group(tokenizer, one.prompt, [one.completion]) for one in people]
    written = [_group(group.prompt, [group.completions[0][:-1]]) for group in wrote]
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


def agreement(films: Films, model: str) -> float:
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
