"""The world of film reviews that studies of language share: a judge of sentiment, openings, a small language model of reviews, and its completions.

Some reviews train the judge, others the policies, parted by film as far as their ids tell. Completions are cut at a number of tokens, so that all
policies write equally much.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefloop.algorithms import pretrain, reward
from prefloop.configs.common import Compute, Data, Optim, RunSettings, Sampling
from prefloop.configs.pretrain import Architecture, PretrainConfig
from prefloop.configs.reward import RewardConfig
from prefloop.data import load_demonstrations, load_prompts, write_jsonl
from prefloop.feedback.gold import SentimentJudge, SentimentSettings, held_out, plain_review
from prefloop.models.load import load_policy
from prefloop.recipes.imdb import JUDGE_SHARE, Review, blocks_of, read_reviews
from prefloop.records import Demonstration, Prompt, Text
from prefloop.rollout import sample
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world
from prefloop.studies.study import Place, StudySettings
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids
from prefloop.text.groups import Group

CPU = Compute(device="cpu")
POSITIVE = 7
"""Stars from which a review is positive."""
HELDOUT = 0.15
"""Share of the openings, drawn by the seed, that only measures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmSettings(StudySettings):
    """What studies on film reviews have in common."""

    reviews: int = 5000
    """Used by a seed, for the judge and for policies."""
    width: int = 64
    layers: int = 2
    vocabulary: int = 1024
    """Tokens of the language model."""
    pretraining: int = 250
    """Steps of 16 blocks of 128 tokens of reviews."""
    opening: int = 8
    """Words of a review that are continued."""
    tokens: int = 20
    """That a continuation has at most."""
    drawn: int = 300
    """Held-out openings that policies are measured on."""


class Learned:
    """The reward: a reward model's score of a completion that ends where it was cut, as all completions that it has learned from do."""

    def __init__(self, model: str) -> None:
        self.scorer = EnsembleScorer.load(model, CPU, start_world("cpu"))

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """In standard deviations of the scores of the reward model's own data."""
        return [float(value) for value in self.scorer(prompts, completions)]


Settings = TypeVar("Settings", bound=FilmSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Films(Generic[Settings]):
    """A seed's files and models, and the folder that a cell works in."""

    settings: Settings
    place: Place
    mark: str = ""
    """After the names of runs."""

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
        return RunSettings(out=str(self.place.folder / f"{name}{self.mark}"), seed=self.place.seed)

    def marked(self, mark: str) -> "Films[Settings]":
        """The same, whose runs have other names, so that several can lie side by side."""
        return replace(self, mark=f"-{mark}")

    def data(self, name: str, limit: int = 0) -> Data:
        """A file of the seed, or its first records, nothing held out."""
        return Data(source=str(self.file(name)), heldout=0.0, limit=limit)


def write_reviews(films: Films[Any]) -> None:
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
    reviews: Sequence[tuple[str, int]], settings: FilmSettings
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


def pretrain_on_reviews(films: Films[Any]) -> None:
    """The language model, from scratch."""
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


def read_demonstrations(file: Path) -> list[Demonstration]:
    """The demonstrations in a file; it holds no conversations."""
    return [one for one in load_demonstrations(file).records if isinstance(one, Demonstration)]


def read_prompts(films: Films[Any], name: str) -> list[Prompt]:
    """The prompts of one of the seed's files."""
    return list(load_prompts(films.file(name)).records)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completions:
    """What a policy wrote."""

    groups: list[Group]
    """With each prompt, as tokens without the stop token; a completion that has no other keeps it."""
    texts: list[list[str]]


def draw(
    model: str, prompts: Sequence[Prompt], films: Films[Any], *, k: int = 1, seed: int = 1_000
) -> Completions:
    """Completions of each prompt; the study's seed is added to `seed`."""
    policy, tokenizer = load_policy(model, CPU), load_tokenizer(model)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    with policy.active() as inner:
        drawn = sample(
            inner,
            encoded,
            k=k,
            stop_ids=stop_token_ids(tokenizer),
            sampling=Sampling(max_new_tokens=films.settings.tokens, batch_size=128),
            seed=seed + films.place.seed,
            row_keys=range(len(prompts)),
        )
    return Completions(
        groups=[
            cut_group(prompt, [one.tokens[: len(one.tokens) - one.ended] or one.tokens for one in own])
            for prompt, own in zip(encoded, drawn, strict=True)
        ],
        texts=[[decode_completion(tokenizer, one.tokens) for one in own] for own in drawn],
    )


def cut_group(prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> Group:
    """A prompt with completions, all of whose tokens count."""
    return Group(
        prompt=prompt,
        completions=tuple(completions),
        masks=tuple([True] * len(tokens) for tokens in completions),
    )


def fit_reward(films: Films[Any], data: Data, *, epochs: float = 2, lr: float = 5e-4) -> str:
    """A reward model of comparisons, from the language model."""
    config = RewardConfig(
        run=films.run("reward"),
        data=data,
        model=films.pretrained,
        batch_size=16,
        epochs=epochs,
        optim=Optim(lr=lr, schedule="linear", warmup=0.1),
        compute=CPU,
    )
    return str(reward.train(config))
