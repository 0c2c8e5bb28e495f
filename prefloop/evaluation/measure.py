"""What `prefloop eval` reads, measures and writes; see `evaluate` for how policies are asked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from prefloop.configs.best_of_n import BestOfNConfig
from prefloop.configs.common import STORE, Data
from prefloop.configs.evaluate import EvalConfig
from prefloop.configs.scorers import reader
from prefloop.data.load import prompt_of
from prefloop.data.split import opening, split_key
from prefloop.data.store import Store
from prefloop.data.store import lineage as find_lineage
from prefloop.errors import InputError
from prefloop.evaluation.evaluate import (
    Gold,
    PolicyResults,
    Setting,
    TextMeasures,
    TokenBudget,
    evaluate_policies,
    evaluate_reward_model,
)
from prefloop.evaluation.over_training import checkpoints_in, series_alarms, series_of, step_of
from prefloop.evaluation.parts import choose_part, measured_data, models_named
from prefloop.evaluation.reward_model_quality import RewardModelQuality
from prefloop.evaluation.summary import (
    Evaluation,
    MeasuredData,
    PolicySummary,
    RewardModelSummary,
    Summary,
    write_evaluation,
    write_summary,
)
from prefloop.evaluation.text_metrics import check_metrics, references_of
from prefloop.evaluation.win_rate import WinMatrix
from prefloop.feedback.utility import find_gold, is_log_odds
from prefloop.loop import inputs
from prefloop.loop.provenance import same_models
from prefloop.loop.reading import Read, another, store_of
from prefloop.loop.scoring import bring_scorers
from prefloop.records import Comparison, Demonstration, Prompt
from prefloop.runtime.environment import environment
from prefloop.runtime.sending import bring
from prefloop.runtime.tune import peak_rss_mb
from prefloop.runtime.world import World
from prefloop.text import load_tokenizer

R = TypeVar("R", Prompt, Comparison)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """What an evaluation has found."""

    prompts: tuple[Prompt, ...]
    """What the policies were asked."""
    results: PolicyResults
    quality: RewardModelQuality | None
    """Of the reward model, where there are comparisons to measure it on."""
    data: tuple[MeasuredData, ...]
    """What was read for each of them; that of the reward model is the last."""


def measure(config: EvalConfig, world: World) -> Measurements:
    """Read all that is to be measured, then measure policies and reward model. All processes must call it; the first one's result is complete."""
    folders = world.on_main(lambda: policies_of(config.policies))
    bring_scorers(world, config.reward_model)
    same_models(world, *folders.values())
    models = models_named(tuple(folders.values()), config.reward_model)
    gold = gold_of(config, world)
    prompts: Found[Prompt] = Found(records=(), data=(), alarms=())
    comparisons: Found[Comparison] = Found(records=(), data=(), alarms=())
    # All that is to be measured is read before the first model runs.
    if config.comparisons:
        comparisons = _comparisons(config, models, world)
    results = PolicyResults(policies=(), evaluated=(), wins=WinMatrix(names=(), rates=()), alarms=())
    if folders:
        check_metrics(config.metrics)
        prompts = world.on_main(lambda: _prompts(config, next(iter(folders.values())), models, world))
        references = world.on_main(lambda: _references(config.metrics, config.data, prompts.records))
        results = evaluate_policies(
            folders,
            prompts.records,
            setting_of(config, world),
            gold=gold,
            gold_is_log_odds=bool(config.gold) and is_log_odds(config.gold),
            reward_model=config.reward_model,
            rules=config.reward,
            texts=TextMeasures(metrics=config.metrics, references=references),
        )
        past = world.on_main(lambda: series_alarms(results.evaluated, series_of(folders)))
        results = replace(results, alarms=(*results.alarms, *past))
    quality = _quality(config, comparisons.records, gold, world) if comparisons.records else None
    alarms = dict.fromkeys((*prompts.alarms, *comparisons.alarms))
    return Measurements(
        prompts=prompts.records,
        results=replace(results, alarms=(*results.alarms, *alarms)),
        quality=quality,
        data=(*prompts.data, *comparisons.data),
    )


def setting_of(config: EvalConfig | BestOfNConfig, world: World) -> Setting:
    """How policies are asked."""
    return Setting(
        sampling=config.sampling,
        completions_per_prompt=config.completions_per_prompt,
        seed=config.seed,
        max_prompt_tokens=config.data.max_prompt_tokens,
        truncate=config.data.overlong == "truncate",
        compute=config.compute,
        world=world,
    )


def gold_of(config: EvalConfig | BestOfNConfig, world: World) -> Gold | None:
    """The gold judge, where one is named. Collective: a fitted judge is sent to machines that do not see its folder."""
    bring(world, config.gold)
    return find_gold(config.gold)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[R]):
    """The records that are measured."""

    records: tuple[R, ...]
    data: tuple[MeasuredData, ...]
    """One, or none if nothing was to be read."""
    alarms: tuple[str, ...]


