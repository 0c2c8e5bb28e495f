"""`prefloop plan` and `prefloop align`: look, decide, say, ask, and do."""

import json
import shlex
import sys
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefloop.configs.align import AlignConfig, PlanConfig
from prefloop.configs.common import LoRA
from prefloop.data.hashing import content_hash
from prefloop.data.store import Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.evaluation import (
    Evaluation,
    RewardModelSummary,
    Summary,
    write_evaluation,
    write_report,
    write_summary,
)
from prefloop.evaluation.json_files import write_json
from prefloop.evaluation.tables import policy_table, reward_model_lines
from prefloop.evaluation.wording import with_interval
from prefloop.recipes.align.cost import Cost, Machine
from prefloop.recipes.align.decide import Decided, decide
from prefloop.recipes.align.estimate import StageEstimate
from prefloop.recipes.align.judges import check_judge
from prefloop.recipes.align.look import Seen, look
from prefloop.recipes.align.parts import drawn, prompts_of, write_all
from prefloop.recipes.align.results import Results, measure, to_json
from prefloop.recipes.align.screen import duration, screen
from prefloop.recipes.align.stages import Choice, Sizes, stages, start_of
from prefloop.recipes.clock import Clock
from prefloop.recipes.project import SETTINGS, check_free, enter
from prefloop.runtime import start_world
from prefloop.runtime.environment import environment
from prefloop.runtime.files import write_whole, writing
from prefloop.runtime.interrupt import Interrupted
from prefloop.runtime.machines import command, require_shared

PLAN = "plan.json"
"""What was decided and agreed to: a project that is gone on with keeps to it, whatever the machine measures then."""
_MAY_DIFFER = ("out", "compute.")


def plan(config: PlanConfig) -> Decided:
    """What `align` would do with these settings, and what it would take; nothing is written.

    Raises:
        InputError: Something given could not be trained on.
    """
    check_judge(config.judge)
    return decide(config, look(config), Path("OUT"))


def show_plan(config: PlanConfig) -> None:
    """Print the plan."""
    print(screen(plan(config)))


def align(config: AlignConfig) -> Path:
    """Train the model on the comparisons and return the report. Finished stages are kept when it is gone on with.

    Raises:
        InputError: Something given is wrong, nobody can be asked, or the answer was no; nothing has been written then.
        Interrupted: Ctrl-C or SIGTERM.
    """
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    project = Path(config.out)
    require_shared(world, project, what="align")
    decided = world.on_main(lambda: _ready(config, project))
    clock = Clock(project, world)
    try:
        for stage in decided.stages:
            clock.train(
                stage.name,
                project / stage.name,
                lambda stage=stage: stage.train(stage.settings),
                resume=config.resume,
            )
        start = start_of(config, project)
        results = clock.stage("evaluate", lambda: measure(decided, start, project, world))
    except KeyboardInterrupt as stop:
        what = str(stop).partition("; resume with: ")[0] or "stopped"
        again = command(world, f"align --config {shlex.quote(str(project / SETTINGS))} --resume true")
        raise Interrupted(f"{what}; resume with: {again}") from stop
    return world.on_main(lambda: _write(config, decided, results, clock, project))


def _ready(config: AlignConfig, project: Path) -> Decided:
    """Everything that is known before the first stage: looked at, decided, agreed to and written down."""
    check_free(project, resume=config.resume)
    check_judge(config.judge)
    agreed = project / PLAN
    if config.resume and agreed.exists():
        enter(project, config, may_differ=_MAY_DIFFER)
        return _agreed(config, json.loads(agreed.read_text(encoding="utf-8")), look(config), project)
    seen = look(config)
    decided = decide(config, seen, project, resume=config.resume)
    print(screen(decided), flush=True)
    if not config.yes:
        _ask()
    enter(project, config, may_differ=_MAY_DIFFER)
    with writing(project, way_out="make room, then resume with --resume true"):
        write_data(config, decided, project / "data")
        write_whole(agreed, json.dumps(_to_keep(decided), indent=1) + "\n")
    return decided


