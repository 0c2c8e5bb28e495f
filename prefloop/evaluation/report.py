"""The report: one HTML file with everything inside, no script, no request to anywhere, rebuilt from what a project folder holds.

Texts in it were written by models and by strangers. All are escaped, hidden characters are spelt out, and the page's own policy forbids
scripts, frames and anything from elsewhere, should one slip through.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from prefloop.errors import InputError
from prefloop.evaluation import report_figures as figures
from prefloop.evaluation.json_files import write_text
from prefloop.evaluation.metrics_log import MetricsLog, read_metrics
from prefloop.evaluation.plots import DARK, LIGHT, STYLE
from prefloop.evaluation.summary import (
    EvaluatedCompletion,
    Evaluation,
    PolicySummary,
    Summary,
    read_evaluation,
    read_summary,
)
from prefloop.evaluation.training_curves import Figure, training
from prefloop.evaluation.visible_text import shown, shown_html
from prefloop.evaluation.wording import interval_of, number, percent, value_of
from prefloop.records import Prompt

STAGES: Mapping[str, str] = {
    "pretrain": "Pretraining",
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "ppo": "PPO",
    "dpo": "DPO",
}
"""Folders that a project's stages log into, and their headings."""
FURTHER_STAGES: Mapping[str, str] = {
    "judge": "Judge",
    "ipo": "IPO",
    "simpo": "SimPO",
    "orpo": "ORPO",
    "grpo": "GRPO",
    "rloo": "RLOO",
    "online_dpo": "Online DPO",
}
"""Those that only some projects have."""
SHARES = ("win_rate_vs_sft", "repetition", "positive_share", "ended", "duplicates")
"""Estimates that are written as per cent."""
HEADINGS: Mapping[str, str] = {
    "win_rate_vs_sft": "Win rate vs SFT",
    "gold": "Gold score",
    "proxy": "Reward-model score",
    "kl": "KL to SFT",
    "length": "Length",
    "repetition": "Repetition",
    "perplexity_under_sft": "Perplexity under SFT",
    "positive_share": "Positive",
    "ended": "Ended by itself",
}
SAMPLES_AT_ONCE = 6
SAMPLES_AT_MOST = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """What a project folder holds. A piece that is not there is None or absent, and `missing` says so."""

    project: str
    """Name of the folder."""
    summary: Summary | None
    evaluation: Evaluation | None
    metrics: Mapping[str, MetricsLog]
    """By stage."""
    missing: tuple[str, ...] = ()
    """A sentence for each piece that was not found or not whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A number in a table, and its interval."""

    value: str
    interval: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRow:
    """A line of the headline table."""

    name: str
    slot: int
    checkpoint: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownCompletion:
    """One policy's completion in a sample."""

    policy: str
    slot: int
    text: str
    facts: tuple[str, ...]
    """Scores and length, as said beneath it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A prompt with every policy's answer."""

    number: int
    turns: tuple[tuple[str, str], ...]
    """(role, text); a plain prompt is one turn without a role."""
    answers: tuple[ShownCompletion, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCurves:
    """Training of one stage."""

    heading: str
    figures: tuple[Figure, ...]
    others: tuple[Figure, ...] = field(default=())


def collect(project_dir: str | Path) -> ReportData:
    """Read `summary.json`, `evaluation.json` and every stage's `metrics.jsonl`; what is not there is named in `missing`.

    Raises `InputError` if the folder is not there, holds none of them, or a file in it is broken.
    """
    folder = Path(project_dir)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {problem}; give the project folder that `prefloop run` wrote with --out")
    missing = []
    summary = evaluation = None
    if (folder / "summary.json").exists():
        summary = read_summary(folder / "summary.json")
    else:
        missing.append(
            "There is no summary.json, so the table of results is left out; `prefloop eval` writes it."
        )
    if (folder / "evaluation.json").exists():
        evaluation = read_evaluation(folder / "evaluation.json")
    else:
        missing.append(
            "There is no evaluation.json, so samples and reward-model tables are left out; `prefloop eval` writes it."
        )
    metrics = {}
    ran = {done.stage for done in summary.stages} if summary else set[str]()
    for stage, heading in {**STAGES, **FURTHER_STAGES}.items():
        path = folder / stage / "metrics.jsonl"
        if not path.exists():
            if stage in FURTHER_STAGES or (summary and summary.recipe == "align" and stage not in ran):
                continue  # no stage of this project
            missing.append(f"There is no {stage}/metrics.jsonl, so the curves of {heading} are left out.")
            continue
        metrics[stage] = read_metrics(path)
        if bad := metrics[stage].unreadable:
            lines = (
                f"line {bad[0]} is" if len(bad) == 1 else f"{len(bad)} lines, the first of them {bad[0]}, are"
            )
            missing.append(f"In {stage}/metrics.jsonl {lines} not readable and left out.")
    if summary is None and evaluation is None and not metrics:
        raise InputError(
            f"{folder} holds no summary.json, no evaluation.json and no stage's metrics.jsonl; give the project folder that `prefloop run` wrote with --out"
        )
    return ReportData(
        project=folder.resolve().name,
        summary=summary,
        evaluation=evaluation,
        metrics=metrics,
        missing=tuple(missing),
    )


def write_report(project_dir: str | Path) -> Path:
    """Build `report.html` in the project folder from what is there; returns its path."""
    data = collect(project_dir)
    path = Path(project_dir) / "report.html"
    write_text(path, build_report(data))
    return path


def build_report(data: ReportData) -> str:
    """The page. The same data always give the same bytes."""
    summary, evaluation = data.summary, data.evaluation
    slots = policy_slots(data)
    samples = held_out_samples(evaluation, slots) if evaluation else []
    columns, rows = headline_table(summary, slots) if summary else ([], [])
    page = _template().render(
        title=f"prefloop report: {summary.recipe if summary else data.project}",
        project=data.project,
        start=summary.start if summary else "SFT",
        judge=summary.judge if summary else "the gold judge",
        gold=heading("gold", summary) if summary else figures.GOLD,
        summary=summary,
        facts=_facts(summary) if summary else [],
        columns=columns,
        rows=rows,
        cards=headline_cards(summary, slots) if summary else [],
        outcome=[
            *(
                f
                for f in (figures.win_rates(summary, slots), figures.frontier(summary, evaluation, slots))
                if f
            ),
            *figures.over_training(summary),
        ],
        head_to_head=head_to_head(evaluation) if evaluation else [],
        samples=samples[:SAMPLES_AT_ONCE],
        more_samples=samples[SAMPLES_AT_ONCE:],
        prompts=len(evaluation.prompts) if evaluation else 0,
        text_figures=figures.text_changes(summary, evaluation, slots),
        reward_figures=_reward_figures(summary, evaluation),
        best_of_n=figures.over_optimisation(evaluation.best_of_n) if evaluation else [],
        stages=[_stage(stage, log) for stage, log in data.metrics.items()],
        lineage=evaluation.lineage if evaluation else "",
        timings=figures.timings(summary.stages) if summary else None,
        settings=yaml.safe_dump(_plain(summary.settings), sort_keys=False, allow_unicode=True)
        if summary and summary.settings
        else "",
        missing=data.missing,
        chart_style=Markup(STYLE),
        light=LIGHT,
        dark=DARK,
    )
    return page.strip() + "\n"


def policy_slots(data: ReportData) -> dict[str, int]:
    """Each policy's colour: the first grey, the others in order of appearance."""
    names = [p.name for p in (data.summary.policies if data.summary else ())]
    names += [p.name for p in (data.evaluation.policies if data.evaluation else ())]
    return {name: slot for slot, name in enumerate(dict.fromkeys(names))}


def heading(name: str, summary: Summary) -> str:
    """Of a column, with what this project's start and judge are called."""
    text = HEADINGS.get(name, name.replace("_", " ").capitalize())
    return text.replace(figures.GOLD, figures.judged_by(summary)).replace("SFT", summary.start)


def headline_table(
    summary: Summary, slots: Mapping[str, int]
) -> tuple[list[tuple[str, str]], list[PolicyRow]]:
    """Columns (heading, unit) and a row a policy; a column that no policy has is not there."""
    known = ("win_rate_vs_sft", "gold", "proxy", "kl", "length", "repetition")
    further = dict.fromkeys(name for p in summary.policies for name in p.further)
    names = [n for n in known if any(getattr(p, n) is not None for p in summary.policies)] + list(further)
    columns = [(heading(name, summary), summary.units.get(name, "")) for name in names]
    rows = [
        PolicyRow(
            name=p.name,
            slot=slots[p.name],
            checkpoint=p.checkpoint,
            cells=tuple(_cell(p, name, first=i == 0) for name in names),
        )
        for i, p in enumerate(summary.policies)
    ]
    return columns, rows


def headline_cards(summary: Summary, slots: Mapping[str, int]) -> list[dict[str, Any]]:
    """For each policy trained from the first: its win rate in large, and what it cost."""
    if not summary.policies:
        return []
    start = summary.policies[0]
    cards = []
    for p in summary.policies[1:]:
        if p.win_rate_vs_sft is None:
            continue
        lines = [("KL", f"{value_of(p.kl)} {summary.units.get('kl', '')}")]
        if p.gold and start.gold:
            lines.append((heading("gold", summary), f"{value_of(start.gold)} → {value_of(p.gold)}"))
        if p.proxy and start.proxy:
            lines.append(("Reward model", f"{value_of(start.proxy)} → {value_of(p.proxy)}"))
        lines.append(
            (
                "Length",
                f"{value_of(start.length)} → {value_of(p.length)} {summary.units.get('length', '')}",
            )
        )
        cards.append(
            {
                "name": p.name,
                "slot": slots[p.name],
                "rate": percent(p.win_rate_vs_sft.value),
                "interval": interval_of(p.win_rate_vs_sft, share=True),
                "n": p.win_rate_vs_sft.n,
                "lines": lines,
            }
        )
    return cards


def head_to_head(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    """Row policy's win rate against each column policy, where more than two were compared."""
    names = evaluation.wins.names
    if len(names) < 3:
        return []

    def cell(a: str, b: str) -> Cell:
        rate = evaluation.wins.rate(a, b)
        return (
            Cell(value="–")
            if rate is None
            else Cell(value=value_of(rate, share=True), interval=interval_of(rate, share=True))
        )

    return [(a, [cell(a, b) for b in names]) for a in names]


def held_out_samples(evaluation: Evaluation, slots: Mapping[str, int]) -> list[Sample]:
    """The first prompts in the order of evaluation, none picked, with the first completion of every policy."""
    samples = []
    for i, prompt in enumerate(evaluation.prompts[:SAMPLES_AT_MOST]):
        answers = [
            ShownCompletion(
                policy=p.name,
                slot=slots[p.name],
                text=p.completions[i][0].text,
                facts=_answer_facts(p.completions[i][0]),
            )
            for p in evaluation.policies
            if i < len(p.completions) and p.completions[i]
        ]
        if answers:
            samples.append(Sample(number=i + 1, turns=_turns(prompt), answers=tuple(answers)))
    return samples


def _turns(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    if isinstance(prompt.content, str):
        return (("", prompt.content),)
    return tuple((message.role, message.shown) for message in prompt.content)


def _answer_facts(completion: EvaluatedCompletion) -> tuple[str, ...]:
    facts = []
    if completion.gold is not None:
        facts.append(f"gold {number(completion.gold)}")
    if completion.proxy is not None:
        facts.append(f"reward model {number(completion.proxy)}")
    facts.append(f"{completion.tokens} tokens")
    if not completion.ended:
        facts.append("cut off at the limit")
    return tuple(facts)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    """The line under the title."""
    facts = [
        *summary.about.items(),
        ("Time", figures.duration(summary.seconds)),
        ("Peak memory", f"{summary.peak_rss_mb:,.0f} MiB"),
    ]
    if summary.seed is not None:
        facts.append(("Seed", str(summary.seed)))
    if "prefloop" in summary.versions:
        facts.append(("prefloop", summary.versions["prefloop"]))
    return [(name, value) for name, value in facts if "nan" not in value]


def _reward_figures(summary: Summary | None, evaluation: Evaluation | None) -> list[Figure]:
    quality = evaluation.reward_model if evaluation else None
    found = [figures.reward_model_accuracy(summary.reward_model if summary else None, quality)]
    if quality:
        found += [figures.accuracy_by_length(quality), figures.calibration(quality)]
    return [figure for figure in found if figure]


def _stage(stage: str, log: MetricsLog) -> StageCurves:
    main, others = training(stage, log)
    return StageCurves(heading={**STAGES, **FURTHER_STAGES}[stage], figures=tuple(main), others=tuple(others))


def _cell(policy: PolicySummary, name: str, *, first: bool) -> Cell:
    estimate = policy.further.get(name) or getattr(policy, name, None)
    # The first policy is what the others are compared with; "50 %" there would look like a result.
    if estimate is None or (first and name == "win_rate_vs_sft"):
        return Cell(value="–")
    return Cell(
        value=value_of(estimate, share=name in SHARES), interval=interval_of(estimate, share=name in SHARES)
    )


def _plain(settings: Mapping[str, Any]) -> Any:
    """Only dicts, lists and scalars, which is what YAML's safe writer takes."""
    return json.loads(json.dumps(settings, default=str))


def _template():
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever is put into the page, in text or in an attribute, has its hidden characters spelt out first.
        finalize=lambda value: value if isinstance(value, Markup) else shown(str(value)),
    )
    environment.filters["marked"] = lambda value: Markup(shown_html(value))
    environment.filters["svg"] = Markup
    return environment.from_string(
        files("prefloop.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    )
