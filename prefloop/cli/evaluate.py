"""`prefloop eval`, and what `prefloop reward` reports of the model it has trained."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from prefloop.algorithms import reward as training
from prefloop.cli.parts import Chosen, choose_part, measured_data, models_named
from prefloop.configs.evaluate import EvalConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.scorers import reader
from prefloop.data.split import opening, split_key
from prefloop.data.store import Store
from prefloop.data.store import lineage as find_lineage
from prefloop.errors import InputError
from prefloop.evaluation import (
    Evaluation,
    MeasuredData,
    RewardModelSummary,
    Summary,
    write_evaluation,
    write_summary,
)
from prefloop.evaluation.evaluate import PolicyResults, Setting, evaluate_policies, evaluate_reward_model
from prefloop.evaluation.json_files import encode, write_json
from prefloop.evaluation.reward_model_quality import RewardModelQuality
from prefloop.evaluation.tables import best_of_table, policy_table, reward_model_lines
from prefloop.evaluation.win_rate import WinMatrix
from prefloop.feedback.utility import find_utility, is_log_odds
from prefloop.loop.inputs import Read, comparisons, prompts, store_of
from prefloop.losses.reward_model import REWARD_LOSSES
from prefloop.records import Comparison, Prompt
from prefloop.runtime.environment import environment
from prefloop.runtime.tune import peak_rss_mb
from prefloop.runtime.world import World, start_world
from prefloop.text import load_tokenizer


def reward(config: RewardConfig) -> Path:
    """Train a reward model, then measure it on the comparisons that were held out; its folder.

    The numbers are printed and written to `heldout.json` in the run folder.
    """
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    if REWARD_LOSSES[config.loss].data not in ("comparisons", "rankings"):
        folder = training.train(config)
        if world.is_main:
            print(
                f"loss {config.loss} reads no comparisons; measure the model on some with `prefloop eval --comparisons`"
            )
        return folder
    data = config.data
    # Read before the first step: whatever the evaluation would refuse is refused while nothing is lost.
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    inputs = comparisons(data, tokenizer, store_of(config.run.out, config.run.store), world)
    heldout = inputs.heldout.records
    folder = training.train(config)
    if not heldout:
        if world.is_main:
            print("no comparison is held out, so the reward model is not measured; set data.heldout above 0")
        return folder
    quality = evaluate_reward_model(
        str(folder),
        heldout,
        compute=config.compute,
        world=world,
        max_prompt_tokens=data.max_prompt_tokens,
        max_completion_tokens=data.max_completion_tokens,
        truncate=data.overlong == "truncate",
    )
    known = len(inputs.train) + len(heldout)
    measured = measured_data(
        "comparisons", data.source, inputs.read, Chosen(part="heldout"), measured=len(heldout), known=known
    )
    if world.is_main:
        write_json(Path(config.run.out) / "heldout.json", {**encode(quality), "data": encode(measured)})
        print(f"reward model, held-out prompts: {reward_model_lines(quality)}\n  {measured}")
    return folder


def evaluate(config: EvalConfig) -> str:
    """Measure, print the tables, and write summary.json and evaluation.json; the project folder."""
    began = time.monotonic()
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    folders = policies_of(config.policies)
    models = models_named(tuple(folders.values()), config.reward_model)
    asked: tuple[Prompt, ...] = ()
    data: list[MeasuredData] = []
    alarms: list[str] = []
    # All that is to be measured is read before the first model runs.
    judged = _comparisons(config, models, world) if config.comparisons else None
    results = PolicyResults(policies=(), evaluated=(), wins=WinMatrix(names=(), rates=()), alarms=())
    if folders:
        found = world.on_main(lambda: _prompts(config, next(iter(folders.values())), models))
        asked = found.records
        data.append(found.data)
        alarms += found.alarms
        results = evaluate_policies(
            folders,
            asked,
            Setting(
                sampling=config.sampling,
                completions_per_prompt=config.completions_per_prompt,
                seed=config.seed,
                max_prompt_tokens=config.data.max_prompt_tokens,
                truncate=config.data.overlong == "truncate",
                compute=config.compute,
                world=world,
            ),
            gold=find_utility(config.gold) if config.gold else None,
            gold_is_log_odds=bool(config.gold) and is_log_odds(config.gold),
            reward_model=config.reward_model,
            rules=config.reward,
            say=print if world.is_main else _say_nothing,
        )
    quality = None
    if judged is not None:
        quality = _quality(config, judged.records, world)
        data.append(judged.data)
        alarms += judged.alarms
    results = replace(results, alarms=(*results.alarms, *dict.fromkeys(alarms)))
    if world.is_main:
        if folders:
            print(policy_table(results.policies))
        if results.best_of_n:
            print(f"best of n by the reward model, {next(iter(folders))}:")
            print(best_of_table(results.best_of_n))
        for alarm in results.alarms:
            print(f"! {alarm}")
        if quality:
            print(f"reward model, {PARTS[data[-1].part]}: {reward_model_lines(quality)}")
        for each in data:
            print(each)
        _write(config, asked, results, quality, tuple(data), time.monotonic() - began)
    return config.out


PARTS = {"heldout": "held-out prompts", "train": "prompts it may have been trained on", "all": "all prompts"}
R = TypeVar("R", Prompt, Comparison)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[R]):
    """The records that are measured."""

    records: tuple[R, ...]
    data: MeasuredData
    alarms: tuple[str, ...]


def _say_nothing(text: str) -> None:
    """What processes other than the first print."""


def policies_of(given: tuple[str, ...]) -> dict[str, str]:
    """Name -> folder, in the order given. Raises `InputError` for one without a name, or a name given twice."""
    folders: dict[str, str] = {}
    for each in given:
        name, equals, folder = each.partition("=")
        if not (equals and name and folder):
            raise InputError(
                f"policies has {each!r}; write it as name=folder, for example sft=runs/first/sft/final"
            )
        if name in folders:
            raise InputError(
                f"policies names {name!r} twice, {folders[name]} and {folder}; give each its own name"
            )
        folders[name] = folder
    return folders


def _prompts(config: EvalConfig, model: str, models: Sequence[str]) -> Found[Prompt]:
    """The prompts of the part that is asked for."""
    tokenizer = load_tokenizer(model, trust_remote_code=config.compute.trust_remote_code)
    train, heldout, read = prompts(config.data, tokenizer, _store(config))
    return _found("prompts", config, config.data.source, train.records, heldout.records, read, models)


def _comparisons(config: EvalConfig, models: Sequence[str], world: World) -> Found[Comparison]:
    """The comparisons of the part that is asked for."""
    model = reader(config.reward_model)
    tokenizer = load_tokenizer(model, trust_remote_code=config.compute.trust_remote_code)
    data = replace(config.data, source=config.comparisons)
    inputs = comparisons(data, tokenizer, _store(config), world, to_train=False)
    train, heldout = inputs.train.records, inputs.heldout.records
    scorers = models_named((), config.reward_model)
    return world.on_main(
        lambda: _found("comparisons", config, config.comparisons, train, heldout, inputs.read, scorers)
    )


def _found(
    what: str,
    config: EvalConfig,
    source: str,
    train: tuple[R, ...],
    heldout: tuple[R, ...],
    read: Read,
    models: Sequence[str],
) -> Found[R]:
    print(read.summary)
    share = config.data.heldout
    asked = frozenset(opening(split_key(record)).sha256 for record in train + heldout)
    chosen = choose_part(config.part, source, read, asked, models, _store(config), heldout=share)
    records = {"train": train, "heldout": heldout, "all": train + heldout}[chosen.part]
    if not records:
        why = f": {chosen.why}" if chosen.why else ""
        raise InputError(
            f"{source}: no {what.removesuffix('s')} in part {chosen.part!r}{why} (heldout {share}); give more {what}, or part all"
        )
    known = len(train) + len(heldout)
    data = measured_data(what, source, read, chosen, measured=len(records), known=known)
    return Found(records=records, data=data, alarms=(chosen.alarm,) if chosen.alarm else ())


def _quality(config: EvalConfig, judged: Sequence[Comparison], world: World) -> RewardModelQuality:
    gold = find_utility(config.gold) if config.gold else None
    return evaluate_reward_model(
        config.reward_model,
        judged,
        compute=config.compute,
        world=world,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_completion_tokens=config.data.max_completion_tokens,
        truncate=config.data.overlong == "truncate",
        gold=gold,
        rules=config.reward,
    )


def _store(config: EvalConfig) -> str:
    return store_of(str(Path(config.out) / "eval"), config.store)


def _write(
    config: EvalConfig,
    asked: tuple[Prompt, ...],
    results: PolicyResults,
    quality: RewardModelQuality | None,
    data: tuple[MeasuredData, ...],
    seconds: float,
) -> None:
    project = Path(config.out)
    reward_model = None
    if quality:
        reward_model = RewardModelSummary(
            accuracy=quality.accuracy, ceiling=quality.ceiling, gold_accuracy=quality.gold_accuracy,
            checkpoint=config.reward_model,
        )  # fmt: skip
    summary = Summary(
        recipe="eval",
        seconds=seconds,
        peak_rss_mb=peak_rss_mb(),
        reward_model=reward_model,
        policies=results.policies,
        alarms=results.alarms,
        notes=tuple(map(str, data)),
        data=data,
        seed=config.seed,
        settings={"EvalConfig": asdict(config)},
        versions=environment(),
    )
    write_summary(project / "summary.json", summary)
    write_evaluation(
        project / "evaluation.json",
        Evaluation(
            prompts=asked,
            policies=results.evaluated,
            reward_model=quality,
            wins=results.wins,
            best_of_n=results.best_of_n,
            lineage=_lineage(config, results),
        ),
    )


def _lineage(config: EvalConfig, results: PolicyResults) -> str:
    """The trees of the policies that the project's store knows."""
    if "://" not in _store(config) and not Path(_store(config)).exists():
        return ""
    trees = []
    with Store.open(_store(config), create=False) as store:
        for policy in results.policies[1:]:
            try:
                trees.append(find_lineage(store, policy.checkpoint).render())
            except InputError:
                continue  # made elsewhere
    return "\n\n".join(trees)
