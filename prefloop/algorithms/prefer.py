"""Training a policy directly on preferences, by any objective of `losses/objectives.py`.

One loop for pairwise, listwise and unary objectives: an objective says by its parameters what it needs, and only that is computed. Without a
reference none is loaded; with one that stands still its log-probabilities are computed once, token by token, and kept on disk; one that moves
(`follow`), or whose whole next-token distribution is needed (TDPO), stays in memory. What an objective needs of the whole step is computed first,
without gradient, so cutting a step differently changes nothing.

Logged: loss; of comparisons accuracy (share with the higher implicit reward for the chosen completion, ties half), margin, reward_chosen,
reward_rejected, logp_chosen, logp_rejected, nll (of chosen, per token); of rankings accuracy and margin (over all pairs), reward_best, logp_best, nll; of
labels reward_good, reward_bad, logp_good, logp_bad; of scores reward, error (root not taken), value; statistics of the step that the objective has;
lr, grad_norm, skipped; and the same of held-out examples as heldout_*.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from prefloop.configs.functions import find_function
from prefloop.configs.prefer import PreferConfig
from prefloop.errors import InputError
from prefloop.loop.batches import Batches
from prefloop.loop.density_ratio import odds_of, prompt_features
from prefloop.loop.inputs import (
    Examples,
    Inputs,
    examples,
    refuse_one_kind,
    refuse_soft_labels,
    store_of,
)
from prefloop.loop.objective_step import (
    Part,
    Task,
    Whole,
    add_metrics,
    best_nll,
    losses_of,
    numbers_of,
)
from prefloop.loop.provenance import START, Models, models_read
from prefloop.loop.reference import reference_tokens
from prefloop.loop.roles import check_room, open_policy, open_reference, replayable
from prefloop.loop.session import open_run
from prefloop.loop.shown import show_completions
from prefloop.losses import check_start, example_mean, mean_over
from prefloop.losses.objectives import (
    OBJECTIVES,
    Objective,
    Setting,
    call,
    objective_of,
    parameters,
    settings_of,
    unknown_objective,
)
from prefloop.losses.quantities import TokenNumbers, quantities
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy, scalar_head
from prefloop.records import Comparison, Label, Score
from prefloop.runtime import Metrics, Run, StateTree, Updater, start_world
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group

BESIDE = {"comparisons": "chosen", "rankings": "best", "labels": "labelled", "scores": "scored"}
"""What a group's first completion is called beside the policy's own."""
HEADLINES = {
    "comparisons": ("accuracy", "margin"),
    "rankings": ("loss", "accuracy"),
    "labels": ("reward_good", "reward_bad"),
    "scores": ("loss", "error"),
}


def train(config: PreferConfig) -> Path:
    """Train and return the folder of the finished policy."""
    return train_objective(config, stage="prefer", recorded=config)


def train_objective(config: PreferConfig, *, stage: str, recorded: Any) -> Path:
    """As `train`, as the command `stage` whose settings are `recorded`."""
    objective = find_objective(config.loss)
    settings = settings_of(objective, config.settings, loss=config.loss)
    _check(config, objective)
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    store = store_of(config.run.out, config.run.store)
    inputs = examples(
        objective.data, config.data, tokenizer, store, world, from_comparisons=config.from_comparisons
    )
    _check_labels(config, objective, inputs)
    models = models_read(
        world,
        model=config.model,
        reference=config.reference if objective.needs.reference else "",
        reference_last=config.reference_last,
    )
    batches = Batches(count=len(inputs.train), size=config.batch_size, seed=config.run.seed)
    with open_run(
        recorded,
        stage=stage,
        world=world,
        tokenizer=tokenizer,
        reads={"data": inputs.read},
        models=models,
        steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
        headline=HEADLINES[objective.data],
    ) as session:
        run = session.run
        opened = open_policy(config.model, tokenizer, config.lora, config.compute, run)
        check_room(opened.role, inputs.train, inputs.heldout)
        session.begin()
        task = _open_task(config, objective, settings, opened.role, models, tokenizer, run)
        parts = (inputs.train, _usable(inputs.heldout, objective))
        train_part, heldout_part = _with_reference(task, parts, config, models, tokenizer, run)
        updater = session.updater(*task.parameters(config.optim), updates=run.total_steps)
        running = Running(objective.running)

        at_start = models.reference_is_start() and not config.reference_last
        unchecked = not run.start and objective.needs.reference and at_start
        for step in session.steps(save=opened.save, updater=updater, running=running, task=task):
            part = train_part.at(world.share(batches.at(step)))
            metrics = _step(config, task, updater, part, running, step, check=unchecked)
            unchecked = unchecked and bool(metrics["skipped"])  # a step that was skipped has changed nothing
            if config.follow.every and step % config.follow.every == 0:
                task.follow(config.follow.rate)
            if session.due(step, config.eval_every):
                metrics |= _heldout_metrics(config, task, heldout_part, running.values)
                shown = inputs.heldout.groups or inputs.train.groups
                show_completions(run, step, opened.role, tokenizer, shown, beside=BESIDE[objective.data])
            run.log(step, metrics)
        return session.finish()


class Running:
    """Statistics that an objective carries from step to step, by name."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = dict(values)

    def state(self) -> StateTree:
        """For a checkpoint."""
        return self.values

    def load_state(self, state: StateTree) -> None:
        """Go on from what `state` gave."""
        self.values = dict(state)