def _ask() -> None:
    """Go on only if somebody says so."""
    if not sys.stdin.isatty():
        raise InputError(
            "there is no terminal to ask whether to start; add --yes true to start, or look with `prefloop plan`"
        )
    if input("\nStart? [y/N] ").strip().lower() not in ("y", "yes"):
        raise InputError("not started; nothing was written")


def write_data(config: PlanConfig, decided: Decided, folder: Path) -> None:
    """What the stages read: the comparisons of each part, demonstrations and prompts, as `NAME.jsonl` in the folder."""
    seen, sizes = decided.seen, decided.sizes
    parts = {
        name: drawn(records, getattr(sizes, name), seed=config.seed, name=name)
        for name, records in seen.parts.items()
    }
    prompts = list(seen.prompts or prompts_of(parts["policy"]))
    demonstrations = drawn(seen.demonstrations, sizes.demonstrations, seed=config.seed, name="sft")
    write_all(folder, {**parts, "prompts": prompts, "demonstrations": demonstrations})


def _data_sha256(seen: Seen) -> str:
    return content_hash([one for part in seen.parts.values() for one in part])


def _to_keep(decided: Decided) -> dict[str, Any]:
    """A plan as JSON."""
    return {
        "data_sha256": _data_sha256(decided.seen),
        "sizes": asdict(decided.sizes),
        "machine": asdict(decided.machine),
        "lora": asdict(decided.choice.lora),
        "dtype": decided.choice.compute.dtype,
        "micro_batch_tokens": decided.choice.compute.micro_batch_tokens,
        "gradient_checkpointing": decided.choice.compute.gradient_checkpointing,
        "why": decided.why,
        "free_mib": decided.free_mib,
        "stages": [{"stage": estimate.stage, **asdict(estimate.cost)} for estimate in decided.estimates],
    }


def _agreed(config: AlignConfig, kept: dict[str, Any], seen: Seen, project: Path) -> Decided:
    """The plan that a project was begun with. Raises `InputError` if the comparisons have changed since."""
    if kept["data_sha256"] != _data_sha256(seen):
        raise InputError(
            f"{config.data.source} no longer holds the comparisons that {project} was started with; restore the file, or start again with another --out"
        )
    compute = replace(
        config.compute,
        **{name: kept[name] for name in ("dtype", "micro_batch_tokens", "gradient_checkpointing")},
    )
    lora = LoRA(**{**kept["lora"], "targets": tuple(kept["lora"]["targets"])})
    sizes, choice = Sizes(**kept["sizes"]), Choice(lora=lora, compute=compute)
    return Decided(
        config=config,
        seen=seen,
        machine=Machine(**kept["machine"]),
        choice=choice,
        why=kept["why"],
        sizes=sizes,
        stages=stages(config, seen, sizes, choice, project, resume=True),
        estimates=tuple(
            StageEstimate(stage=stage["stage"], cost=Cost(seconds=stage["seconds"], mib=stage["mib"]))
            for stage in kept["stages"]
        ),
        free_mib=kept["free_mib"],
    )


