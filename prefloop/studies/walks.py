"""trlX's random walks: implicit Q-learning from scored walks alone, beside methods that draw walks of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefloop.data.random_walks import make_graph, optimality, scored_walks, spell
from prefloop.errors import InputError
from prefloop.evaluation.curves import Series
from prefloop.evaluation.plots import Frame, ReferenceLine, line_chart
from prefloop.evaluation.wording import with_interval
from prefloop.models.load import load_policy
from prefloop.models.q_heads import load_q_heads
from prefloop.records import Prompt
from prefloop.rollout import sample
from prefloop.rollout.steered import Drawer, Perturbed
from prefloop.studies.study import (
    Measure,
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
from prefloop.studies.walk_policies import CPU, METHODS, SAMPLING, WalksTask, prepare_task
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids

SFT, PPO, RFT, ILQL = "sft", "ppo", "rft", "ilql"
TRLX = "trlX, examples/randomwalks"


@dataclass(frozen=True, kw_only=True, slots=True)
class WalksSettings(StudySettings):
    """Settings of the study `walks`."""

    methods: tuple[str, ...] = (PPO, RFT, ILQL)
    """Beside the language model of the walks: ppo, rft, ilql, nlpo, online_dpo, nash_md and sppo."""
    betas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 10.0, 100.0)
    """At which ilql decodes."""
    layers: int = 3
    width: int = 96
    length: float = 1.0
    """Of every training, as a multiple of what it is otherwise."""
    drawn: int = 50
    """Walks from each start that a policy is measured on."""


def cells(settings: WalksSettings) -> list[StudyCell]:
    """The language model of the walks, and each method."""
    for name in settings.methods:
        if name not in METHODS:
            raise InputError(f"methods has {name!r}, which is no method; there are {', '.join(METHODS)}")
    return [StudyCell(name=name) for name in dict.fromkeys((SFT, *settings.methods))]


def prepare(settings: WalksSettings, place: Place) -> None:
    """The walks, and a language model of them."""
    task = WalksTask(prepared=place.prepared, folder=place.prepared, seed=place.seed, length=settings.length)
    prepare_task(task, layers=settings.layers, width=settings.width)


def work(settings: WalksSettings, cell: StudyCell, place: Place) -> Numbers:
    """Train, and measure; the Q-learner at each beta."""
    task = WalksTask(prepared=place.prepared, folder=place.folder, seed=place.seed, length=settings.length)
    final = METHODS[cell.name](task)
    policy, tokenizer = load_policy(str(final), CPU), load_tokenizer(str(final))
    if cell.name != ILQL:
        return measure(policy, tokenizer, settings, seed=place.seed)
    heads = load_q_heads(final, policy.device)
    return {
        f"{beta:g}": measure(
            Perturbed(policy=policy, heads=heads, beta=beta), tokenizer, settings, seed=place.seed
        )
        for beta in settings.betas
    }


def measure(
    drawer: Drawer, tokenizer: PreTrainedTokenizerBase, settings: WalksSettings, *, seed: int
) -> dict[str, float]:
    """Mean optimality of walks from every start, and the share of shortest paths, in %."""
    prompts = [Prompt(content=spell([start])) for start in make_graph().starts]
    with drawer.active() as model:
        drawn = sample(
            model,
            [encode_prompt(tokenizer, prompt) for prompt in prompts],
            k=settings.drawn,
            stop_ids=stop_token_ids(tokenizer),
            sampling=SAMPLING,
            seed=1_000 + seed,
            row_keys=range(len(prompts)),
        )
    asked = [prompt for prompt, own in zip(prompts, drawn, strict=True) for _ in own]
    texts = [decode_completion(tokenizer, one.tokens) for own in drawn for one in own]
    return summary(optimality(asked, texts))


def summary(scores: Sequence[float]) -> dict[str, float]:
    """Mean, and the share of shortest paths, in %."""
    found = np.asarray(scores)
    return {"optimality": float(found.mean()), "shortest": 100 * float((found == 1).mean())}


def rows(settings: WalksSettings, results: StudyResults) -> Mapping[str, tuple[str, str]]:
    """What a line of the table is called -> its cell and, of ilql, the beta."""
    single = {name: (name, "") for name in results.numbers if name != ILQL}
    steered = {f"ilql, beta {beta:g}": (ILQL, f"{beta:g}") for beta in settings.betas}
    return single | (steered if ILQL in results.numbers else {})


def of(beta: str, name: str) -> Measure:
    """A number of a cell, or of one beta of it."""
    return lambda numbers: numbers[beta][name] if beta else numbers[name]


def report(settings: WalksSettings, results: StudyResults) -> StudyReport:
    """Optimality of every policy, and the Q-learner's by beta."""
    data = summary([one.value for one in scored_walks()])
    measured = tuple(
        (label, *(results.mean(cell, of(beta, name)) for name in ("optimality", "shortest")))
        for label, (cell, beta) in rows(settings, results).items()
    )
    return StudyReport(
        findings=tuple(_findings(settings, results)),
        table=StudyTable(
            columns=("policy", "optimality", "shortest paths, %"),
            rows=(("the data", data["optimality"], data["shortest"]), *measured),
        ),
        figure=StudyFigure(
            drawing=_drawing(settings, results), caption="optimality of walks by decoding beta"
        ),
        remarks=(
            "A walk's optimality is (10 - its nodes) / (10 - the shortest path's), and 0 if it does not arrive or takes a step that is no edge. The graph "
            "follows trlX's rules and is drawn by another generator, and the model is smaller than its GPT-2 of 6 layers, 144 wide, so the shape "
            "can be compared and not the third digit. trlX publishes its curves as run logs without a table.",
        ),
    )