def find_objective(name: str) -> Objective:
    """A named objective, or a function of the user's. Raises `InputError` with the nearest name."""
    if ":" in name:
        return objective_of(find_function(name, what="loss"), name=name)
    if name not in OBJECTIVES:
        raise InputError(unknown_objective(name))
    return OBJECTIVES[name]


def _check(config: PreferConfig, objective: Objective) -> None:
    """Settings that contradict the objective."""
    if config.sft_coef and objective.data not in ("comparisons", "rankings"):
        raise InputError(
            f"sft_coef is {config.sft_coef}, but {config.loss} trains on {objective.data}, which name no best completion; leave it at 0"
        )
    if config.from_comparisons and objective.data != "labels":
        raise InputError(
            f"from_comparisons is on, but {config.loss} trains on {objective.data}, not labels; leave it off"
        )
    if config.reference_last and (config.loss != "d2o" or config.follow.every):
        raise InputError(
            f"reference_last is {config.reference_last}, but {config.loss}{' with follow.every' if config.follow.every else ''} has one reference; "
            "leave it out, or take loss d2o without follow.every"
        )
    if not objective.needs.reference:
        for name, given in (("reference", config.reference), ("follow.every", config.follow.every)):
            if given:
                raise InputError(
                    f"{name} is {given}, but {config.loss} has no reference; leave it out, or choose another loss"
                )


def _check_labels(config: PreferConfig, objective: Objective, inputs: Inputs[Any]) -> None:
    """Refuse labels that say nothing, and soft ones where the objective has no meaning for them: to train as if they were certain is not what was asked."""
    if (
        config.loss != "npo" and ":" not in config.loss
    ):  # npo unlearns bad completions, and needs no good ones
        refuse_one_kind(inputs, f"loss {config.loss}")
    if not objective.takes_soft_labels:
        losses = [name for name, each in OBJECTIVES.items() if each.takes_soft_labels]
        refuse_soft_labels(inputs, f"loss {config.loss}", f"take one of {', '.join(losses)}")


def _open_task(
    config: PreferConfig,
    objective: Objective,
    settings: Mapping[str, Setting],
    policy: Policy,
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
) -> Task:
    live: tuple[Policy, ...] = ()
    if objective.needs.forward_kl or config.follow.every:
        if config.lora.on and not config.reference:
            live = (policy.frozen_copy(),)
        elif run.start or config.reference:
            live = (open_reference(_reference_name(models), tokenizer, config.compute),)
        else:
            live = (policy.frozen_copy(),)
    heads: tuple[nn.Linear, ...] = ()
    if objective.needs.value:
        if not policy.linear_head:
            raise InputError(
                f"{config.loss} predicts scores from the policy's last hidden state, which {config.model} does not give; choose another model"
            )
        generator = torch.Generator().manual_seed(config.run.seed)
        width = policy.model.config.get_text_config().hidden_size
        heads = (scalar_head(width, std=0.0, generator=generator).to(policy.device),)
    return Task(
        loss=config.loss,
        objective=objective,
        settings=settings,
        policy=policy,
        live_reference=live,
        value_heads=heads,
        moves=config.follow.every > 0,
        tokens=config.compute.micro_batch_tokens,
        world=run.world,
    )


def _reference_name(models: Models) -> str:
    """The reference's, or that of the model the policy starts from."""
    return models.names.get("reference", models.names[START])


