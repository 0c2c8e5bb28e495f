"""Direct preference optimisation (arXiv:2305.18290).

The reference's log-probabilities are computed once, before the first update, and kept on disk by weights and tokens; no second model is held
in memory. Log-probabilities are summed over each completion's tokens, stop token included; the loss is a mean over comparisons.

Logged: loss; accuracy (share with the higher implicit reward for the chosen completion, ties half); margin (of implicit rewards, beta times the
difference of log-ratios); reward_chosen, reward_rejected (implicit); logp_chosen, logp_rejected (mean summed log-probability: both may fall,
which is worth watching); nll (of chosen completions, per token); lr, grad_norm, skipped; and the same of held-out comparisons as heldout_*.
"""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefloop.algorithms.batches import Batches
from prefloop.algorithms.inputs import comparisons, store_of
from prefloop.algorithms.opening import check_room, open_policy, open_reference, parameters_of, replayable
from prefloop.algorithms.provenance import START, Models, RunRecord, models_read
from prefloop.algorithms.reference import reference_logprobs
from prefloop.algorithms.shown import show_completions
from prefloop.configs.dpo import DPOConfig
from prefloop.losses import (
    check_start,
    dpo_loss,
    example_mean,
    expected_at_start,
    implicit_reward,
    mean_over,
    pairwise_accuracy,
    sequence_sum,
)
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy
from prefloop.rollout.scoring import summed_logprobs
from prefloop.runtime import Metrics, Run, Updater, World, start_world
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group


