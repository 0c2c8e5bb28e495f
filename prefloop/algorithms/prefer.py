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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.algorithms.batches import Batches
from prefloop.algorithms.inputs import Examples, examples, store_of
from prefloop.algorithms.opening import open_policy, parameters_of, replayable
from prefloop.algorithms.provenance import RunRecord
from prefloop.algorithms.reference import reference_tokens
from prefloop.configs.functions import find_function
from prefloop.configs.prefer import PreferConfig
from prefloop.errors import InputError
from prefloop.losses import check_start, example_mean, mean_over, pairwise_accuracy, sequence_sum
from prefloop.losses.listwise import pairs_of
from prefloop.losses.objectives import (
    OBJECTIVES,
    Objective,
    Setting,
    call,
    objective_of,
    only_mismatched,
    parameters,
    settings_of,
    unknown_objective,
)
from prefloop.losses.quantities import MISMATCHED, TokenNumbers, as_lists, quantities
from prefloop.losses.whole_step import Prepared
from prefloop.models.head import Want
from prefloop.models.load import load_policy, weights_sha256
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy, scalar_head, scatter_tokens
from prefloop.records import Label, Score
from prefloop.runtime import Metrics, ParameterGroup, Run, Updater, World, start_world
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group

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
    world = start_world(config.compute.device)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    store = store_of(config.run.out, config.run.store)
    inputs = examples(
        objective.data, config.data, tokenizer, store, world, from_comparisons=config.from_comparisons
    )
    batches = Batches(count=len(inputs.train), size=config.batch_size, seed=config.run.seed)
    with (
        Run.open(
            config.run,
            stage=stage,
            config=recorded,
            total_steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
            world=world,
            headline=HEADLINES[objective.data],
            fingerprint={"data": inputs.read.sha256},
        ) as run,
        RunRecord(stage=stage, config=recorded, settings=config.run, world=world) as record,
    ):
        run.say(inputs.read.summary)
        opened = open_policy(config.model, tokenizer, config.lora, config.compute, run)
        reference_name = config.reference if objective.needs.reference else ""
        record.begin(start=config.model, models={"reference": reference_name}, reads=[inputs.read])
        task = _open_task(config, objective, settings, opened.role, run)
        train_part, heldout_part = _with_reference(
            task, (inputs.train, _usable(inputs.heldout, objective)), config, run
        )
        updater = Updater(
            task.parameters(config),
            total_steps=run.total_steps,
            world=world,
            dump_folder=run.nonfinite,
            max_nonfinite=config.run.max_nonfinite,
        )
        running = dict(objective.running)
        if run.resumed:
            updater.load_state(run.resumed["updater"])
            running = dict(run.resumed["running"])
            task.load_state(run.resumed["task"])

        def state() -> dict[str, Any]:
            return {"updater": updater.state(), "running": running, "task": task.state()}

        for step in run.steps(save=opened.save, state=state):
            places = world.share(batches.at(step))
            metrics, running = _step(config, task, updater, train_part.at(places), running, step)
            if config.follow.every and step % config.follow.every == 0:
                task.follow(config.follow.rate)
            if (config.eval_every and step % config.eval_every == 0) or step == run.total_steps:
                metrics |= _heldout_metrics(config, task, heldout_part, running)
            run.log(step, metrics)
        record.finish(run.final, kind="policy", step=run.total_steps, metrics=run.last_metrics)
        return run.final


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
    if not objective.needs.reference:
        for name, given in (("reference", config.reference), ("follow.every", config.follow.every)):
            if given:
                raise InputError(
                    f"{name} is {given}, but {config.loss} has no reference; leave it out, or choose another loss"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Examples of a data set or of a step, in order, with what they carry."""

    groups: list[Group]
    said: list[tuple[float, ...]]
    """What the data says of each completion, group by group."""
    reference: list[Tensor]
    """Reference log-probability of every trained token, completions after one another; no elements where it is not kept."""
    mismatched: list[Group]
    """The prompt with another prompt's completion, where the objective looks at that; else empty."""
    mismatched_reference: Float[Tensor, " _"]

    def at(self, places: Sequence[int]) -> "Part":
        """Some of the examples."""
        return Part(
            groups=[self.groups[i] for i in places],
            said=[self.said[i] for i in places],
            reference=[self.reference[i] for i in places],
            mismatched=[self.mismatched[i] for i in places] if self.mismatched else [],
            mismatched_reference=self.mismatched_reference[list(places)]
            if self.mismatched
            else self.mismatched_reference,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The objective with the models that it needs."""

    loss: str
    objective: Objective
    settings: Mapping[str, Setting]
    policy: Policy
    live_reference: tuple[Policy, ...]
    """The reference model where it must be run beside the policy; else none, and its log-probabilities are kept."""
    value_heads: tuple[nn.Linear, ...]
    """One where the objective predicts scores from prompts; a linear function of the policy's state, without gradient into the policy."""
    starts_at_reference: bool
    moves: bool
    """Whether the reference follows the policy."""
    tokens: int
    world: World

    @property
    def beta(self) -> float:
        """Scale of the implicit rewards that are logged."""
        return float(self.settings.get("beta", self.settings.get("tau", 1.0)))

    def parameters(self, config: PreferConfig) -> list[ParameterGroup]:
        """What is trained."""
        groups = [parameters_of(self.policy, config.optim, name="policy")]
        for head in self.value_heads:
            groups.append(ParameterGroup.of(head, config.optim, name="value_head"))
        return groups

    def follow(self, rate: float) -> None:
        """Move the reference towards the policy."""
        (reference,) = self.live_reference
        with torch.no_grad():
            pairs = zip(reference.model.parameters(), self.policy.model.parameters(), strict=True)
            for theirs, ours in pairs:
                theirs.lerp_(ours, rate)

    def state(self) -> dict[str, Any]:
        """What no saved model holds: a reference that has moved, and the value head."""
        moved = self.live_reference if self.moves else ()
        return {
            "reference": [{name: p.detach() for name, p in each.model.named_parameters()} for each in moved],
            "value_head": [head.weight.detach() for head in self.value_heads],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            moved = self.live_reference if self.moves else ()
            for reference, saved in zip(moved, state["reference"], strict=True):
                for name, parameter in reference.model.named_parameters():
                    parameter.copy_(saved[name])
            for head, weight in zip(self.value_heads, state["value_head"], strict=True):
                head.weight.copy_(weight)


def _open_task(
    config: PreferConfig,
    objective: Objective,
    settings: Mapping[str, Setting],
    policy: Policy,
    run: Run,
) -> Task:
    live: tuple[Policy, ...] = ()
    if objective.needs.forward_kl or config.follow.every:
        name = config.reference or config.model
        if config.lora.rank and not config.reference:
            live = (policy.frozen_copy(),)
        elif run.start or config.reference:
            frozen = load_policy(name, config.compute)
            frozen.model.requires_grad_(False)
            live = (frozen,)
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
        starts_at_reference=config.reference in ("", config.model),
        moves=config.follow.every > 0,
        tokens=config.compute.micro_batch_tokens,
        world=run.world,
    )


def _with_reference(task: Task, parts: Sequence[Examples[Any]], config: PreferConfig, run: Run) -> list[Part]:
    """Examples with the reference's log-probabilities, computed now or read from the cache, where the objective needs them and they stay."""
    needs, nothing = task.objective.needs, torch.empty(0)
    mismatched = [_mismatched(part.groups, task.loss) if needs.mismatched else [] for part in parts]
    keeps = needs.reference and not task.live_reference
    own = _kept(task, [part.groups for part in parts], config, run) if keeps else []
    others = _kept(task, mismatched, config, run) if keeps and needs.mismatched else []
    return [
        Part(
            groups=part.groups,
            said=[_said(record, group) for record, group in zip(part.records, part.groups, strict=True)],
            reference=own[i] if keeps else [nothing] * len(part),
            mismatched=mismatched[i],
            mismatched_reference=torch.stack([row.sum() for row in others[i]])
            if others and others[i]
            else nothing,
        )
        for i, part in enumerate(parts)
    ]


def _kept(task: Task, parts: Sequence[Sequence[Group]], config: PreferConfig, run: Run) -> list[list[Tensor]]:
    """The reference's log-probability of every trained token of every group."""
    name = config.reference or config.model
    is_start = not run.start and not config.reference
    groups = [group for part in parts for group in part]
    flat = reference_tokens(
        task.policy if is_start else load_policy(name, config.compute),
        groups,
        weights=run.world.on_main(lambda: weights_sha256(name)),
        tokens=task.tokens,
        cache=Path(config.reference_cache or Path(config.run.out).parent / "cache"),
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
    config: PreferConfig, task: Task, updater: Updater, part: Part, running: Mapping[str, float], step: int
) -> tuple[dict[str, float], dict[str, float]]:
    """One update from this process's share of a batch; its metrics, and the running state after it."""
    counted = task.world.sum_float(len(part.groups))
    best_tokens = task.world.sum_float(sum(sum(group.masks[0]) for group in part.groups))
    parts = micro_batches(part.groups, tokens=task.tokens, device=task.world.device)
    metrics = Metrics()
    whole = Whole(task=task, part=part, parts=parts, running=running, seed=config.run.seed, step=step)
    check = step == 1 and task.starts_at_reference and task.objective.needs.reference

    def loss(micro: MicroBatch) -> Tensor:
        numbers = numbers_of(task, part, micro)
        losses = losses_of(task, numbers, whole.prepared(numbers).at(micro.groups))
        add_metrics(task, numbers, losses, metrics)
        if check:
            for expected in _expected(task, numbers, len(losses)):
                metrics.add("expected", expected.sum(), len(losses))
                metrics.add("unregularised", losses.detach().sum(), len(losses))
        total = example_mean(losses, examples=counted)
        if config.sft_coef:
            nll, mask = _best_nll(numbers)
            total = total + config.sft_coef * mean_over(nll, mask, count=best_tokens)
        return total

    result = updater.step(parts, loss, replay=lambda: replayable(part.groups))
    reduced = metrics.reduce(task.world)
    if "expected" in reduced:
        expected, observed = reduced.pop("expected"), reduced.pop("unregularised")
        tolerance = (1e-3 if config.compute.dtype == "float32" else 5e-2) * max(1.0, abs(expected))
        check_start(task.loss, observed, expected, tolerance=tolerance)
    prepared = whole.result()
    shared = {name: value.item() for name, value in prepared.shared.items()}
    return {**result.metrics(), **reduced, **shared}, dict(prepared.running or running)


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


def numbers_of(task: Task, part: Part, micro: MicroBatch) -> TokenNumbers:
    """A micro-batch's per-token numbers: a forward pass of the policy, and of the reference where it is run beside it."""
    needs, batch = task.objective.needs, micro.batch
    nothing = batch.completion_mask.new_empty((0, 0), dtype=torch.float32)
    forward_kl = log_collision = nothing
    reference, value = nothing, nothing[0:0].flatten()
    if needs.forward_kl:
        (live,) = task.live_reference
        statistics = task.policy.statistics_against(live, batch, want=Want(forward_kl=True))
        forward_kl = scatter_tokens(statistics.forward_kl, batch)
    elif needs.value:
        hidden = task.policy.hidden(batch)
        statistics = task.policy.statistics_of(hidden, batch)
        (head,) = task.value_heads
        # A completion's first token is predicted from its prompt's last one.
        prompt_ends = batch.predictors.index_select(0, batch.predictor_shared)
        value = head(hidden.detach().index_select(0, prompt_ends).float()).squeeze(-1)
    else:
        statistics = task.policy.statistics(batch, log_collision=needs.log_collision)
        if needs.log_collision:
            log_collision = scatter_tokens(statistics.log_collision, batch)
    if needs.reference:
        reference = _reference_of(task, part, micro)
    said = [value for g in micro.groups for value in part.said[g]]
    return TokenNumbers(
        logprobs=scatter_tokens(statistics.logprobs, batch),
        mask=batch.completion_mask,
        group=batch.group,
        reference=reference,
        forward_kl=forward_kl,
        log_collision=log_collision,
        value=value,
        said=torch.tensor(said, dtype=torch.float32, device=batch.completion_mask.device),
    )


def _reference_of(task: Task, part: Part, micro: MicroBatch) -> Float[Tensor, "B T"]:
    if task.live_reference:
        (live,) = task.live_reference
        with torch.no_grad():
            return live(micro.batch)
    flat = torch.cat([part.reference[g] for g in micro.groups]).to(micro.batch.completion_mask.device)
    return scatter_tokens(flat, micro.batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """More quantities for the loss of a step or a part of it."""

    shared: Mapping[str, Tensor]
    each: Mapping[str, Tensor]

    def at(self, places: Sequence[int]) -> dict[str, Tensor]:
        """Those of some of this process's examples."""
        return {**self.shared, **{name: values[list(places)] for name, values in self.each.items()}}


def losses_of(task: Task, numbers: TokenNumbers, extra: Mapping[str, Tensor]) -> Float[Tensor, " B"]:
    """The objective's loss of each example of a micro-batch."""
    known = [name for name in task.objective.names if name not in extra]
    values = quantities(task.objective.data, known, numbers)
    return call(task.objective.loss, {**values, **extra, **task.settings})


class Whole:
    """What the objective needs of all examples of a step, computed when it is first asked for.

    One micro-batch on one process is the whole step, and its own forward pass gives everything; otherwise a pass without gradient goes before.
    """

    def __init__(
        self,
        *,
        task: Task,
        part: Part,
        parts: Sequence[MicroBatch],
        running: Mapping[str, float],
        seed: int,
        step: int,
    ) -> None:
        self._task, self._part, self._parts = task, part, parts
        self._running, self._draw = running, torch.Generator().manual_seed(seed * 1_000_003 + step)
        self._result = Prepared()
        alone = task.world.size == 1 and len(parts) == 1
        self._waits = task.objective.prepare is not None and alone and not task.objective.needs.mismatched
        if task.objective.prepare is not None and not self._waits:
            self._prepare(self._local())

    def prepared(self, numbers: TokenNumbers) -> Extra:
        """The step's quantities; `numbers` are those of the micro-batch that asks."""
        if self._waits:
            self._waits = False
            (only,) = self._parts
            self._prepare(self._in_order([(only, numbers)]))
        rank, size = self._task.world.rank, self._task.world.size
        device = numbers.logprobs.device
        return Extra(
            shared={name: value.to(device) for name, value in self._result.shared.items()},
            each={name: values[rank::size].to(device) for name, values in self._result.each.items()},
        )

    def result(self) -> Prepared:
        """What was prepared, once the step is done."""
        return self._result

    def _local(self) -> dict[str, Tensor]:
        """This process's quantities, in the order of its examples."""
        if only_mismatched(self._task.objective):
            return self._mismatched()
        with torch.no_grad():
            numbers = [(micro, numbers_of(self._task, self._part, micro)) for micro in self._parts]
        return self._in_order(numbers) | (self._mismatched() if self._task.objective.needs.mismatched else {})

    def _in_order(self, numbers: Sequence[tuple[MicroBatch, TokenNumbers]]) -> dict[str, Tensor]:
        objective = self._task.objective
        names = [name for name in objective.prepare_names if name not in MISMATCHED]
        values: dict[str, Tensor] = {}
        for micro, of in numbers:
            for name, value in quantities(objective.data, names, of).items():
                whole = values.setdefault(name, value.new_zeros(len(self._part.groups)).detach().cpu())
                whole[list(micro.groups)] = value.detach().cpu()
        return values

    def _mismatched(self) -> dict[str, Tensor]:
        task, part = self._task, self._part
        sums = {name: torch.zeros(len(part.mismatched)) for name in MISMATCHED}
        with torch.no_grad():
            for micro in micro_batches(part.mismatched, tokens=task.tokens, device=task.world.device):
                mask, places = micro.batch.completion_mask, list(micro.groups)
                sums["policy_mismatched"][places] = sequence_sum(task.policy(micro.batch), mask).cpu()
                if task.live_reference:
                    (live,) = task.live_reference
                    sums["reference_mismatched"][places] = sequence_sum(live(micro.batch), mask).cpu()
        if not task.live_reference:
            sums["reference_mismatched"] = part.mismatched_reference
        return sums

    def _prepare(self, local: Mapping[str, Tensor]) -> None:
        """Put all processes' examples together in the order of the batch, and prepare."""
        objective, size = self._task.objective, self._task.world.size
        assert objective.prepare is not None
        shares = [share for share in self._task.world.gather_objects(dict(local)) if share]
        count = sum(len(next(iter(share.values()))) for share in shares)
        # Rank r has every size-th example from r on; a rank without any is behind all that have one.
        values = {name: value.new_zeros(count) for name, value in shares[0].items()}
        for rank, share in enumerate(shares):
            for name, value in share.items():
                values[name][rank::size] = value
        self._result = call(
            objective.prepare,
            {**values, **self._task.settings, "running": self._running, "draw": self._draw},
        )


def _best_nll(numbers: TokenNumbers) -> tuple[Tensor, Tensor]:
    """Negative log-probabilities of the first (chosen, best) completion of each prompt, and their mask."""
    group = numbers.group
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    return -numbers.logprobs[first], numbers.mask[first]


def add_metrics(task: Task, numbers: TokenNumbers, losses: Tensor, metrics: Metrics) -> None:
    """Sums and counts of what is logged of a micro-batch."""
    with torch.no_grad():
        sums = sequence_sum(numbers.logprobs, numbers.mask)
        tokens = numbers.mask.sum(dim=1)
        ratio = sums - sequence_sum(numbers.reference, numbers.mask) if numbers.reference.numel() else sums
        rewards = task.beta * (ratio / tokens.clamp(min=1) if task.objective.reward == "mean" else ratio)
        _METRICS[task.objective.data](numbers, rewards, sums, metrics)


def _comparison_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    chosen, rejected = rewards.view(-1, 2).unbind(1)
    n = len(chosen)
    metrics.add("accuracy", pairwise_accuracy(chosen, rejected).sum(), n)
    metrics.add("margin", (chosen - rejected).sum(), n)
    metrics.add("reward_chosen", chosen.sum(), n)
    metrics.add("reward_rejected", rejected.sum(), n)
    metrics.add("logp_chosen", sums[0::2].sum(), n)
    metrics.add("logp_rejected", sums[1::2].sum(), n)
    metrics.add("nll", -sums[0::2].sum(), numbers.mask[0::2].sum())


def _ranking_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    lists = as_lists(rewards, numbers.group)
    pairs = pairs_of(as_lists(torch.ones_like(numbers.group, dtype=torch.bool), numbers.group))
    better = lists[:, :, None].expand(pairs.shape)[pairs]
    worse = lists[:, None, :].expand(pairs.shape)[pairs]
    metrics.add("accuracy", pairwise_accuracy(better, worse).sum(), len(better))
    metrics.add("margin", (better - worse).sum(), len(better))
    metrics.add("reward_best", lists[:, 0].sum(), len(lists))
    metrics.add("logp_best", as_lists(sums, numbers.group)[:, 0].sum(), len(lists))
    nll, mask = _best_nll(numbers)
    metrics.add("nll", torch.where(mask, nll, 0.0).sum(), mask.sum())


def _label_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    good = numbers.said > 0
    for name, side in (("good", good), ("bad", ~good)):
        metrics.add(f"reward_{name}", rewards[side].sum(), side.sum())
        metrics.add(f"logp_{name}", sums[side].sum(), side.sum())


def _score_metrics(numbers: TokenNumbers, rewards: Tensor, sums: Tensor, metrics: Metrics) -> None:
    n = len(rewards)
    value = numbers.value if numbers.value.numel() else torch.zeros_like(rewards)
    metrics.add("reward", rewards.sum(), n)
    metrics.add("logp", sums.sum(), n)
    metrics.add("value", value.sum(), n)
    metrics.add("error", (numbers.said - value - rewards).square().sum(), n)


_METRICS = {
    "comparisons": _comparison_metrics,
    "rankings": _ranking_metrics,
    "labels": _label_metrics,
    "scores": _score_metrics,
}


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
            add_metrics(task, numbers, losses, metrics)
    return {f"heldout_{name}": value for name, value in metrics.reduce(task.world).items() if name != "nll"}