def _with_reference(
    task: Task,
    parts: Sequence[Examples[Any]],
    config: PreferConfig,
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
) -> list[Part]:
    """Examples with the reference's log-probabilities, computed now or read from the cache, where the objective needs them and they stay."""
    needs, nothing = task.objective.needs, torch.empty(0)
    mismatched = [_mismatched(part.groups, task.loss) if needs.mismatched else [] for part in parts]
    keeps = needs.reference and not task.live_reference

    def kept(groups: Sequence[Sequence[Group]]) -> list[list[Tensor]]:
        return _kept(task, groups, config, models, tokenizer, run)

    odds = _prompt_odds(task, parts, config, models, tokenizer, run) if needs.prompt_odds else []
    both = kept([*(part.groups for part in parts), *mismatched]) if keeps else []  # they share their prompts
    own, others = both[: len(parts)], both[len(parts) :]
    if config.reference_last:
        own = _with_last(own, [part.groups for part in parts], task, config, models, tokenizer, run)
    return [
        Part(
            groups=part.groups,
            said=[_said(record, group) for record, group in zip(part.records, part.groups, strict=True)],
            reference=own[i] if keeps else [nothing] * len(part),
            mismatched=mismatched[i],
            mismatched_reference=torch.stack([row.sum() for row in others[i]])
            if keeps and mismatched[i]
            else nothing,
            prompt_odds=odds[i] if odds else [],
        )
        for i, part in enumerate(parts)
    ]


def _with_last(
    own: Sequence[Sequence[Tensor]],
    parts: Sequence[Sequence[Group]],
    task: Task,
    config: PreferConfig,
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
) -> list[list[Tensor]]:
    """The reference's log-probabilities, those of each ranking's last completion by the second reference."""
    groups = [group for part in parts for group in part]
    flat = reference_tokens(
        open_reference(config.reference_last, tokenizer, config.compute),
        [Group(prompt=g.prompt, completions=g.completions[-1:], masks=g.masks[-1:]) for g in groups],
        weights=models.sha256["reference_last"],
        tokens=task.tokens,
        cache=_cache(config),
        world=run.world,
    )
    last = iter(flat.split([sum(group.masks[-1]) for group in groups]))
    return [[torch.cat([row[: len(row) - len(tail)], tail]) for row, tail in zip(rows, last)] for rows in own]  # noqa: B905  one iterator for all parts


def _prompt_odds(
    task: Task,
    parts: Sequence[Examples[Any]],
    config: PreferConfig,
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
) -> list[list[float]]:
    """p(prompt | good) / p(prompt | bad) of every example, estimated on those trained on, from the states of the model that the run began with."""
    train, heldout = parts
    good = torch.tensor([record.good for record in train.records])
    start = task.policy
    if run.start or config.reference:
        start = open_reference(_reference_name(models), tokenizer, config.compute)
    features = prompt_features(start, [*train.groups, *heldout.groups], tokens=task.tokens, world=run.world)
    return [each.tolist() for each in odds_of(features[: len(train)], good, features[len(train) :])]


def _kept(
    task: Task,
    parts: Sequence[Sequence[Group]],
    config: PreferConfig,
    models: Models,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
) -> list[list[Tensor]]:
    """The reference's log-probability of every trained token of every group."""
    name = _reference_name(models)
    if config.lora.on and not config.reference:
        reference = task.policy.frozen_copy()
    elif run.start or config.reference:
        reference = open_reference(name, tokenizer, config.compute)
    else:
        reference = task.policy
    # In bfloat16 an adapter beside the weights and one merged into them give other last bits.
    beside = "+" if config.lora.adapter == "train" and not config.reference else ""
    groups = [group for part in parts for group in part]
    flat = reference_tokens(
        reference,
        groups,
        weights=models.sha256["reference" if config.reference else START] + beside,
        tokens=task.tokens,
        cache=_cache(config),
        world=run.world,
    )
    rows = iter(flat.split([sum(map(sum, group.masks)) for group in groups]))
    return [[next(rows) for _ in part] for part in parts]


def _usable(heldout: Examples[Any], objective: Objective) -> Examples[Any]:
    """Held-out examples; none where the objective needs two prompts and there is one."""
    if objective.needs.mismatched and len({tuple(group.prompt) for group in heldout.groups}) < 2:
        return Examples(records=(), groups=[])
    return heldout


def _said(record: Any, group: Group) -> tuple[float, ...]:
    if isinstance(record, Label):
        return (float(record.good),)
    if isinstance(record, Score):
        return (record.value,)
    if isinstance(record, Comparison):
        return (record.p_soft, 1 - record.p_soft)
    return (0.0,) * len(group.completions)


