"""The whole loop: pretrain, SFT, sample, compare, reward model, PPO, DPO, judge, report. `plan` says with which settings."""

import random
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from prefloop.algorithms import critic_free, dpo, ppo, pretrain, reward, sft
from prefloop.algorithms.sample import sample_completions
from prefloop.configs.common import Data
from prefloop.configs.recipes import IMDBConfig, LoopSettings, RoundsConfig, ToyConfig
from prefloop.data.store import Filters, Store
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
from prefloop.evaluation.evaluate import (
    PolicyResults,
    Setting,
    TokenBudget,
    best_of_n_curve,
    evaluate_policies,
    evaluate_reward_model,
)
from prefloop.evaluation.reward_model_quality import BestOf, RewardModelQuality
from prefloop.evaluation.tables import policy_table, reward_model_lines
from prefloop.feedback.simulate import SimulatedAnnotator, agreement_ceiling, label_items
from prefloop.recipes import imdb, rounds, toy
from prefloop.recipes.clock import Clock
from prefloop.recipes.people import PEOPLE, AskedPeople, wait_for_people
from prefloop.recipes.plan import Plan
from prefloop.recipes.project import SETTINGS, enter
from prefloop.records import Prompt
from prefloop.runtime import World, start_world
from prefloop.runtime.environment import environment
from prefloop.runtime.files import writing
from prefloop.runtime.folder import withdraw
from prefloop.runtime.interrupt import Interrupted
from prefloop.runtime.machines import command, require_shared

ANNOTATOR = "simulated"
_MAY_DIFFER = ("out", "eval_prompts", "compute.")


def run_recipe(config: LoopSettings) -> Path:
    """Run a recipe's whole loop and return its report. Finished stages are kept when it is resumed.

    Raises:
        InputError: Something given is wrong; a project that was to be new is left as it was found.
        Interrupted: Ctrl-C or SIGTERM.
    """
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    project = Path(config.out)
    require_shared(world, project, what="a recipe")
    before = world.on_main(lambda: enter(project, config, may_differ=_MAY_DIFFER))
    clock = Clock(project, world)
    try:
        make, loop = _recipe(config)
        plan = clock.stage("prepare", lambda: world.on_main(lambda: _planned(make, project)))
    except InputError:
        if world.is_main and not before:
            withdraw(project, before)
        raise
    try:
        return loop(plan, clock, world)
    except KeyboardInterrupt as stop:
        # A stage would say how to resume itself; here the recipe resumes it.
        what = str(stop).partition("; resume with: ")[0] or "stopped"
        again = command(world, f"run {plan.recipe} --config {shlex.quote(str(project / SETTINGS))} --resume")
        raise Interrupted(f"{what}; resume with: {again}") from stop


def _for_people(plan: Plan) -> Plan:
    """The plan that reads what people said, and nothing that was simulated in the same store."""

    def read(data: Data) -> Data:
        return replace(data, select=replace(data.select, judged_by="human"))

    return replace(
        plan,
        reward=replace(plan.reward, data=read(plan.reward.data), batch_size=min(plan.reward.batch_size, 8)),
        dpo=replace(plan.dpo, data=read(plan.dpo.data), batch_size=min(plan.dpo.batch_size, 8)),
        notes=(
            *plan.notes,
            f"The comparisons are by people, {plan.settings.labels} or more of them; how noisy they are is not known.",
        ),
    )


Make = Callable[[Path], Plan]
Loop = Callable[[Plan, Clock, World], Path]


def _recipe(config: LoopSettings) -> tuple[Make, Loop]:
    """What says how a recipe's stages are run, and what runs them."""
    match config:
        case RoundsConfig():
            return (
                lambda project: rounds.plan(config, project),
                lambda plan, clock, world: rounds.loop(config, plan, clock, world, command=_command(plan)),
            )
        case ToyConfig():
            return (lambda project: toy.plan(config, project)), _loop
        case IMDBConfig():
            return (lambda project: imdb.plan(config, project)), _loop
        case _:
            raise AssertionError(type(config).__name__)