def _write(config: AlignConfig, decided: Decided, results: Results, clock: Clock, project: Path) -> Path:
    """align.json, summary.json, evaluation.json and report.html; prints the tables. The report."""
    took = {spent.stage: spent.seconds for spent in clock.times}
    with Store.open(str(project / "prefloop.db")) as store:
        trees = [lineage(store, str(project / name / "final")).render() for name in config.method]
    quality, shape = results.judge, decided.seen.shape
    policies = tuple(
        replace(policy, checkpoint=_relative(policy.checkpoint, project))
        for policy in results.policies.policies
    )
    summary = Summary(
        recipe="align",
        seconds=clock.seconds,
        peak_rss_mb=clock.peak_rss_mb,
        reward_model=RewardModelSummary(
            accuracy=quality.accuracy,
            ceiling=quality.ceiling,
            checkpoint="judge/final" if config.judge == "reward" else "",
        ),
        policies=policies,
        alarms=results.alarms,
        notes=_notes(decided, results, took),
        stages=clock.times,
        seed=config.seed,
        commands=(_command(config),),
        settings={stage.name: asdict(stage.settings) for stage in decided.stages},
        versions=environment(),
        verdict=results.verdict,
        about={
            "Date": datetime.now(UTC).strftime("%d %B %Y").lstrip("0"),
            "Model": f"{config.model} ({shape.name})",
            "Comparisons": f"{decided.sizes.policy:,} trained on, {decided.sizes.judge:,} for the judge, {decided.sizes.measure:,} to measure it",
        },
        start="the start",
        judge=results.called,
    )
    write_json(project / "align.json", to_json(results, took, decided))
    write_summary(project / "summary.json", summary)
    write_evaluation(
        project / "evaluation.json",
        Evaluation(
            prompts=results.prompts,
            policies=results.policies.evaluated,
            reward_model=quality,
            lineage="\n\n".join(trees),
        ),
    )
    report = write_report(project)
    print(
        f"\n{policy_table(policies, gold='judge')}\n\nthe judge on comparisons that it has not seen: {reward_model_lines(quality)}"
    )
    if results.reward_model is not None:
        print(f"\nthe policies' reward model on the same: {reward_model_lines(results.reward_model)}")
    for alarm in results.alarms:
        print(f"! {alarm}")
    print(f"\n{results.verdict}\n\n{clock.seconds:.0f} s, {clock.peak_rss_mb:.0f} MB. Report: {report}")
    return report


def _notes(decided: Decided, results: Results, took: dict[str, float]) -> tuple[str, ...]:
    """What a reader of the report must know."""
    author = results.author or "people or models that the file does not name"
    notes = [
        f"The comparisons are by {author}. Policies, judge and measurement use different prompts, so no evaluation data was trained on.",
        *(
            f"{outcome.name}: preferred on {with_interval(outcome.wins, share=True)}"
            + (
                f", at equal length {with_interval(outcome.at_equal_length, share=True)}"
                if outcome.at_equal_length
                else ""
            )
            + f"; answers {outcome.longer:+.0%} in length"
            + (f"; no answer from the judge on {outcome.unjudged} pairs" if outcome.unjudged else "")
            + "."
            for outcome in results.outcomes
        ),
    ]
    if results.reward_model is not None:
        notes.append(
            f"The policies' own reward model is right on {with_interval(results.reward_model.accuracy, share=True)} of the held-out comparisons."
        )
    left_out = [f"{count:,} {why}" for why, count in decided.seen.left_out.items()]
    if left_out:
        notes.append(f"Left out of {decided.seen.read.read:,} rows: {', '.join(left_out)}.")
    pairs = [
        f"{estimate.stage} {duration(estimate.cost.seconds)} and {duration(took[estimate.stage])}"
        for estimate in decided.estimates
        if estimate.stage in took
    ]
    notes.append(f"Estimated and taken: {', '.join(pairs)}.")
    return tuple(notes)


def _relative(folder: str, project: Path) -> str:
    """A folder named from the project, where it lies in it."""
    path = Path(folder)
    return str(path.relative_to(project)) if path.is_relative_to(project) else folder


def _command(config: AlignConfig) -> str:
    """The command that makes the same numbers again: the settings that are not the defaults."""
    return " ".join(["prefloop align", *_flags(config, "")])


def _flags(settings: Any, prefix: str) -> list[str]:
    words: list[str] = []
    for field in fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            words += _flags(value, f"{name}.")
        elif value != field.default and name not in ("resume", "yes"):
            items = value if isinstance(value, tuple) else (value,)
            words += [
                f"--{'data' if name == 'data.source' else name}",
                *(shlex.quote(str(item)) for item in items),
            ]
    return words