def _mismatched(groups: Sequence[Group], loss: str) -> list[Group]:
    """Each prompt with the completion of the next example that has another prompt, round and round: the same whatever the batches are."""
    prompts = [tuple(group.prompt) for group in groups]
    result: list[Group] = []
    following = 0
    for place, prompt in enumerate(prompts):
        following = max(following, place + 1)
        while prompts[following % len(groups)] == prompt:
            following += 1
            if following - place > len(groups):
                raise InputError(
                    f"{loss} needs completions of two prompts or more, to compare them with each other's; all {len(groups)} have one prompt"
                )
        other = groups[following % len(groups)]
        result.append(Group(prompt=prompt, completions=other.completions[:1], masks=other.masks[:1]))
    return result


def _step(
    config: PreferConfig,
    task: Task,
    updater: Updater,
    part: Part,
    running: Running,
    step: int,
    *,
    check: bool,
) -> dict[str, float]:
    """One update from this process's share of a batch, and of the running statistics; its metrics."""
    counted = task.world.sum_float(len(part.groups))
    best_tokens = task.world.sum_float(sum(sum(group.masks[0]) for group in part.groups))
    parts = micro_batches(part.groups, tokens=task.tokens, device=task.world.device)
    metrics = Metrics()
    whole = Whole(task=task, part=part, parts=parts, running=running.values, seed=config.run.seed, step=step)

    def loss(micro: MicroBatch) -> Tensor:
        numbers = numbers_of(task, part, micro)
        losses = losses_of(task, numbers, whole.prepared(numbers).at(micro.groups))
        add_metrics(task, numbers, metrics)
        if check:
            for expected in _expected(task, numbers, len(losses)):
                metrics.add("expected", expected.sum(), len(losses))
                metrics.add("unregularised", losses.detach().sum(), len(losses))
        total = example_mean(losses, examples=counted)
        if config.sft_coef:
            nll, mask = best_nll(numbers)
            total = total + config.sft_coef * mean_over(nll, mask, count=best_tokens)
        return total

    result = updater.step(parts, loss, replay=lambda: replayable(part.groups))
    reduced = metrics.reduce(task.world)
    if "expected" in reduced:
        expected, observed = reduced.pop("expected"), reduced.pop("unregularised")
        if not result.skipped:
            tolerance = (1e-3 if config.compute.dtype == "float32" else 5e-2) * max(1.0, abs(expected))
            check_start(f"{task.loss} loss", observed, expected, tolerance, way_out=_way_out(config))
    prepared = whole.result()
    shared = {name: value.item() for name, value in prepared.shared.items()}
    if not result.skipped:  # NaN would stay for good
        running.values = dict(prepared.running or running.values)
    return {**result.metrics(), **reduced, **shared}


def _way_out(config: PreferConfig) -> str:
    return (
        f"remove the stored reference log-probabilities in {_cache(config)}, or set compute.dtype float32 and compute.attention padded; "
        "if it stays, the model's own code is not deterministic (dropout, state kept between calls), or this is a fault of prefloop: "
        "please report it"
    )


def _cache(config: PreferConfig) -> Path:
    """Where reference log-probabilities are kept."""
    return Path(config.reference_cache or Path(config.run.out).parent / "cache")


def _expected(task: Task, numbers: TokenNumbers, count: int) -> list[Tensor]:
    """The loss that the formula gives at policy = reference, one number an example; none where it gives none."""
    start = task.objective.start
    if start is None:
        return []
    known = [name for name in parameters(start) if name not in task.settings]
    with torch.no_grad():
        values = quantities(task.objective.data, known, numbers)
        expected = call(start, {**values, **task.settings})
    return [torch.as_tensor(expected, dtype=torch.float32).detach().cpu().expand(count)]


def _heldout_metrics(
    config: PreferConfig, task: Task, heldout: Part, running: Mapping[str, float]
) -> dict[str, float]:
    """The same numbers of held-out examples, all of them as one step; nothing where nothing is held out."""
    if not heldout.groups:
        return {}
    part = heldout.at(task.world.share(range(len(heldout.groups))))
    parts = micro_batches(part.groups, tokens=task.tokens, device=task.world.device)
    metrics = Metrics()
    whole = Whole(task=task, part=part, parts=parts, running=running, seed=config.run.seed, step=0)
    with torch.no_grad():
        for micro in parts:
            numbers = numbers_of(task, part, micro)
            losses = losses_of(task, numbers, whole.prepared(numbers).at(micro.groups))
            metrics.add("loss", losses.sum(), len(losses))
            add_metrics(task, numbers, metrics)
    return {f"heldout_{name}": value for name, value in metrics.reduce(task.world).items() if name != "nll"}
