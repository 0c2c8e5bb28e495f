"""Updates, rounds of sampling and learning, and sampling alone: each contender's median seconds, taken in turn."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bench.gpu.material import Size, language_model, round_prompts, scalar_model
from bench.versus import contender
from bench.versus.cases import GROUP, ROLLOUTS, Conditions, Work, flops
from bench.versus.contender import Contender, ContenderError
from prefloop.configs.common import Compute, Sampling
from prefloop.losses import clipped_surrogate, clipped_value_loss, dpo_loss, example_mean, sequence_sum
from prefloop.losses.reduce import sequence_mean_of_token_mean
from prefloop.models.load import as_policy, prepare, score_head
from prefloop.models.packing import Batch, pack
from prefloop.models.roles import Critic, Policy
from prefloop.rollout import sample
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is measured, and where."""

    size: Size
    family: str
    device: str
    repeats: int
    peak: float
    """Dense bfloat16 TFLOP/s."""
    trl: Path | None
    """A Python that has TRL."""
    folder: Path
    """Models and data for other processes, and their logs."""
    failed: list[str] = field(default_factory=list)
    """Contenders that ended with an error."""

    def fail(self, who: str, error: Exception) -> None:
        """Say that somebody ended, and go on without."""
        print(f"{who} was not measured: {error}", file=sys.stderr, flush=True)
        self.failed.append(who)

    @property
    def compute(self) -> Compute:
        """In bfloat16 on the device."""
        return Compute(device="cuda" if self.device == "cuda" else "cpu", dtype="bfloat16")


def forward_flops(size: Size, batch: Batch) -> float:
    """Of one forward pass over the row's real tokens, the head and the end of the last layer where something is predicted."""
    seen = float((batch.position_ids + 1).sum())
    work = Work(
        tokens=batch.tokens,
        head_tokens=len(batch.targets),
        completions=len(batch.last),
        squares=seen,
        prompt_squares=0.0,
    )
    return work.flops(size.model, scored=1)


def dpo_step(policy: Policy, reference: Policy, batch: Batch) -> Tensor:
    """The loss of one step, gradients added."""
    with torch.no_grad():
        theirs = sequence_sum(reference(batch), batch.completion_mask)
    ours = sequence_sum(policy(batch), batch.completion_mask)
    losses = dpo_loss(ours[0::2], ours[1::2], theirs[0::2], theirs[1::2], beta=0.1)
    loss = example_mean(losses, examples=len(losses))
    loss.backward()
    return loss.detach()


def ppo_step(policy: Policy, critic: Critic, batch: Batch) -> Tensor:
    """The loss of one update of policy and critic, gradients added; advantages and returns are those of a reward of 1."""
    mask, count = batch.completion_mask, len(batch.last)
    logprobs, values = policy(batch), critic(batch)
    old, ones = logprobs.detach(), torch.ones_like(logprobs)
    losses = clipped_surrogate(logprobs, old, ones, clip=0.2)
    losses = losses + 0.1 * clipped_value_loss(values, values.detach(), ones, clip=0.2)
    loss = sequence_mean_of_token_mean(losses, mask, sequences=count)
    loss.backward()
    return loss.detach()


def critic_of(setting: Setting) -> Critic:
    """A critic with a trunk of its own."""
    model = scalar_model(setting.size, setting.family, torch.bfloat16)
    way = prepare(model, setting.compute)
    return Critic(model, score_head(model), way=way)


@contextmanager
def started(setting: Setting, stage: str, sides: Sequence[str]) -> Iterator[dict[str, Callable[[], object]]]:
    """A step or round of the workers of `bench.versus`, prefloop's (`ours`) and TRL's, without those that end with an error."""
    conditions = Conditions(
        device=setting.device,
        bf16=True,
        max_tokens=setting.size.prompt + setting.size.completion,
        prompt_tokens=setting.size.prompt,
        new_tokens=setting.size.completion,
    )
    with ExitStack() as stack:
        steps: dict[str, Callable[[], object]] = {}
        for side in sides:
            command, environment = contender.ours(stage, setting.folder), {}
            if side != "ours":
                assert setting.trl is not None
                command, environment = contender.theirs(stage, setting.folder, setting.trl)
            log = setting.folder / f"{stage}-{side}.log"
            try:
                worker = Contender(side, command, environment | conditions.environment(), log)
            except ContenderError as error:
                setting.fail(f"{stage} of {side}", error)
            else:
                steps[side] = stack.enter_context(worker).step
        yield steps