def _planned(make: Make, project: Path) -> Plan:
    """What the recipe does; its data is written into the project."""
    with writing(project, way_out="make room, then resume with --resume true"):
        return make(project)


def _loop(plan: Plan, clock: Clock, world: World) -> Path:
    if plan.settings.annotator == "studio":
        plan = _for_people(plan)
    project = plan.project
    annotator = SimulatedAnnotator(
        name=ANNOTATOR,
        utility=plan.gold.utility,
        temperature=plan.temperature,
        flip=plan.settings.flip,
        seed=plan.settings.seed,
        utility_sha256=plan.gold.sha256,
    )

    def train(name: str, work: Callable[[], object]) -> None:
        clock.train(name, project / name, work, resume=plan.settings.resume)

    for config in plan.pretrain:
        train("pretrain", lambda config=config: pretrain.train(config))
    train("sft", lambda: sft.train(plan.sft))
    clock.stage("sample", lambda: sample_completions(plan.sample))
    clock.stage("compare", lambda: world.on_main(lambda: _compare(plan, annotator)))
    train("reward", lambda: reward.train(plan.reward))
    train("ppo", lambda: ppo.train(plan.ppo))
    for config in plan.grpo:
        train("grpo", lambda config=config: critic_free.train(config))
    train("dpo", lambda: dpo.train(plan.dpo))
    results = clock.stage("evaluate", lambda: _evaluate(plan, annotator, world))
    report = world.on_main(lambda: _write(plan, results, clock))
    if world.is_main:
        _print_results(results, clock, report)
    return report


def _trained(plan: Plan) -> tuple[str, ...]:
    """The policies that preferences made."""
    return ("ppo", *("grpo" for _ in plan.grpo), "dpo")


