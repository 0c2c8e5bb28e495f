"""`prefloop run imdb`: positive film reviews, on real text and a judge fitted on the stars that people gave.

The reviews are parted once, in blocks of neighbours, which are mostly of one film: one part fits the gold judge and is seen by nothing else, the
other trains the language model, gives the openings that policies continue, and says how often the judge is right about films it has not seen.
A demonstration is an opening and the sentences that its author wrote next.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefloop.configs.common import Data, LoRA, Optim, RunSettings, Sampling
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig, RewardShaping
from prefloop.configs.pretrain import Architecture, PretrainConfig
from prefloop.configs.recipes import GROUP, IMDBConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sample import SampleConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data import BadRow, read_rows, write_jsonl
from prefloop.errors import InputError
from prefloop.feedback.gold import SentimentJudge, SentimentSettings, held_out, plain_review
from prefloop.recipes.align.cost import shape_of
from prefloop.recipes.align.stages import (
    PREFERRING,
    SAMPLING,
    SCORING,
    SMALL,
    SUPERVISED,
    batch_for,
    rate,
    steps_for,
)
from prefloop.recipes.plan import Plan
from prefloop.records import Demonstration, Prompt, Text

JUDGE_SHARE = 0.4
"""Share of the reviews, by block, that only the gold judge sees."""
BLOCK, FEWEST_BLOCKS = 50, 40
"""Neighbouring reviews that are parted together; fewer in a small file, so that it has this many blocks."""
HELDOUT = 0.1
"""Share of openings, by hash, that nothing is trained on."""
_NUMBERED = re.compile(r"(.*?)(\d+)(?:_\d+)?(?:\.\w+)?")
"""A review's id, as in train/neg/123 or neg/123_4.txt: the folder, and its number there."""
_SENTENCE_END = re.compile(r"[.!?][\"')]*$")


def plan(config: IMDBConfig, project: Path) -> Plan:
    """Fit the judge, write texts, demonstrations and prompts into the project, and say how each stage is run."""
    data, folder = project / "data", project / "judge"
    files = {name: str(data / f"{name}.jsonl") for name in ("texts", "demonstrations", "prompts")}
    if config.resume and folder.exists() and all(Path(file).exists() for file in files.values()):
        judge = SentimentJudge.load(folder)
    else:
        judge = _prepare(config, data, folder, files)
    whole, short = judge.accuracy, judge.accuracy_short
    measured = judge.settings.measured
    note = (
        f"The gold judge is a classifier of words and word pairs, fitted on star ratings of reviews that no policy saw. On reviews of other films it is right on "
        f"{whole.value:.1%} [{whole.low:.1%}, {whole.high:.1%}] (n = {whole.n}, intervals by block of neighbouring reviews), and on {measured} of their words, "
        f"the length of a completion, on {short.value:.1%} [{short.low:.1%}, {short.high:.1%}]. "
        "It counts words, so it rewards positive wording, not a good review."
    )
    print(note)
    return replace(_stages(config, project, files, judge), notes=(note,))