def policies_of(given: tuple[str, ...]) -> dict[str, str]:
    """Name -> folder, in the order given; a run's folder `checkpoints` is all of them, as NAME-STEP. Raises `InputError` for one without a name, or a name given
    twice."""
    folders: dict[str, str] = {}
    for policy in given:
        name, equals, folder = policy.partition("=")
        if not (equals and name and folder):
            raise InputError(
                f"policies has {policy!r}; write it as name=folder, for example sft=runs/first/sft/final"
            )
        checkpoints = checkpoints_in(folder)
        named = {f"{name}-{step_of(one)}": one for one in checkpoints} if checkpoints else {name: folder}
        for own, where in named.items():
            if own in folders:
                raise InputError(
                    f"policies names {own!r} twice, {folders[own]} and {where}; give each its own name"
                )
            folders[own] = where
    return folders


def _prompts(config: EvalConfig, model: str, models: Sequence[str], world: World) -> Found[Prompt]:
    """The prompts of the part that is asked for."""
    tokenizer = load_tokenizer(model, trust_remote_code=config.compute.trust_remote_code)
    train, heldout, read = inputs.prompts(
        config.data, tokenizer, _store(config), scorers=(config.reward_model, config.gold)
    )
    world.say(read.summary)
    parts = {"train": train.records, "heldout": heldout.records}
    return _found("prompts", config, config.data.source, parts, read, models)


def _references(metrics: Sequence[str], data: Data, prompts: Sequence[Prompt]) -> list[list[str]]:
    """What the source itself answers to each prompt; nothing if no metric is asked for."""
    if not metrics:
        return []
    known: dict[str, list[str]] = {}
    if data.source != STORE:
        for record in inputs.demonstrations_in(data):
            prompt = prompt_of(record)
            if isinstance(record, Demonstration):
                known.setdefault(prompt.sha256, []).append(record.completion)
            else:  # the last answer of a chat
                answers = record.messages[len(prompt.content) :][:1]
                known.setdefault(prompt.sha256, []).extend(str(answer.content) for answer in answers)
    return references_of(known, prompts, metrics, data.source)


def _comparisons(config: EvalConfig, models: Sequence[str], world: World) -> Found[Comparison]:
    """The comparisons of the part that is asked for."""
    model = reader(config.reward_model)
    tokenizer = load_tokenizer(model, trust_remote_code=config.compute.trust_remote_code)
    data = another(config.data, config.comparisons)
    found = inputs.comparisons(data, tokenizer, _store(config), world, to_train=False)
    world.say(found.read.summary)
    parts = {"train": found.train.records, "heldout": found.heldout.records}
    scorers = models_named((), config.reward_model)
    return world.on_main(
        lambda: _found("comparisons", config, config.comparisons, parts, found.read, scorers)
    )


def _found(
    what: str,
    config: EvalConfig,
    source: str,
    parts: Mapping[str, tuple[R, ...]],
    read: Read,
    models: Sequence[str],
) -> Found[R]:
    share = config.data.heldout
    everything = parts["train"] + parts["heldout"]
    asked = frozenset(opening(split_key(record)).sha256 for record in everything)
    chosen = choose_part(config.part, source, read, asked, models, _store(config), heldout=share)
    records = {**parts, "all": everything}[chosen.part]
    if not records:
        why = f": {chosen.why}" if chosen.why else ""
        raise InputError(
            f"{source}: no {what.removesuffix('s')} in part {chosen.part!r}{why} (heldout {share}); give more {what}, or part all"
        )
    data = measured_data(what, source, read, chosen, measured=len(records), known=len(everything))
    return Found(records=records, data=(data,), alarms=(chosen.alarm,) if chosen.alarm else ())


def _quality(
    config: EvalConfig, judged: Sequence[Comparison], gold: Gold | None, world: World
) -> RewardModelQuality:
    return evaluate_reward_model(
        config.reward_model,
        judged,
        budget=TokenBudget.of(config.data),
        compute=config.compute,
        world=world,
        gold=gold,
        rules=config.reward,
    )


def _store(config: EvalConfig) -> str:
    return store_of(str(Path(config.out) / "eval"), config.store)


def write_measurements(config: EvalConfig, found: Measurements, seconds: float) -> None:
    """summary.json and evaluation.json in the project folder, which the report reads."""
    project = Path(config.out)
    reward_model = None
    if found.quality:
        reward_model = RewardModelSummary(
            accuracy=found.quality.accuracy,
            ceiling=found.quality.ceiling,
            gold_accuracy=found.quality.gold_accuracy,
            checkpoint=config.reward_model,
        )
    summary = Summary(
        recipe="eval",
        seconds=seconds,
        peak_rss_mb=peak_rss_mb(),
        reward_model=reward_model,
        policies=found.results.policies,
        alarms=found.results.alarms,
        notes=tuple(map(str, found.data)),
        data=found.data,
        seed=config.seed,
        settings={"EvalConfig": asdict(config)},
        versions=environment(),
    )
    write_summary(project / "summary.json", summary)
    write_evaluation(
        project / "evaluation.json",
        Evaluation(
            prompts=found.prompts,
            policies=found.results.evaluated,
            reward_model=found.quality,
            wins=found.results.wins,
            best_of_n=found.results.best_of_n,
            lineage=_lineage(_store(config), found.results.policies),
        ),
    )


def _lineage(where: str, policies: Sequence[PolicySummary]) -> str:
    """The trees of the policies but the first that the project's store knows."""
    if "://" not in where and not Path(where).exists():
        return ""
    trees = []
    with Store.open(where, create=False) as store:
        for policy in policies[1:]:
            try:
                trees.append(find_lineage(store, policy.checkpoint).render())
            except InputError:
                continue  # made elsewhere
    return "\n\n".join(trees)
