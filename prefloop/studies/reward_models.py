"""Reward models on published comparisons: what data, size, length, pretraining, filtering, contexts and density ratios are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from prefloop.configs.common import Compute
from prefloop.data import load_comparisons, write_jsonl
from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.plots import Frame, line_chart
from prefloop.evaluation.wording import with_interval
from prefloop.records import Comparison
from prefloop.studies import reward_training as training
from prefloop.studies.reward_training import FILES, RewardFit, fit_reward
from prefloop.studies.study import (
    Numbers,
    Place,
    Study,
    StudyCell,
    StudyFigure,
    StudyFinding,
    StudyReport,
    StudyResults,
    StudySettings,
    StudyTable,
    all_sure,
    sure,
)

HELPFUL, HARMLESS = FILES
FRESH, PRETRAINED = "all weights", "pretrained"
PLAIN, RESIDUAL, NOISY, FILTERED = (
    "as trained",
    "length residual",
    "flipped labels",
    "flipped labels, filtered",
)
DPO, R_DPO, SIMPO, RATIO = "dpo", "r_dpo", "simpo", "density ratio"
UNSAID, SAID, SWAPPED = "contexts not shown", "contexts shown", "contexts shown, both ways"
WAYS = (PLAIN, RESIDUAL, NOISY, FILTERED, DPO, R_DPO, SIMPO, RATIO, UNSAID, SAID, SWAPPED)
LENGTH_MEASURES = ("accuracy", "correlation", "longer_scores_higher", "chosen_longer", "chosen_shorter")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModelsSettings(StudySettings):
    """Settings of the study `reward_models`."""

    sizes: tuple[int, ...] = (100, 300, 1000)
    """Comparisons; 0 is all."""
    layers: tuple[int, ...] = (2, 4, 0)
    """First layers of the given model that make a smaller one; 0 is the whole model. The first of these is used for everything but the question of size."""
    pretraining: tuple[int, ...] = (100, 300, 1000)
    """Of the harmless comparisons, after pretraining on those of AlpacaEval; none leaves the question out."""
    ways: tuple[str, ...] = WAYS
    """What else is done with comparisons of AlpacaEval."""
    ways_size: int = 0
    """Comparisons for each of these; 0 is the largest of `sizes`."""
    tokens: int = 128
    """Comparisons are used whose completions have fewer; a longer prompt loses its beginning."""
    heldout: float = 0.3
    test: int = 300
    """Held-out comparisons to measure with, at most."""
    lr: float = 5e-4
    """Of adapters of reward models."""
    whole_lr: float = 5e-5
    """Of all weights, for the question of pretraining."""
    policy_lr: float = 2e-4
    batch: int = 16
    flip: float = 0.25
    """Labels turned round before they are filtered."""
    least_margin: float = 0.1
    """Margin that filtering asks for, in standard deviations of scores."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


def cells(settings: RewardModelsSettings) -> list[StudyCell]:
    """Each set, model and number of comparisons; pretraining; and the other ways."""
    grid = [
        StudyCell(name=grid_name(data, layers, size), given={"data": data, "layers": layers, "size": size})
        for data in FILES
        for layers in settings.layers
        for size in settings.sizes
    ]
    pretraining = [
        StudyCell(name=start_name(start, size), given={"start": start, "size": size})
        for size in settings.pretraining
        for start in (FRESH, PRETRAINED)
    ]
    size = {"size": settings.ways_size} if settings.ways_size else {}
    other = {way: {"way": way, **size} for way in settings.ways}
    return [*grid, *pretraining, *(StudyCell(name=way, given=given) for way, given in other.items())]


def model_name(layers: int) -> str:
    """What a model of so many layers is called."""
    return f"first {layers} layers" if layers else "whole model"


def grid_name(data: str, layers: int, size: int) -> str:
    """A cell's name."""
    return f"{data}, {model_name(layers)}, {size or 'all'}"


def start_name(start: str, size: int) -> str:
    """A cell's name."""
    return f"{HARMLESS}, {start}, {size or 'all'}"


def fit_of(settings: RewardModelsSettings, place: Place) -> RewardFit:
    """How a cell trains and measures."""
    return RewardFit(
        seed=place.seed,
        folder=place.folder,
        tokens=settings.tokens,
        lr=settings.lr,
        whole_lr=settings.whole_lr,
        policy_lr=settings.policy_lr,
        batch=settings.batch,
        compute=Compute(device="auto", dtype=settings.dtype),
    )


def prepare(settings: RewardModelsSettings, place: Place) -> None:
    """Comparisons in an order of the seed, smaller models, and a reward model pretrained on all of AlpacaEval's that are used."""
    shuffle = np.random.default_rng(place.seed).permutation
    for name in FILES:
        train, test = training.read_set(
            place.data, name, place.model, tokens=settings.tokens, heldout=settings.heldout
        )
        write_jsonl([train[i] for i in shuffle(len(train))], place.prepared / f"{name}-train.jsonl")
        write_jsonl(test[: settings.test], place.prepared / f"{name}-test.jsonl")
    for layers in settings.layers:
        if layers:
            training.cut(place.model, layers, place.prepared / f"first-{layers}")
    if not settings.pretraining:
        return
    public = load_comparisons(place.prepared / f"{HELPFUL}-train.jsonl").records[: most(settings)]
    fit_reward(fit_of(settings, place), start_of(settings.layers[0], place), public, PRETRAINED, whole=True)