def _stages(config: IMDBConfig, project: Path, files: dict[str, str], judge: SentimentJudge) -> Plan:
    """The settings of every stage."""
    sft = str(project / "sft" / "final")
    start, rates, made = (_from_given if config.model else _from_new)(config, project, files)
    prompts = Data(source=files["prompts"], heldout=HELDOUT)
    online = OnlineSampling(max_new_tokens=config.completion_tokens, batch_size=128)
    sampling = Sampling(max_new_tokens=online.max_new_tokens, batch_size=online.batch_size)
    return Plan(
        recipe="imdb",
        settings=config,
        project=project,
        pretrain=made,
        sft=SFTConfig(
            run=_run(config, project, "sft"),
            data=Data(source=files["demonstrations"], heldout=HELDOUT),
            model=start,
            batch_size=rates.sft_batch,
            epochs=1,
            optim=Optim(lr=rates.sft, schedule="cosine", warmup=0.03),
            lora=rates.lora,
            compute=config.compute,
        ),
        sample=SampleConfig(
            model=sft,
            data=prompts,
            store=str(project / "prefloop.db"),
            completions_per_prompt=min(4, 2 + config.pairs // config.prompts),
            part="all",
            seed=config.seed,
            sampling=sampling,
            compute=config.compute,
        ),
        pairs=config.pairs,
        gold=judge,
        temperature=1.0,
        reward=RewardConfig(
            run=_run(config, project, "reward"),
            data=Data(source="store", heldout=HELDOUT),
            model=sft,
            batch_size=rates.pairs_batch,
            epochs=1,
            optim=Optim(lr=rates.reward, schedule="linear", warmup=0.05),
            lora=rates.lora,
            compute=config.compute,
        ),
        ppo=_ppo(config, project, prompts, online, rates),
        grpo=(_grpo(config, project, prompts, online, rates),) if config.grpo else (),
        dpo=DPOConfig(
            run=_run(config, project, "dpo"),
            data=Data(source="store", heldout=HELDOUT),
            model=sft,
            beta=0.1,
            batch_size=rates.pairs_batch,
            epochs=1,
            optim=Optim(lr=rates.dpo, schedule="linear", warmup=0.1),
            lora=rates.lora,
            compute=config.compute,
        ),
        evaluation=sampling,
        best_of=config.best_of,
        gold_is_log_odds=True,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rates:
    """What is trained, at which peak rates and in which batches."""

    lora: LoRA
    sft: float
    reward: float
    dpo: float
    sampling: float
    critic: float
    sft_batch: int
    pairs_batch: int


_Start = tuple[str, _Rates, tuple[PretrainConfig, ...]]
"""The model that SFT starts from, how it is trained, and the stage that makes it."""


def _from_new(config: IMDBConfig, project: Path, files: dict[str, str]) -> _Start:
    """A small model, pretrained here."""
    rates = _Rates(
        lora=LoRA(),
        sft=3e-4,
        reward=1e-3,
        dpo=2.5e-4,
        sampling=1e-4,
        critic=3e-4,
        sft_batch=64,
        pairs_batch=32,
    )
    return str(project / "pretrain" / "final"), rates, (_pretrain(config, project, files["texts"]),)


def _from_given(config: IMDBConfig, project: Path, files: dict[str, str]) -> _Start:
    """A given model, at the rates of `align`."""
    del project
    weights = shape_of(config.model, config.compute).weights
    lora = LoRA(rank=16, alpha=32.0) if weights >= SMALL else LoRA()
    with Path(files["demonstrations"]).open(encoding="utf-8") as lines:
        shown = sum(1 for _ in lines)
    rates = _Rates(
        lora=lora,
        sft=rate(SUPERVISED, lora, steps_for(shown)),
        reward=rate(SCORING, lora, steps_for(config.pairs)),
        dpo=rate(PREFERRING, lora, steps_for(config.pairs)),
        sampling=rate(SAMPLING, lora, config.steps),
        critic=rate(SCORING, lora, config.steps),
        sft_batch=batch_for(shown),
        pairs_batch=batch_for(config.pairs),
    )
    return config.model, rates, ()


def _run(config: IMDBConfig, project: Path, stage: str) -> RunSettings:
    return RunSettings(out=str(project / stage), seed=config.seed, resume=config.resume, save_every=100)


def _pretrain(config: IMDBConfig, project: Path, texts: str) -> PretrainConfig:
    return PretrainConfig(
        run=_run(config, project, "pretrain"),
        data=Data(source=texts, heldout=0.02),
        architecture=Architecture(
            hidden_size=192, layers=4, heads=4, ffn_size=512, vocab_size=4096, max_positions=512
        ),
        block_tokens=256,
        batch_blocks=32,
        epochs=1,
        optim=Optim(lr=2e-3, schedule="cosine", warmup=0.05, weight_decay=0.1),
        compute=config.compute,
    )


def _ppo(
    config: IMDBConfig, project: Path, prompts: Data, sampling: OnlineSampling, rates: _Rates
) -> PPOConfig:
    return PPOConfig(
        run=_run(config, project, "ppo"),
        data=prompts,
        model=str(project / "sft" / "final"),
        reward_model=str(project / "reward" / "final"),
        sampling=sampling,
        steps=config.steps,
        batch_prompts=config.batch_completions,
        epochs=2,
        minibatches=2,
        kl=KL(coef=0.1),
        critic=CriticSettings(optim=Optim(lr=rates.critic, schedule="constant")),
        reward=RewardShaping(missing_eos=3.0),
        optim=Optim(lr=rates.sampling, schedule="linear", warmup=0.05),
        lora=rates.lora,
        compute=config.compute,
    )


def _grpo(
    config: IMDBConfig, project: Path, prompts: Data, sampling: OnlineSampling, rates: _Rates
) -> GRPOConfig:
    return GRPOConfig(
        run=_run(config, project, "grpo"),
        data=prompts,
        model=str(project / "sft" / "final"),
        reward_model=str(project / "reward" / "final"),
        sampling=sampling,
        steps=config.steps,
        batch_prompts=config.batch_completions // GROUP,
        completions_per_prompt=GROUP,
        kl=KL(coef=0.1, placement="loss", estimator="k3"),
        optim=Optim(lr=rates.sampling, schedule="linear", warmup=0.05),
        lora=rates.lora,
        compute=config.compute,
    )


def _prepare(config: IMDBConfig, data: Path, folder: Path, files: dict[str, str]) -> SentimentJudge:
    """Part the reviews, fit the judge on one part, write the stages' files from the other."""
    reviews = list(read_reviews(config.data))
    texts = [review.text for review in reviews]
    groups = blocks_of(reviews)
    settings = SentimentSettings(seed=config.seed, heldout=1 - JUDGE_SHARE)
    open_reviews = [
        (review.origin, plain_review(review.text))
        for review, is_open in zip(reviews, held_out(texts, groups, settings), strict=True)
        if is_open
    ]
    judge = SentimentJudge.fit(texts, [review.rating for review in reviews], groups=groups, settings=settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    judge.save(folder)
    data.mkdir(parents=True, exist_ok=True)
    demonstrations = [
        demonstration
        for origin, text in open_reviews
        if (demonstration := _demonstration(text, config.prompt_words, origin)) is not None
    ]
    prompts = list(dict.fromkeys(demonstration.prompt for demonstration in demonstrations))[: config.prompts]
    write_jsonl([Text(text=text, origin=origin) for origin, text in open_reviews], files["texts"])
    write_jsonl(demonstrations[: config.demonstrations or None], files["demonstrations"])
    write_jsonl(prompts, files["prompts"])
    print(
        f"{len(reviews) - len(open_reviews)} reviews for the judge, {len(open_reviews)} for the language model; {len(demonstrations)} of those have "
        f"an opening of {config.prompt_words} words with sentences after it, {len(prompts)} openings are used as prompts"
    )
    return judge


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """A review with its stars."""

    origin: str
    text: str
    rating: int
    id: str | None


def read_reviews(source: str) -> Iterator[Review]:
    """Every review; `InputError` at the first row without a text or stars."""
    for row in read_rows(source):
        if isinstance(row, BadRow):
            raise InputError(str(row))
        text, rating, name = row.values.get("text"), row.values.get("rating"), row.values.get("id")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{row.origin}: `text` is {text!r}; it must be a review's text")
        if not isinstance(rating, int) or not 1 <= rating <= 10:
            raise InputError(
                f"{row.origin}: `rating` is {rating!r}; it must be a whole number of stars, 1 to 10"
            )
        yield Review(origin=row.origin, text=text, rating=rating, id=None if name is None else str(name))


def blocks_of(reviews: Sequence[Review]) -> list[str]:
    """A name for each review's block: neighbours by the numbers in their ids, which count the reviews of one film together.

    Without such ids, neighbours in the file.
    """
    block = max(1, min(BLOCK, len(reviews) // FEWEST_BLOCKS))
    names: list[str] = []
    for place, review in enumerate(reviews):
        numbered = _NUMBERED.fullmatch(review.id or "")
        folder, number = (numbered[1], int(numbered[2])) if numbered else ("", place)
        names.append(f"{folder} {number // block}")
    return names


MOST_WORDS, FEWEST_WORDS = 34, 12
"""Words of a demonstration's completion."""


def _demonstration(text: str, prompt_words: int, origin: str) -> Demonstration | None:
    """The opening, and what follows up to the last end of a sentence within reach; None if there is none."""
    words = text.split()
    following = words[prompt_words : prompt_words + MOST_WORDS]
    ends = [place + 1 for place, word in enumerate(following) if _SENTENCE_END.search(word)]
    if not ends or ends[-1] < FEWEST_WORDS:
        return None
    opening = " ".join(words[:prompt_words])
    completion = " " + " ".join(following[: ends[-1]])
    return Demonstration(prompt=Prompt(content=opening), completion=completion, origin=origin)
