"""What completions look like from outside: length, repetition, how alike they are; and alarms when training has changed that for the worse."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.evaluation.intervals import (
    Clusters,
    Estimate,
    Numbers,
    mean_interval,
    nothing,
    rate_interval,
    student_t,
    within,
    without_interval,
)
from prefloop.evaluation.wording import with_interval

Words = tuple[str, ...]
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextStatistics:
    """Statistics of one policy's completions."""

    length: Estimate
    """Mean length, in the units it was given in (tokens), or in words."""
    repetition: Estimate
    """Mean share of a completion's 3-grams of words that occurred earlier in the same completion."""
    longest_repeat: Estimate
    """Mean length of the longest run of words that a completion holds twice."""
    ended: Estimate
    """Share of completions that the policy ended itself, rather than at the token limit."""
    distinct_1: float
    """Different words over all words, all completions taken together."""
    distinct_2: float
    """Different pairs of neighbouring words over all such pairs."""
    duplicates: Estimate
    """Share of completions that another prompt was answered with too, word for word."""
    similarity: Estimate
    """Mean likeness of completions to different prompts: cosine of their 3-gram counts, 0 nothing shared, 1 the same text."""


def words(text: str) -> Words:
    """Words and punctuation marks, lower case."""
    return tuple(_WORD.findall(text.lower()))


def ngrams(sequence: Words, n: int) -> list[Words]:
    """All runs of n neighbours, in order."""
    return [sequence[i : i + n] for i in range(len(sequence) - n + 1)]


def repeated_share(sequence: Words, *, n: int = 3) -> float:
    """Share of n-grams that occurred earlier in the same text: 1 - distinct / all; 0 for a text too short to have any."""
    found = ngrams(sequence, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def longest_repeat(sequence: Words) -> int:
    """Words in the longest run that occurs at two places (they may overlap: "a a a" holds "a a" twice)."""
    low, high = 0, max(0, len(sequence) - 1)
    while low < high:  # a run that occurs twice has shorter ones that do, so halving finds the longest
        middle = (low + high + 1) // 2
        found = ngrams(sequence, middle)
        low, high = (middle, high) if len(set(found)) < len(found) else (low, middle - 1)
    return low


def distinct(texts: Sequence[Words], *, n: int) -> float:
    """Different n-grams over all n-grams in all texts (arXiv:1510.03055). Falls with the amount of text: compare equal amounts."""
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else math.nan


def duplicated(texts: Sequence[Words], prompts: Clusters) -> list[bool]:
    """For each text, whether a different prompt got the same words too."""
    answered = defaultdict(set)
    for text, prompt in zip(texts, prompts, strict=True):
        answered[text].add(prompt)
    return [len(answered[text]) > 1 for text in texts]


def cross_prompt_similarity(texts: Sequence[Words], prompts: Clusters, *, n: int = 3) -> Estimate:
    """Mean cosine between n-gram counts of completions to different prompts, with a jackknife interval over prompts.

    All pairs, without visiting pairs: with unit vectors v, the sum over pairs of prompts is |sum of all v|² - sum over prompts of
    |sum of the prompt's v|². A text shorter than n words counts as one n-gram; an empty one is like nothing but another empty one.
    NaN with fewer than two prompts, no interval with fewer than three, or where all prompts are equally like the others (`no_spread`).
    """
    by_prompt: dict[object, dict[Words, float]] = {}
    sizes: Counter[object] = Counter()
    everything: dict[Words, float] = defaultdict(float)
    for text, prompt in zip(texts, prompts, strict=True):
        counts = Counter(ngrams(text, n) or [text])
        norm = math.sqrt(sum(count**2 for count in counts.values()))
        vector = by_prompt.setdefault(prompt, defaultdict(float))
        sizes[prompt] += 1
        for gram, count in counts.items():
            vector[gram] += count / norm
            everything[gram] += count / norm
    if len(by_prompt) < 2:
        return without_interval(math.nan, len(texts))
    # Sums of cosines, and numbers of pairs, between each prompt's completions and all others'. [prompts]
    size = np.array([sizes[prompt] for prompt in by_prompt], dtype=np.float64)
    alike = np.array([sum(x * (everything[g] - x) for g, x in v.items()) for v in by_prompt.values()])
    pairs = size * (size.sum() - size)
    value = min(1.0, max(0.0, float(alike.sum() / pairs.sum())))
    if len(by_prompt) < 3:
        return without_interval(value, len(texts))
    without = (alike.sum() - 2 * alike) / (pairs.sum() - 2 * pairs)
    count = len(by_prompt)
    error = math.sqrt(float((count - 1) / count * ((without - without.mean()) ** 2).sum()))
    if nothing(error, 1.0):
        return without_interval(value, len(texts), no_spread=True)
    half = student_t(0.95, count - 1) * error
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=len(texts))