def _compare(plan: Plan, annotator: SimulatedAnnotator) -> None:
    """Pair the samples and let the annotator judge a random choice of the pairs, or wait for people to judge some."""
    if plan.settings.annotator == "studio":
        asked = AskedPeople(
            project=plan.recipe,
            pairs=plan.pairs,
            labels=plan.settings.labels,
            heldout=plan.reward.data.heldout,
            seed=plan.settings.seed,
        )
        wait_for_people(plan.sample.store, asked)
        return
    with Store.open(plan.sample.store) as store:
        store.add_pairs(strategy="all", seed=plan.settings.seed)
        id = store.add_annotator(annotator.name, kind="simulated", settings=annotator.settings())
        done = len(store.comparisons(Filters(annotators=(annotator.name,))).records)
        waiting = store.open_items(id)
        chosen = random.Random(f"{plan.settings.seed} pairs").sample(
            waiting, min(max(0, plan.pairs - done), len(waiting))
        )
        labelled = label_items(store, annotator, sorted(chosen, key=lambda item: item.id))
    print(
        f"compare: {sum(labelled.choices.values())} judgements by {annotator.name}, {plan.settings.flip:.0%} of them flipped"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResults:
    """What evaluation found."""

    prompts: tuple[Prompt, ...]
    policies: PolicyResults
    quality: RewardModelQuality
    best_of: tuple[BestOf, ...]


def _evaluate(plan: Plan, annotator: SimulatedAnnotator, world: World) -> EvaluationResults:
    """Every policy on the same held-out prompts; the reward model on the comparisons of held-out prompts."""
    heldout, by_people = plan.reward.data.heldout, plan.settings.annotator == "studio"
    with Store.open(plan.sample.store) as store:
        prompts = tuple(store.prompts(part="heldout", heldout=heldout)[: plan.settings.eval_prompts])
        whose = PEOPLE if by_people else Filters(annotators=(annotator.name,))
        judged = store.comparisons(replace(whose, part="heldout", heldout=heldout)).records
    policies = {stage: str(plan.project / stage / "final") for stage in ("sft", *_trained(plan))}
    reward_model = str(plan.project / "reward" / "final")

    def setting(k: int) -> Setting:
        return Setting(
            sampling=plan.evaluation,
            completions_per_prompt=k,
            seed=plan.settings.seed + EVALUATION_SEED,
            max_prompt_tokens=plan.sample.data.max_prompt_tokens,
            compute=plan.settings.compute,
            world=world,
        )

    results = evaluate_policies(
        policies,
        prompts,
        setting(1),
        gold=plan.gold.utility,
        reward_model=reward_model,
        gold_is_log_odds=plan.gold_is_log_odds,
    )
    quality = evaluate_reward_model(
        reward_model,
        judged,
        budget=TokenBudget.of(plan.reward.data),
        compute=plan.settings.compute,
        world=world,
        gold=plan.gold.utility,
        ceiling=None if by_people else agreement_ceiling(judged, [annotator]),
    )
    best_of: tuple[BestOf, ...] = ()
    if plan.best_of:
        some = prompts[:BEST_OF_PROMPTS]
        best_of = best_of_n_curve(
            policies["sft"], reward_model, some, setting(plan.best_of), gold=plan.gold.utility
        )
    return EvaluationResults(prompts=prompts, policies=results, quality=quality, best_of=best_of)


EVALUATION_SEED = 1_000_003
"""Added to the seed, so that evaluation does not draw with the numbers that training drew with."""
BEST_OF_PROMPTS = 100


def _write(plan: Plan, results: EvaluationResults, clock: Clock) -> Path:
    """summary.json, evaluation.json and report.html."""
    project = plan.project
    with Store.open(plan.sample.store) as store:
        trees = [lineage(store, str(plan.project / stage / "final")).render() for stage in _trained(plan)]
    policies = tuple(
        replace(policy, checkpoint=str(Path(policy.checkpoint).relative_to(project)))
        for policy in results.policies.policies
    )
    settings = [*plan.pretrain, plan.sft, plan.sample, plan.reward, plan.ppo, *plan.grpo, plan.dpo]
    summary = Summary(
        recipe=plan.recipe,
        seconds=clock.seconds,
        peak_rss_mb=clock.peak_rss_mb,
        reward_model=RewardModelSummary(
            accuracy=results.quality.accuracy,
            ceiling=results.quality.ceiling,
            gold_accuracy=results.quality.gold_accuracy,
            checkpoint="reward/final",
        ),
        policies=policies,
        alarms=results.policies.alarms,
        notes=plan.notes,
        stages=clock.times,
        seed=plan.settings.seed,
        commands=(_command(plan),),
        settings={type(config).__name__: asdict(config) for config in settings},
        versions=environment(),
    )
    write_summary(project / "summary.json", summary)
    write_evaluation(
        project / "evaluation.json",
        Evaluation(
            prompts=results.prompts,
            policies=results.policies.evaluated,
            reward_model=results.quality,
            wins=results.policies.wins,
            best_of_n=results.best_of,
            lineage="\n\n".join(trees),
        ),
    )
    return write_report(project)


def _command(plan: Plan) -> str:
    """The command that makes the same numbers again: the settings that are not the defaults."""
    defaults = {field.name: field.default for field in fields(plan.settings)}
    words = ["prefloop", "run", plan.recipe]
    for name, default in defaults.items():
        value = getattr(plan.settings, name)
        if name not in ("compute", "resume") and value != default:
            words += [f"--{name}", shlex.quote(str(value))]
    return " ".join(words)


def _print_results(results: EvaluationResults, clock: Clock, report: Path) -> None:
    """The tables a user waits for."""
    print(f"\nreward model, held-out prompts: {reward_model_lines(results.quality)}\n")
    print(policy_table(results.policies.policies))
    for alarm in results.policies.alarms:
        print(f"! {alarm}")
    print(f"\n{clock.seconds:.0f} s, {clock.peak_rss_mb:.0f} MB. Report: {report}")
