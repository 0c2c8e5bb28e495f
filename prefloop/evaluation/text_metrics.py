"""Metrics of what policies write: BLEU and ROUGE against references, as sacrebleu and rouge-score compute them, and a user's functions.

Every number has an interval clustered by prompt. BLEU is a corpus's: its interval is a percentile bootstrap over prompts of the counts that
sacrebleu sums. The others are means over completions.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from prefloop.configs.functions import call, find_function, give_function, numbers_in, shown
from prefloop.errors import InputError
from prefloop.evaluation.intervals import Estimate, bootstrap_statistic, mean_interval
from prefloop.records import Prompt

BLEU = "bleu"
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_PACKAGES = {BLEU: "sacrebleu", **dict.fromkeys(ROUGE, "rouge_score")}


def check_metrics(names: Sequence[str]) -> None:
    """Raise `InputError` for a metric that is not known, a function that is not there, or a package that is not installed."""
    for name in names:
        if ":" in name:
            find_function(name, what="metric")
        elif name not in _PACKAGES:
            raise InputError(
                f"metrics has {name!r}; it must be one of {', '.join(_PACKAGES)}, or a function as file.py:function or module:function"
            )
        elif find_spec(_PACKAGES[name]) is None:
            raise InputError(
                f"metrics has {name}, whose package is not installed: pip install 'prefloop[metrics]'"
            )


def needs_references(names: Sequence[str]) -> bool:
    """Whether a metric can say nothing without references."""
    return any(name in _PACKAGES for name in names)


def measure_texts(
    metrics: Sequence[str | Callable[..., Any]],
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    clusters: Sequence[Any] | np.ndarray,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Each metric of the completions, by name, functions also by value; item i of prompts, texts, references and clusters belongs together.

    Raises:
        InputError: A function raised, or returned something else than one finite number for each completion.
    """
    found: dict[str, Estimate] = {}
    for metric in metrics:
        name = give_function(metric) if callable(metric) else metric
        if name == BLEU:
            found[name] = _bleu(texts, references, clusters, seed)
            continue
        values = _rouge(name, texts, references) if name in ROUGE else _own(name, prompts, texts, references)
        found[name.rpartition(":")[2].rpartition(".")[2]] = mean_interval(values, clusters=clusters)
    return found


def _bleu(texts: Sequence[str], references: Sequence[Sequence[str]], clusters: Any, seed: int) -> Estimate:
    """sacrebleu's corpus BLEU, 0 to 100, tokens by `13a`, no smoothing but of zero counts (`exp`), as its command line has it."""
    from sacrebleu.metrics.bleu import BLEU as Metric

    metric = Metric(
        effective_order=True
    )  # of single sentences, whose scores are not read; it changes no count
    rows = []
    for text, its in zip(texts, references, strict=True):
        score = metric.sentence_score(text, list(its))
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])

    def bleu(sums: np.ndarray) -> float:
        counts, totals = sums[:4], sums[4:8]
        return Metric.compute_bleu(
            correct=[int(count) for count in counts],
            total=[int(total) for total in totals],
            sys_len=int(sums[8]),
            ref_len=int(sums[9]),
            smooth_method="exp",
        ).score

    return bootstrap_statistic(np.array(rows, dtype=float), bleu, clusters=clusters, seed=seed)


def _rouge(name: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """F-measure of rouge-score with stemming, 0 to 1; of several references the best."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], use_stemmer=True)
    return [
        scorer.score_multi(list(its), text)[name].fmeasure
        for text, its in zip(texts, references, strict=True)
    ]


def _own(
    name: str, prompts: Sequence[Prompt], texts: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    what = f"metric {name}"
    result = call(find_function(name, what="metric"), prompts, texts, references, what=what)
    return numbers_in(
        result,
        len(texts),
        what=what,
        unit="completion",
        where=lambda index: f"item {index} (prompt {shown(prompts[index].to_json())})",
    )


def references_of(
    known: Mapping[str, Sequence[str]], prompts: Sequence[Prompt], names: Sequence[str], source: str
) -> list[list[str]]:
    """The references of each prompt, from those by the prompts' hashes. Raises `InputError` if a metric needs one that is not there."""
    found = [list(known.get(prompt.sha256, ())) for prompt in prompts]
    lacking = sum(not reference for reference in found)
    if lacking and needs_references(names):
        raise InputError(
            f"metrics {', '.join(name for name in names if name in _PACKAGES)} compare with references, but {lacking} of {len(prompts)} prompts in {source} "
            "have none; give demonstrations, or comparisons, whose chosen completions they are"
        )
    return found