def text_statistics(
    texts: Sequence[str],
    *,
    prompts: Clusters,
    ended: Sequence[bool],
    lengths: Numbers | None = None,
) -> TextStatistics:
    """Statistics of completions; `prompts` says which prompt each answers, `lengths` their tokens (else words are counted)."""
    if not len(texts) == len(prompts) == len(ended):
        raise ValueError(
            f"{len(texts)} texts, {len(prompts)} prompts, {len(ended)} ended; give as many of each"
        )
    split = [words(text) for text in texts]
    counted = [len(text.split()) for text in texts] if lengths is None else lengths
    return TextStatistics(
        length=within(mean_interval(counted, clusters=prompts), 0, math.inf),
        repetition=rate_interval([repeated_share(text) for text in split], clusters=prompts),
        longest_repeat=within(
            mean_interval([longest_repeat(text) for text in split], clusters=prompts), 0, math.inf
        ),
        ended=rate_interval([float(end) for end in ended], clusters=prompts),
        distinct_1=distinct(split, n=1),
        distinct_2=distinct(split, n=2),
        duplicates=rate_interval([float(same) for same in duplicated(split, prompts)], clusters=prompts),
        similarity=cross_prompt_similarity(split, prompts),
    )


def reward_hacking_alarms(
    name: str, *, proxy_gain: Estimate, gold_gain: Estimate, start: str = "SFT", judged: str = "gold score"
) -> list[str]:
    """The reward model's score rose and the gold score did not: the policy has learned the reward model's mistakes.

    Gains are paired differences between the policy and SFT on the same prompts. "Rose" means that the whole interval is above zero, or that
    all completions gained the same. `start` and `judged` are what SFT and the gold score are called.
    """
    if not _least(proxy_gain) > 0 or _least(gold_gain) > 0:
        return []
    fell = _most(gold_gain) < 0
    return [
        f"{name}: the reward model's score rose by {with_interval(proxy_gain)} over {start}, but the {judged} "
        + (
            f"fell: change {with_interval(gold_gain)}."
            if fell
            else f"did not clearly rise: change {with_interval(gold_gain)}."
        )
        + " The policy may be exploiting the reward model: raise the KL's weight, train fewer steps, or compare samples of this policy and fit the "
        "reward model again."
    ]


def text_alarms(name: str, *, before: TextStatistics, after: TextStatistics) -> list[str]:
    """Changes in completions between SFT and a policy that usually mean that it games its reward; only changes beyond both intervals count."""
    alarms = []
    if after.length.value > 1.5 * before.length.value and _above(after.length, before.length):
        alarms.append(
            f"{name}: completions grew from {with_interval(before.length)} to {with_interval(after.length)}; check that the reward does not favour length: look at the rate at equal length, or remove length from the score (`reward.residual`, or `--loss simpo`)."
        )
    if after.length.value < before.length.value / 2 and _above(before.length, after.length):
        alarms.append(
            f"{name}: completions shrank from {with_interval(before.length)} to {with_interval(after.length)}; check in the samples that it still answers; if not, raise the KL weight (or beta), or train fewer steps."
        )
    if after.repetition.value > before.repetition.value + 0.05 and _above(
        after.repetition, before.repetition
    ):
        alarms.append(
            f"{name}: the share of repeated 3-grams rose from {with_interval(before.repetition, share=True)} to {with_interval(after.repetition, share=True)}; it repeats itself: raise the KL weight (or beta), or train fewer steps."
        )
    if after.ended.value < before.ended.value - 0.1 and _above(before.ended, after.ended):
        alarms.append(
            f"{name}: completions that end with a stop token fell from {with_interval(before.ended, share=True)} to {with_interval(after.ended, share=True)}; it hits the token limit: allow longer completions, or subtract `reward.missing_eos`."
        )
    if after.similarity.value > before.similarity.value + 0.15 and _above(
        after.similarity, before.similarity
    ):
        alarms.append(
            f"{name}: completions to different prompts have become similar: similarity {with_interval(after.similarity)}, was {with_interval(before.similarity)} (mode collapse): raise the KL weight (or beta), or train fewer steps."
        )
    if after.duplicates.value > before.duplicates.value + 0.1 and _above(after.duplicates, before.duplicates):
        alarms.append(
            f"{name}: {with_interval(after.duplicates, share=True)} of completions answer several prompts word for word, was {with_interval(before.duplicates, share=True)} (mode collapse): raise the KL weight (or beta), or train fewer steps."
        )
    return alarms


def policy_alarms(
    name: str,
    *,
    proxy_gain: Estimate,
    gold_gain: Estimate | None,
    before: TextStatistics,
    after: TextStatistics,
) -> list[str]:
    """Every alarm for one policy against SFT, as plain sentences; an empty list means that none went off.

    Without a gold judge (`gold_gain` None) nothing can be said about reward hacking, and only the texts are looked at.
    """
    hacking = (
        [] if gold_gain is None else reward_hacking_alarms(name, proxy_gain=proxy_gain, gold_gain=gold_gain)
    )
    return hacking + text_alarms(name, before=before, after=after)


def _above(one: Estimate, other: Estimate) -> bool:
    return _least(one) > _most(other)


def _least(estimate: Estimate) -> float:
    """The lower bound. Completions that are all equal count as they are: a policy that always runs into the limit of tokens is long."""
    return estimate.value if estimate.no_spread else estimate.low


def _most(estimate: Estimate) -> float:
    return estimate.value if estimate.no_spread else estimate.high