def _findings(settings: WalksSettings, results: StudyResults) -> list[StudyFinding]:
    """What trlX's example shows, of the methods that were run."""
    found = []
    if ILQL in results.numbers:
        first, last = (f"{beta:g}" for beta in (min(settings.betas), max(settings.betas)))
        optimal = [of(beta, "optimality") for beta in (last, first)]
        gain = results.difference_of((ILQL, optimal[0]), (ILQL, optimal[1]))
        steps = [
            results.difference_of((ILQL, of(f"{b:g}", "optimality")), (ILQL, of(f"{a:g}", "optimality")))
            for a, b in zip(settings.betas, settings.betas[1:], strict=False)
        ]
        learned = results.difference_of((ILQL, optimal[0]), (SFT, "optimality"))
        found += [
            StudyFinding(
                expected="ILQL's optimality rises with the decoding beta (0, 1, 100 there)",
                source=TRLX,
                found=f"beta {last} less {first}: {with_interval(gain)}; from each beta to the next "
                + ", ".join(with_interval(step) for step in steps),
                holds=all_sure(sure(step, above=0.0) for step in steps),
            ),
            StudyFinding(
                expected="ILQL finds better walks than it has seen, without walking",
                source="arXiv:2206.11871",
                found=f"beta {last} less the likelihood of the same walks: {with_interval(learned)}",
                holds=sure(learned, above=0.0),
            ),
        ]
    if PPO in results.numbers:
        value = results.mean(PPO, "optimality")
        found.append(
            StudyFinding(
                expected="PPO comes near the shortest paths (optimality above 0.9)",
                source=TRLX,
                found=f"{with_interval(value)}",
                holds=sure(value, above=0.9),
            )
        )
    return found


def _drawing(settings: WalksSettings, results: StudyResults) -> str:
    levels = [
        ReferenceLine(value=results.mean(name, "optimality").value, label=name)
        for name in results.numbers
        if name != ILQL
    ]
    series = []
    if ILQL in results.numbers:
        line = [results.mean(ILQL, of(f"{beta:g}", "optimality")) for beta in settings.betas]
        series.append(
            Series(
                label=ILQL,
                x=[float(place) for place in range(len(line))],
                y=[point.value for point in line],
                low=[point.low for point in line],
                high=[point.high for point in line],
            )
        )
    said = ", ".join(f"{beta:g}" for beta in settings.betas)
    return line_chart(
        series,
        title="Optimality of walks",
        x_label=f"decoding beta of ilql: {said}",
        y_label="optimality",
        references=levels,
        frame=Frame(include=(0.0, 1.0), height=330),
    )


STUDY = Study(
    title="Random walks: ILQL beside online methods",
    question=(
        "Can a policy be put together from the good steps of 1,000 random walks, without walking once? A graph of 21 nodes has a goal; few "
        "of the walks are shortest paths. ILQL learns Q from the scored walks and decodes by it; PPO and expert iteration draw walks of their own."
    ),
    settings=WalksSettings,
    cells=cells,
    work=work,
    report=report,
    prepare=prepare,
)
