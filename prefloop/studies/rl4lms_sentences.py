"""Words put in order: a text-to-text task with references that a small encoder-decoder learns from scratch.

A source is the words of a sentence in the alphabet's order, its reference is the sentence: short ones of common words, from the film reviews. It
is a small sister of CommonGen, where a sentence is made of given words. What the study `rl4lms` runs beside the reviews.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from prefloop.algorithms import sft
from prefloop.configs.common import Data, Optim, RunSettings, Sampling
from prefloop.configs.functions import give_function
from prefloop.configs.ppo import KL
from prefloop.configs.sft import SFTConfig
from prefloop.data import write_jsonl
from prefloop.evaluation.text_metrics import check_metrics, measure_texts
from prefloop.feedback.gold import plain_review
from prefloop.models.load import load_policy
from prefloop.recipes.imdb import read_reviews
from prefloop.records import Demonstration, Prompt
from prefloop.rollout import sample
from prefloop.studies.rl4lms_films import CPU, read_demonstrations, train
from prefloop.studies.rl4lms_settings import RL4LMsSettings
from prefloop.studies.study import Place
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids

METRICS = ("bleu", "rouge1", "rouge2", "rougeL")
SHORTEST, LONGEST = 4, 7
"""Words of a sentence."""
SPECIAL = ("<pad>", "</s>", "<unk>")
_ENDED = re.compile(r"(?<=[.!?])\s+")
_PLAIN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?(?: [A-Za-z]+(?:'[a-z]+)?)+[.!]")


def plain_sentences(texts: Iterable[str]) -> list[str]:
    """Sentences of nothing but words and one mark at the end, in lower case and without it, each once."""
    found: dict[str, None] = {}
    for text in texts:
        for sentence in _ENDED.split(plain_review(text)):
            if _PLAIN.fullmatch(sentence) and SHORTEST <= len(sentence.split()) <= LONGEST:
                found[sentence[:-1].lower()] = None
    return list(found)


def in_alphabet(sentence: str) -> str:
    """The words in the alphabet's order."""
    return " ".join(sorted(sentence.split()))