def in_turn(setting: Setting, name: str, cases: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each contender, run in turn after a first run that is not counted; without those that end with an error."""
    seconds: dict[str, list[float]] = {way: [] for way in cases}
    for repeat in range(setting.repeats + 1):
        for way in tuple(seconds):
            start = time.perf_counter()
            try:
                cases[way]()
            except ContenderError as error:
                setting.fail(f"{name} of {way}", error)
                del seconds[way]
                continue
            if setting.device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(times) for way, times in seconds.items()}


def trained(parts: Sequence[torch.nn.Module], step: Callable[[], Tensor], device: str) -> Callable[[], None]:
    """The step with its optimiser."""
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=device == "cuda")

    def run() -> None:
        step()
        optimizer.step()
        optimizer.zero_grad()

    return run


def report(
    setting: Setting, name: str, seconds: Mapping[str, float], work: float, unit: str, flops: float
) -> None:
    """One line of the result."""
    ours = seconds.get("ours")
    if ours is None:
        return
    ratios = "".join(f", {each / ours:.2f}x {way}" for way, each in seconds.items() if way != "ours")
    rates = ", ".join(f"{way} {work / each:,.0f} {unit}" for way, each in seconds.items())
    print(f"{name}: {rates}{ratios}, MFU {flops / ours / (setting.peak * 1e12):.1%}", flush=True)


def time_updates(setting: Setting, groups: Sequence[Group]) -> None:
    """DPO's step and PPO's update, packed and plain; DPO's also by TRL."""
    size, device = setting.size, setting.device
    policy = as_policy(language_model(size, setting.family, torch.bfloat16), setting.compute)
    plain = Policy(policy.model, way="padded", linear_head=False)
    reference = policy.frozen_copy()
    plain_reference = Policy(reference.model, way="padded", linear_head=False)
    critic = critic_of(setting)
    plain_critic = Critic(critic.model, critic.value_head, way="padded")
    batch = pack(groups, policy.device)
    once = forward_flops(size, batch)
    steps = {
        "ours": trained([policy], lambda: dpo_step(policy, reference, batch), device),
        "plain": trained([policy], lambda: dpo_step(plain, plain_reference, batch), device),
    }
    with started(setting, "dpo", ["TRL"] if setting.trl else []) as theirs:
        seconds = in_turn(setting, "dpo", {**steps, **theirs})
    report(setting, "dpo", seconds, batch.tokens, "real tokens/s", 4 * once)
    steps = {
        "ours": trained([policy, critic], lambda: ppo_step(policy, critic, batch), device),
        "plain": trained([policy, critic], lambda: ppo_step(plain, plain_critic, batch), device),
    }
    without_head = 2 * size.model.head_weights * len(batch.targets)
    flops = 3 * (2 * once - without_head)
    seconds = in_turn(setting, "ppo update", steps)
    report(setting, "ppo update", seconds, batch.tokens, "real tokens/s", flops)


def time_rounds(setting: Setting) -> None:
    """Whole rounds of PPO and GRPO, by the stages as they are: sampling, scoring, and every update on it. Completions are taken as full."""
    size = setting.size
    prompt = round(statistics.fmean(map(len, round_prompts(size))))
    for stage in ("ppo", "grpo"):
        k = 1 if stage == "ppo" else GROUP
        work = Work.of(ROLLOUTS // k, prompt, [size.completion] * k)
        with started(setting, stage, ["ours", "TRL"] if setting.trl else ["ours"]) as steps:
            seconds = in_turn(setting, stage, steps)
        least = flops(stage, work, size.model)
        report(setting, f"{stage} round", seconds, work.tokens, "real tokens/s", least)


def time_generation(setting: Setting) -> None:
    """Completions of full length, sampled at temperature 1."""
    size = setting.size
    policy = as_policy(language_model(size, setting.family, torch.bfloat16), setting.compute)
    model, new = policy.model, size.completion
    ids = torch.randint(3, size.model.vocabulary, (size.sampled, size.prompt), device=policy.device)
    prompts = ids.tolist()

    def ours() -> None:
        sampling = Sampling(max_new_tokens=new, batch_size=size.sampled)
        sample(model, prompts, k=1, stop_ids=(), sampling=sampling, seed=0, row_keys=range(len(prompts)))

    @torch.inference_mode()
    def plain() -> None:
        config = model.config
        attention, config._attn_implementation = config._attn_implementation, "sdpa"
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            pad_token_id=0,
        )  # pyright: ignore[reportCallIssue]
        config._attn_implementation = attention

    seconds = in_turn(setting, "generation", {"ours": ours, "plain": plain})
    least = Work.of(size.sampled, size.prompt, [new]).flops(size.model, scored=1)
    report(setting, "generation", seconds, size.sampled * new, "tokens/s", least)