def most(settings: RewardModelsSettings) -> int | None:
    """The largest number of comparisons; None for all."""
    return max(settings.sizes) if all(settings.sizes) else None


def start_of(layers: int, place: Place) -> str:
    """A model's folder."""
    return str(place.prepared / f"first-{layers}") if layers else place.model


def work(settings: RewardModelsSettings, cell: StudyCell, place: Place) -> Numbers:
    """Train in one way, and measure on the same held-out comparisons as all others of the set."""
    fit, given = fit_of(settings, place), cell.given
    data = given.get("data", HARMLESS if "start" in given else HELPFUL)
    train, test = (
        load_comparisons(place.prepared / f"{data}-{part}.jsonl").records for part in ("train", "test")
    )
    some = train[: given.get("size", most(settings)) or None]
    start = start_of(given.get("layers", settings.layers[0]), place)
    if "way" in given:
        found = by_way(given["way"], settings, fit, start, some, test)
    elif given.get("start") == PRETRAINED:
        model = str(place.prepared / PRETRAINED / "final")
        found = training.measure(
            fit, fit_reward(fit, model, some, "reward", whole=True, keep_head=True), test
        )
    else:
        found = training.measure(fit, fit_reward(fit, start, some, "reward", whole="start" in given), test)
    return {"comparisons": len(some), "kept": len(some), **found}


def by_way(
    way: str,
    settings: RewardModelsSettings,
    fit: RewardFit,
    start: str,
    some: Sequence[Comparison],
    test: Sequence[Comparison],
) -> dict[str, float]:
    """What one of the other ways gives."""
    measure = partial(training.measure, fit)
    if way in (UNSAID, SAID, SWAPPED):
        asked, held = (
            training.about_length(records, fit.seed, said=way != UNSAID) for records in (some, test)
        )
        return measure(fit_reward(fit, start, asked, "reward", swap=way == SWAPPED), held)
    if way in (DPO, R_DPO):
        return measure(f"{training.fit_policy(fit, start, some, way)}@{start}", test)
    if way == SIMPO:
        return measure(training.fit_policy(fit, start, some, way), test, start=start)
    if way == RATIO:
        return measure(f"{training.fit_chosen(fit, start, some)}@{start}", test)
    if way in (NOISY, FILTERED):
        some = training.flipped(some, settings.flip, fit.seed)
    model = fit_reward(fit, start, some, "reward", residual=way == RESIDUAL)
    if way != FILTERED:
        return measure(model, test)
    kept = training.filtered(fit, model, some, settings.least_margin)
    return {**measure(fit_reward(fit, start, kept, "again"), test), "kept": len(kept)}


def report(settings: RewardModelsSettings, results: StudyResults) -> StudyReport:
    """Accuracy by data and size; pretraining; the other ways."""
    sizes = settings.sizes
    grid = tuple(
        (
            data,
            model_name(layers),
            *(results.mean(grid_name(data, layers, size), "accuracy") for size in sizes),
            results.mean(grid_name(data, layers, sizes[-1]), "longer_is_chosen"),
        )
        for data in FILES
        for layers in settings.layers
    )
    said = [f"accuracy after {size or 'all'} comparisons, %" for size in sizes]
    pretraining = tuple(
        (
            str(size or "all"),
            results.mean(start_name(FRESH, size), "accuracy"),
            results.mean(start_name(PRETRAINED, size), "accuracy"),
            results.difference(start_name(PRETRAINED, size), start_name(FRESH, size), "accuracy"),
        )
        for size in settings.pretraining
    )
    ways = tuple(
        (way, results.mean(way, "kept"), *(results.mean(way, one) for one in LENGTH_MEASURES))
        for way in settings.ways
    )
    return StudyReport(
        findings=tuple(_findings(settings, results)),
        table=StudyTable(
            columns=("comparisons", "model", *said, "always choosing the longer one, %"), rows=grid
        ),
        further=_filled(
            StudyTable(
                columns=(
                    f"{HARMLESS}, comparisons",
                    "from the language model, %",
                    f"after {HELPFUL}, %",
                    "difference",
                ),
                rows=pretraining,
            ),
            StudyTable(
                columns=(
                    f"{HELPFUL}, way",
                    "trained on",
                    "accuracy, %",
                    "correlation of score and length",
                    "longer scores higher, %",
                    "accuracy, chosen longer, %",
                    "chosen shorter, %",
                ),
                rows=ways,
            ),
        ),
        figure=StudyFigure(drawing=_drawing(settings, results), caption="accuracy by number of comparisons"),
        remarks=(
            f"Comparisons whose completions have fewer than {settings.tokens} tokens, up to {settings.test} of them held out by prompt. A seed has its own "
            "training comparisons and weights, and the same held-out ones, so the intervals leave out the chance of these. Adapters of rank 16 are trained for one "
            "epoch, except for the question of pretraining, where all weights are. A model cut to its first layers is not a good language model. "
            "The contexts ask for the shorter or the longer answer, so that the right answer is known; a model that is not shown them is right half of the time.",
        ),
    )