def train(config: DPOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    world = start_world(config.compute.device)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    inputs = comparisons(config.data, tokenizer, store_of(config.run.out, config.run.store), world)
    models = models_read(world, model=config.model, reference=config.reference)
    batches = Batches(count=len(inputs.train), size=config.batch_size, seed=config.run.seed)
    with (
        Run.open(
            config.run,
            stage="dpo",
            config=config,
            total_steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
            world=world,
            headline=("accuracy", "margin"),
            reads={"data": inputs.read.content, **models.contents},
        ) as run,
        RunRecord(stage="dpo", config=config, settings=config.run, world=world) as record,
    ):
        run.say(inputs.read.summary)
        opened = open_policy(config.model, tokenizer, config.lora, config.compute, run)
        check_room(opened.role, inputs.train, inputs.heldout)
        record.begin(models=models, reads=[inputs.read])
        policy = opened.role
        groups = [*inputs.train.groups, *inputs.heldout.groups]
        reference = _reference(config, models, policy, tokenizer, groups, run).view(-1, 2)
        updater = Updater(
            [parameters_of(policy, config.optim, name="policy")],
            total_steps=run.total_steps,
            world=world,
            dump_folder=run.nonfinite,
            max_nonfinite=config.run.max_nonfinite,
        )
        if run.resumed:
            updater.load_state(run.resumed["updater"])

        unchecked = not run.start and models.reference_is_start()
        for step in run.steps(save=opened.save, state=lambda: {"updater": updater.state()}):
            places = world.share(batches.at(step))
            metrics = _step(config, updater, policy, [groups[i] for i in places], reference[places], world)
            if unchecked and not metrics["skipped"]:  # a step that was skipped has changed nothing
                _check_start(config, metrics)
                unchecked = False
            if (config.eval_every and step % config.eval_every == 0) or step == run.total_steps:
                metrics |= _heldout_metrics(
                    config, policy, inputs.heldout.groups, reference[len(inputs.train) :], world
                )
                shown = inputs.heldout.groups or inputs.train.groups
                show_completions(run, step, policy, tokenizer, shown, beside="chosen")
            run.log(step, metrics)
        record.finish(run.final, kind="policy", step=run.total_steps, metrics=run.last_metrics)
        return run.final


def _reference(
    config: DPOConfig,
    models: Models,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    run: Run,
) -> Float[Tensor, " B"]:
    """Reference log-probabilities of chosen, rejected, chosen, ...: those of the starting policy unless another is named."""
    role = "reference" if config.reference else START
    is_start = not run.start and not config.reference
    model = policy if is_start else open_reference(models.names[role], tokenizer, config.compute)
    return reference_logprobs(
        model,
        groups,
        weights=models.sha256[role],
        tokens=config.compute.micro_batch_tokens,
        cache=_cache(config),
        world=run.world,
    )


def _step(
    config: DPOConfig,
    updater: Updater,
    policy: Policy,
    groups: Sequence[Group],
    reference: Float[Tensor, "n 2"],
    world: World,
) -> dict[str, float]:
    """One update from this process's share of a batch; its metrics."""
    pairs = world.sum_float(len(groups))
    chosen_tokens = world.sum_float(sum(sum(group.masks[0]) for group in groups))
    metrics = Metrics()

    def loss(part: MicroBatch) -> Tensor:
        logprobs, mask = policy(part.batch), part.batch.completion_mask
        sums = sequence_sum(logprobs, mask).view(-1, 2)
        reference_sums = reference[list(part.groups)].to(sums.device)
        losses = dpo_loss(
            *sums.unbind(1),
            *reference_sums.unbind(1),
            beta=config.beta,
            label_smoothing=config.label_smoothing,
        )
        nll, chosen_mask = -logprobs[0::2], mask[0::2]
        for name, (total, count) in pair_metrics(sums.detach(), reference_sums, beta=config.beta).items():
            metrics.add(name, total, count)
        metrics.add("nll", -sums[:, 0].detach().sum(), chosen_mask.sum())
        total = example_mean(losses, examples=pairs)
        if config.sft_coef:
            total = total + config.sft_coef * mean_over(nll, chosen_mask, count=chosen_tokens)
        return total

    parts = micro_batches(groups, tokens=config.compute.micro_batch_tokens, device=world.device)
    result = updater.step(parts, loss, replay=lambda: replayable(groups))
    return {**result.metrics(), **metrics.reduce(world)}


def pair_metrics(
    sums: Float[Tensor, "n 2"], reference: Float[Tensor, "n 2"], *, beta: float
) -> dict[str, tuple[Tensor, int]]:
    """Implicit-reward metrics of (chosen, rejected) pairs as sums and counts."""
    chosen, rejected = implicit_reward(sums, reference, beta=beta).unbind(1)
    n = len(sums)
    return {
        "accuracy": (pairwise_accuracy(chosen, rejected).sum(), n),
        "margin": ((chosen - rejected).sum(), n),
        "reward_chosen": (chosen.sum(), n),
        "reward_rejected": (rejected.sum(), n),
        "logp_chosen": (sums[:, 0].sum(), n),
        "logp_rejected": (sums[:, 1].sum(), n),
    }


def _heldout_metrics(
    config: DPOConfig, policy: Policy, groups: Sequence[Group], reference: Float[Tensor, "n 2"], world: World
) -> dict[str, float]:
    """The same numbers of held-out comparisons; nothing where nothing is held out."""
    if not groups:
        return {}
    sums = summed_logprobs(policy, groups, tokens=config.compute.micro_batch_tokens, world=world).view(-1, 2)
    losses = dpo_loss(
        *sums.unbind(1), *reference.unbind(1), beta=config.beta, label_smoothing=config.label_smoothing
    )
    pairs = pair_metrics(sums, reference, beta=config.beta)
    named = {f"heldout_{name}": (total / count).item() for name, (total, count) in pairs.items()}
    return {"heldout_loss": losses.mean().item(), **named}


def _check_start(config: DPOConfig, metrics: dict[str, float]) -> None:
    """Before the first update policy = reference, so the loss has a known value; anything else is a bug or a wrong reference."""
    expected = expected_at_start("dpo", beta=config.beta, label_smoothing=config.label_smoothing)
    observed = metrics["loss"] - config.sft_coef * metrics["nll"]
    tolerance = 1e-3 if config.compute.dtype == "float32" else 5e-2
    check_start("dpo loss", observed, expected, tolerance, way_out=_way_out(config))


def _way_out(config: DPOConfig) -> str:
    cache = f"remove the stored reference log-probabilities in {_cache(config)}"
    return (
        f"{cache}, or set compute.dtype float32 and compute.attention padded; if it stays, the model's own code is not "
        "deterministic (dropout, state kept between calls), or this is a fault of prefloop: please report it"
    )


def _cache(config: DPOConfig) -> Path:
    """Where reference log-probabilities are kept."""
    return Path(config.reference_cache or Path(config.run.out).parent / "cache")