def make_tokenizer(known: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token a word."""
    vocabulary = [*SPECIAL, *(f"▁{word}" for word in known)]
    backend = Tokenizer(
        models.WordLevel({token: place for place, token in enumerate(vocabulary)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@dataclass(frozen=True)
class Ordering:
    """A seed's files and models, and the folder that a cell works in."""

    settings: RL4LMsSettings
    place: Place

    @property
    def supervised(self) -> str:
        """The encoder-decoder after the references."""
        return str(self.place.prepared / "ordering/final")

    def file(self, name: str) -> Path:
        """One of the seed's files."""
        return self.place.prepared / f"ordering-{name}.jsonl"

    def run(self, name: str) -> RunSettings:
        """A run folder of that name."""
        return RunSettings(out=str(self.place.folder / name), seed=self.place.seed)

    @cached_property
    def references(self) -> dict[str, str]:
        """By the prompt's hash, those of training and those held out."""
        parts = [read_demonstrations(self.file(name)) for name in ("train", "test")]
        return {one.prompt.sha256: one.completion for part in parts for one in part}


class Bleu:
    """The reward: BLEU of a completion by itself, 0 to 1."""

    def __init__(self, references: dict[str, str]) -> None:
        from sacrebleu.metrics.bleu import BLEU

        self.metric, self.references = BLEU(effective_order=True), references

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """As sacrebleu has it for a sentence: counts of 0 are smoothed, and orders that are longer than the completion left out."""
        return [
            self.metric.sentence_score(text, [self.references[prompt.sha256]]).score / 100
            for prompt, text in zip(prompts, completions, strict=True)
        ]


class RougeL:
    """The reward: ROUGE-L of a completion, 0 to 1."""

    def __init__(self, references: dict[str, str]) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self.metric, self.references = RougeScorer(["rougeL"], use_stemmer=True), references

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """The F-measure."""
        return [
            self.metric.score(self.references[prompt.sha256], text)["rougeL"].fmeasure
            for prompt, text in zip(prompts, completions, strict=True)
        ]


REWARDS = {"BLEU": Bleu, "ROUGE-L": RougeL}


def prepare_ordering(ordering: Ordering) -> None:
    """Sentences with their words in the alphabet's order, and an encoder-decoder that has learned from the references.

    Raises:
        InputError: sacrebleu or rouge-score is not installed.
    """
    check_metrics(METRICS)
    settings, seed = ordering.settings, ordering.place.seed
    sentences = plain_sentences(review.text for review in read_reviews(ordering.place.data))
    counts = Counter(word for sentence in sentences for word in sentence.split())
    known = sorted(word for word, _ in counts.most_common(settings.words))
    of_known = [sentence for sentence in sentences if set(sentence.split()) <= set(known)]
    random.Random(seed).shuffle(of_known)
    by_source = {in_alphabet(sentence): sentence for sentence in of_known}
    asked = [
        Demonstration(prompt=Prompt(content=source), completion=sentence)
        for source, sentence in by_source.items()
    ]
    test = max(2, min(settings.ordered, len(asked) // 5))
    write_jsonl(asked[:test], ordering.file("test"))
    write_jsonl(asked[test:], ordering.file("train"))
    start = ordering.place.prepared / "ordering-start"
    make_model(start, known, settings, seed)
    supervise(ordering, str(start), epochs=settings.ordering_epochs, lr=3e-3)


def make_model(folder: Path, known: Sequence[str], settings: RL4LMsSettings, seed: int) -> None:
    """A fresh encoder-decoder with the tokenizer, in a folder."""
    tokenizer = make_tokenizer(known)
    torch.manual_seed(seed)
    start: dict[str, Any] = {"decoder_start_token_id": 0}  # which T5Config's signature does not name
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=settings.ordering_width,
        d_kv=settings.ordering_width // 4,
        d_ff=4 * settings.ordering_width,
        num_layers=settings.ordering_layers,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        **start,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def supervise(ordering: Ordering, start: str, *, epochs: float, lr: float) -> str:
    """A model after so many passes over the references."""
    config = SFTConfig(
        run=ordering.run("ordering"),
        data=Data(source=str(ordering.file("train")), heldout=0.0),
        model=start,
        batch_size=64,
        epochs=epochs,
        optim=Optim(lr=lr, schedule="cosine", warmup=0.05),
        compute=CPU,
    )
    return str(sft.train(config))


def longer(ordering: Ordering) -> str:
    """The supervised model after a third more passes, from a rate that begins lower."""
    return supervise(ordering, ordering.supervised, epochs=ordering.settings.ordering_epochs / 3, lr=1e-3)


def reinforce(ordering: Ordering, method: str, reward: str) -> str:
    """The supervised model after a method with a metric as its reward."""
    settings = ordering.settings
    common: dict[str, Any] = {
        "run": ordering.run(method),
        "data": Data(source=str(ordering.file("train")), heldout=0.0),
        "model": ordering.supervised,
        "reward_model": give_function(REWARDS[reward](ordering.references)),
        "steps": settings.ordering_steps,
        "batch_prompts": 2 * settings.batch,
        "kl": KL(coef=0.01),
        "compute": CPU,
    }
    return train(method, common, tokens=LONGEST + 3, batch=2 * settings.batch, lr=5e-4)


def measure_ordering(ordering: Ordering, model: str) -> dict[str, float]:
    """BLEU and ROUGE on held-out sentences, of the likeliest completions and of drawn ones, and how often every word is used once."""
    asked = read_demonstrations(ordering.file("test"))
    prompts, references = [one.prompt for one in asked], [[one.completion] for one in asked]
    policy, tokenizer = load_policy(model, CPU), load_tokenizer(model)
    found: dict[str, float] = {}
    for name, temperature in (("", 0.0), ("drawn_", 1.0)):
        with policy.active() as inner:
            drawn = sample(
                inner,
                [encode_prompt(tokenizer, prompt) for prompt in prompts],
                k=1,
                stop_ids=stop_token_ids(tokenizer),
                sampling=Sampling(max_new_tokens=LONGEST + 3, batch_size=128, temperature=temperature),
                seed=1_000 + ordering.place.seed,
                row_keys=range(len(prompts)),
            )
        texts = [decode_completion(tokenizer, own[0].tokens) for own in drawn]
        scores = measure_texts(METRICS, prompts, texts, references, clusters=range(len(prompts)))
        found |= {f"{name}{metric}": 100 ** (metric != "bleu") * scores[metric].value for metric in METRICS}
        used = [in_alphabet(text) == prompt.content for prompt, text in zip(prompts, texts, strict=True)]
        found |= {f"{name}used": 100 * sum(used) / len(used)}
        found |= {f"{name}length": sum(len(text.split()) for text in texts) / len(texts)}
    return found