def _filled(*tables: StudyTable) -> tuple[StudyTable, ...]:
    """Tables that have rows: a question that was left out has none."""
    return tuple(table for table in tables if table.rows)


def _findings(settings: RewardModelsSettings, results: StudyResults) -> list[StudyFinding]:
    """What was published of each."""
    first, last = settings.sizes[0], settings.sizes[-1]
    small, large = settings.layers[0], settings.layers[-1]
    growth = {
        f"{data}, {model_name(layers)}": results.difference(
            grid_name(data, layers, last), grid_name(data, layers, first), "accuracy"
        )
        for data in FILES
        for layers in settings.layers
    }
    size = {
        data: results.difference(grid_name(data, large, last), grid_name(data, small, last), "accuracy")
        for data in FILES
    }
    found = [
        _finding("accuracy grows with the number of comparisons", "Bai et al., arXiv:2204.05862", growth),
    ]
    if small != large:
        found.append(_finding("a larger model is more accurate", "Bai et al., arXiv:2204.05862", size))
    if settings.pretraining:
        few = settings.pretraining[0]
        gain = results.difference(start_name(PRETRAINED, few), start_name(FRESH, few), "accuracy")
        found.append(
            _finding(
                "preference-model pretraining helps where comparisons are few",
                "arXiv:2112.00861",
                {f"accuracy after {few}, pretrained less not": gain},
            )
        )
    pairs = (
        (
            "a residual takes length out of the score",
            "Singhal et al., arXiv:2310.03716",
            "correlation",
            PLAIN,
            RESIDUAL,
        ),
        ("R-DPO depends less on length than DPO", "arXiv:2403.19159", "correlation", DPO, R_DPO),
        ("SimPO depends less on length than DPO", "arXiv:2405.14734", "correlation", DPO, SIMPO),
        (
            "less is more: leaving out what the model finds ambiguous or wrong helps",
            "arXiv:2401.06080",
            "accuracy",
            FILTERED,
            NOISY,
        ),
        ("a reward model that reads contexts follows them", "arXiv:2407.14916", "accuracy", SAID, UNSAID),
        ("training on both contexts of a pair helps", "arXiv:2407.14916", "accuracy", SWAPPED, SAID),
    )
    for expected, source, measure, one, other in pairs:
        if {one, other} <= set(settings.ways):
            less = results.difference(one, other, measure)
            found.append(_finding(expected, source, {f"{measure}, {one} less {other}": less}))
    if RATIO in settings.ways:
        value = results.mean(RATIO, "accuracy")
        found.append(
            StudyFinding(
                expected="the density ratio of a tuned model to the one before annotates better than chance",
                source="arXiv:2411.02481",
                found=f"{with_interval(value)} % right, without a label having been learned from",
                holds=sure(value, above=50.0),
            )
        )
    return found


def _finding(expected: str, source: str, differences: Mapping[str, Estimate]) -> StudyFinding:
    """A claim that differences are above zero."""
    return StudyFinding(
        expected=expected,
        source=source,
        found=", ".join(f"{with_interval(value)} ({name})" for name, value in differences.items()),
        holds=all_sure(sure(value, above=0.0) for value in differences.values()),
    )


def _drawing(settings: RewardModelsSettings, results: StudyResults) -> str:
    lines = {
        f"{data}, {model_name(layers)}": [grid_name(data, layers, size) for size in settings.sizes]
        for data in FILES
        for layers in settings.layers
    }
    if settings.pretraining == settings.sizes:
        lines[f"{HARMLESS}, {PRETRAINED}"] = [start_name(PRETRAINED, size) for size in settings.sizes]
    series = []
    for slot, (label, names) in enumerate(lines.items(), 1):
        points = [results.mean(name, "accuracy") for name in names]
        series.append(
            Series(
                label=label,
                x=[float(place) for place in range(len(points))],
                y=[point.value for point in points],
                low=[point.low for point in points],
                high=[point.high for point in points],
                slot=slot,
            )
        )
    said = ", ".join(str(size or "all") for size in settings.sizes)
    return line_chart(
        series,
        title="Held-out accuracy, %",
        x_label=f"comparisons: {said}",
        y_label="accuracy, %",
        frame=Frame(include=(50.0,), height=330),
    )


STUDY = Study(
    title="Reward models: data, size, length and pretraining",
    question=(
        "How does a reward model's accuracy on held-out comparisons grow with data and model? What do preference-model pretraining, a length residual, "
        "R-DPO, SimPO, filtering, contexts and density ratios change? AlpacaEval's votes are GPT-4's on helpfulness, Anthropic's harmless comparisons are people's."
    ),
    settings=RewardModelsSettings,
    cells=cells,
    work=work,
    report=report,
    prepare=prepare,
)
