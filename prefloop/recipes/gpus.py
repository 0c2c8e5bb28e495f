"""What a training needs on GPUs, by arithmetic: bytes of each GPU, and seconds and traffic of a step.

The rules are those of docs/scale.md. Products: 2 FLOPs for each weight and token forward, as many for each of the two gradients (frozen weights have none of
their own), and attention; divided by the share of the GPU's arithmetic that training reaches (`mfu`). A decode step reads the weights and the cache
once. Nothing here was measured on the cards; their figures are the makers'.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefloop.configs.common import Compute
from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.estimate import Card, EstimateConfig
from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.prefer import PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sft import SFTConfig
from prefloop.errors import InputError
from prefloop.recipes.align.cost import HELD, KEPT, RowCounts, Shape
from prefloop.recipes.align.screen import duration

GB = 1e9
_TRAINED = 16
"""Bytes of a weight that is trained: itself, its gradient and AdamW's two moments, in float32."""
_PACKED = {"nf4": 0.53, "int8": 1.0}
"""Bytes of a quantised weight, with its share of the scales."""
_ROOM = 2.0
"""GB that CUDA, NCCL and the allocator's fragments take."""
_LOGITS = 0.5
"""GB of logits in chunks."""
_DECODES = 0.7
"""Share of memory's bandwidth that a decode step reaches."""
_MULTIPLIES = 0.5
"""Share of the arithmetic that it reaches."""
_STARTS = 1e-4
"""Seconds of a decode step for each layer beside its reads: the start of its operations, in the process's own sampler."""
_DISK = 1.0
"""GB a second of weights that an engine reads from a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GPU:
    """A card as its maker describes it."""

    gb: float
    tflops: float
    """Dense, bfloat16."""
    tb_per_s: float
    """Of its memory."""
    link: float
    """Gigabytes a second to another GPU of the machine, in each direction."""


CARDS: Mapping[Card, GPU] = {
    "A100": GPU(gb=80, tflops=312, tb_per_s=2.04, link=300),
    "H100": GPU(gb=80, tflops=989, tb_per_s=3.35, link=450),
    "H200": GPU(gb=141, tflops=989, tb_per_s=4.8, link=450),
    "B200": GPU(gb=180, tflops=2250, tb_per_s=7.7, link=900),
    "L40S": GPU(gb=48, tflops=362, tb_per_s=0.864, link=32),
    "RTX4090": GPU(gb=24, tflops=165, tb_per_s=1.01, link=32),
}
Online = PPOConfig | CriticFreeConfig | OnlineDPOConfig
Offline = SFTConfig | RewardConfig | DPOConfig | PreferConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuEstimate:
    """What a training needs. Memory in GB of a training GPU by what holds it, traffic in GB that a GPU sends, time in seconds; of a step."""

    memory: Mapping[str, float]
    traffic: Mapping[str, float]
    seconds: Mapping[str, float]
    engine_memory: float
    """GB of an engine's GPU, its cache left out; 0 without one."""
    tokens: float
    """That a step learns from, prompts included."""

    @property
    def most(self) -> float:
        """GB of a training GPU."""
        return sum(self.memory.values())

    @property
    def step(self) -> float:
        """Seconds. What FSDP sends is hidden behind the arithmetic as far as that lasts."""
        learn, sends = self.seconds["learn"], self.seconds.get("send weights and gradients", 0.0)
        return sum(self.seconds.values()) - min(learn, sends)


def require_known(settings: Any) -> None:
    """Raise `InputError` for a stage, or a setting, that there is no estimate of."""
    if not isinstance(settings, Online | Offline):
        stage = type(settings).__name__.removesuffix("Config")
        raise InputError(
            f"there is no estimate of {stage}; there is one of sft, reward, dpo, prefer, ppo, a2c, online_dpo, and grpo and its family"
        )
    if settings.compute.offload:
        raise InputError("there is no estimate of compute.offload; leave it out to see what a GPU would hold")


def estimate(
    settings: Online | Offline, shape: Shape, scorer: Shape | None, cluster: EstimateConfig
) -> GpuEstimate:
    """A step of a training with these settings.

    Args:
        shape: The policy's (a reward model's, where that is trained).
        scorer: The reward model's; None for one that takes no GPU, such as a function.
    """
    return _Counting(settings, shape, scorer, cluster).found()


class _Counting:
    """The parts of an estimate, which all need the same few numbers."""

    def __init__(
        self, settings: Online | Offline, shape: Shape, scorer: Shape | None, cluster: EstimateConfig
    ) -> None:
        self.settings, self.shape, self.scorer, self.cluster = settings, shape, scorer, cluster
        self.online = settings if isinstance(settings, Online) else None
        self.card, compute = CARDS[cluster.card], settings.compute
        self.rank = settings.lora.rank
        apart = cluster.engine_gpus > 0 and cluster.nodes > 1
        self.nodes = cluster.nodes - apart
        self.here = cluster.gpus - (0 if apart else cluster.engine_gpus)
        self.gpus = self.nodes * self.here
        self.shards = {"none": 1, "full": self.gpus, "hybrid": self.here}[compute.shard]
        self.item = 2.0 if compute.dtype == "bfloat16" else 4.0
        # Products in float32 run on TF32's units at half the rate, as prefloop sets them.
        self.rate = self.card.tflops * 1e12 * cluster.mfu / (1 if self.item == 2 else 2)
        self.critic = isinstance(settings, PPOConfig)
        self.rows = self._rows()

    def _rows(self) -> RowCounts:
        """Of a step, over all GPUs."""
        cluster, online, trains = self.cluster, self.online, self.settings
        if online is not None:
            prompts = online.batch_prompts
            k = 2 if isinstance(online, OnlineDPOConfig) else online.completions_per_prompt
            length = cluster.completion_tokens or online.sampling.max_new_tokens
        else:
            assert isinstance(trains, Offline)
            prompts, k = trains.batch_size, 1 if isinstance(trains, SFTConfig) else 2
            length = cluster.completion_tokens or 512.0
        return RowCounts(
            prompts=prompts, completions=k, prompt_tokens=cluster.prompt_tokens, completion_tokens=length
        )

    @property
    def referenced(self) -> bool:
        """Whether a reference is read."""
        if self.online is not None:
            return isinstance(self.online, OnlineDPOConfig) or self.online.kl.coef > 0
        return isinstance(self.settings, DPOConfig | PreferConfig)

    def found(self) -> GpuEstimate:
        """The estimate."""
        seconds = self._drawing() | self._learning()
        traffic, sending = self._sending()
        return GpuEstimate(
            memory=self._memory(),
            traffic=traffic,
            seconds={name: value for name, value in (seconds | sending).items() if value},
            engine_memory=self._weights(self.shape) / max(1, self.cluster.engine_gpus) / GB
            if self.cluster.engine_gpus
            else 0.0,
            tokens=self.rows.tokens,
        )

    def _weights(self, shape: Shape) -> float:
        """Bytes of a frozen model."""
        if (packed := self.settings.compute.quantize) == "none":
            return self.item * shape.weights
        return _PACKED[packed] * shape.trunk + self.item * (shape.weights - shape.trunk)

    def _memory(self) -> dict[str, float]:
        shape, compute = self.shape, self.settings.compute
        trained = self.rank * shape.adapter if self.rank else shape.weights
        copies = 1 + self.critic
        trunk = self._weights(shape) if self.rank else 0.0  # which all roles share
        frozen = 0.0 if self.rank or not self.referenced else self._weights(shape)
        if self.online is None and not self.rank:
            frozen = 0.0  # read before training begins, and kept as numbers
        if self.scorer is not None and not (self.rank and self.critic):
            frozen += self._weights(self.scorer)
        layer = shape.trunk / shape.layers + 2 * shape.vocabulary * shape.width
        per_token = KEPT * shape.width + 2 * shape.inner
        kept = shape.layers * per_token
        if compute.gradient_checkpointing:
            kept = shape.layers * shape.width + per_token
        tokens = min(compute.micro_batch_tokens, self.rows.tokens / self.gpus)
        learning = self.item * tokens * kept * HELD
        held = {
            "weights, gradients, optimiser": (_TRAINED * trained * copies + trunk) / self.shards,
            "frozen models": frozen / self.shards,
            "gathered layers": self.item * layer if self.shards > 1 else 0.0,
        }
        # Completions are drawn and learned from in turn.
        held |= {"activations": learning} if learning > self._decoder() else {"decoder": self._decoder()}
        return {name: value / GB for name, value in held.items() if value} | {
            "logits": _LOGITS,
            "CUDA, NCCL": _ROOM,
        }

    def _decoder(self) -> float:
        """Bytes that drawing in the process takes: the policy's weights where they are sharded, and the cache."""
        if self.online is None or self.cluster.engine_gpus:
            return 0.0
        rows = min(self.online.sampling.batch_size, self.rows.count / self.gpus)
        whole = self._weights(self.shape) if self.shards > 1 else 0.0
        return whole + rows * (self.rows.prompt_tokens + self.rows.completion_tokens) * self._cached()

    def _cached(self) -> float:
        """Bytes of a token in the cache."""
        return self.item * self.shape.keys * self.shape.layers

    def _drawing(self) -> dict[str, float]:
        if self.online is None:
            return {}
        split = self.cluster.engine_gpus or 1  # GPUs that hold the weights together
        groups = 1 if self.cluster.engine_gpus else self.gpus
        share = self.rows.count / groups
        together = max(
            1.0, share if self.cluster.engine_gpus else min(share, self.online.sampling.batch_size)
        )
        seen = self.rows.prompt_tokens + self.rows.completion_tokens / 2
        read = self.item * self.shape.weights + together * seen * self._cached()
        multiplied = 2 * self.shape.weights * together
        step = read / (split * self.card.tb_per_s * 1e12 * _DECODES)
        step += multiplied / (split * self.card.tflops * 1e12 * _MULTIPLIES)
        step += 0.0 if self.cluster.engine_gpus else _STARTS * self.shape.layers
        prompts = 2 * self.shape.weights * self.rows.prompts * self.rows.prompt_tokens
        drawn = share / together * self.rows.completion_tokens * step + prompts / (groups * split * self.rate)
        sent = self.item * self.shape.weights if not self.rank else 4 * self.rank * self.shape.adapter
        return {
            "draw completions": drawn,
            "send the policy to the engine": sent / GB / _DISK if self.cluster.engine_gpus else 0.0,
        }

    def _pass(self, shape: Shape, passes: float) -> float:
        """Seconds in which all GPUs together make so many passes over a step's rows; a pass forward is one."""
        products = 2 * shape.weights * self.rows.tokens * passes
        attention = 4 * shape.layers * shape.width * self.rows.pairs * passes
        return (products + attention) / (self.gpus * self.rate)

    def _learning(self) -> dict[str, float]:
        passes = (2 if self.rank else 3) + self.settings.compute.gradient_checkpointing
        epochs = self.online.epochs if self.online else 1
        learn = epochs * self._pass(self.shape, passes) * (1 + self.critic)
        return {
            "score": self._pass(self.scorer, 1) if self.scorer is not None else 0.0,
            "reference": self._pass(self.shape, 1) if self.referenced else 0.0,
            "values": self._pass(self.shape, 1) if self.critic else 0.0,
            "learn": learn,
        }

    def _sending(self) -> tuple[dict[str, float], dict[str, float]]:
        """GB that a GPU sends in a step, within and between machines, and the seconds of it."""
        shape, compute = self.shape, self.settings.compute
        if self.gpus == 1:
            return {}, {}
        trained = self.rank * shape.adapter if self.rank else shape.weights
        epochs = self.online.epochs if self.online else 1
        minibatches = self.online.minibatches if self.online else 1
        roles = 1 + self.critic
        across = self.nodes > 1
        inner = outer = 0.0
        if compute.shard == "none":
            reduced = 8 * trained * roles * epochs * minibatches
            inner, outer = (0.0, reduced) if across else (reduced, 0.0)
        else:
            micro = max(1.0, self.rows.tokens / self.gpus / compute.micro_batch_tokens) * epochs
            gathered = (2 * self.item * shape.weights + 4 * trained) * roles * micro
            if compute.shard == "hybrid":
                inner, outer = gathered, (4 * trained / self.here) * roles * micro if across else 0.0
            else:
                inner, outer = (0.0, gathered) if across else (gathered, 0.0)
        traffic = {"inside machines": inner / GB, "between machines": outer / GB}
        seconds = inner / GB / self.card.link + outer / GB / self.cluster.network
        return (
            {name: value for name, value in traffic.items() if value},
            {"send weights and gradients": seconds},
        )


def report(found: GpuEstimate, settings: Online | Offline, cluster: EstimateConfig, shape: Shape) -> str:
    """The estimate as it is read."""
    card = CARDS[cluster.card]
    engine = ""
    if cluster.engine_gpus:
        whose = "of the first machine" if cluster.nodes > 1 else "of them"
        engine = f", {cluster.engine_gpus} {whose} for an engine"
    lines = [
        f"{shape.name}, on {cluster.nodes} x {cluster.gpus} {cluster.card} ({card.gb:g} GB){engine}",
        "",
        "memory of a training GPU, GB",
        *_table(found.memory),
        f"  {'most at a time':32}{found.most:10.1f}   {_fits(found, card.gb, settings.compute, adapters=settings.lora.rank > 0)}",
    ]
    if found.engine_memory:
        left = card.gb * 0.9 - found.engine_memory
        lines.append(
            f"  {'weights on an engine GPU':32}{found.engine_memory:10.1f}   {f'leaves {left:.0f} for its cache' if left > 0 else 'does not fit: more engine_gpus'}"
        )
    if found.traffic:
        lines += ["", "a GPU sends in a step, GB", *_table(found.traffic)]
    lines += [
        "",
        f"a step of {found.tokens:,.0f} tokens, seconds",
        *_table(found.seconds),
        f"  {'in all':32}{found.step:10.1f}"
        + ("   sending is hidden behind learning as far as that lasts" if found.traffic else ""),
    ]
    if isinstance(settings, Online):
        lines += ["", f"{settings.steps} steps take {duration(settings.steps * found.step)}"]
    lines += ["", f"By arithmetic, at {cluster.mfu:.0%} of the card's rate while it learns; not measured."]
    return "\n".join(lines)


def _table(parts: Mapping[str, float]) -> list[str]:
    return [f"  {name:32}{value:10.1f}" for name, value in parts.items()]


def _fits(found: GpuEstimate, gb: float, compute: Compute, *, adapters: bool) -> str:
    if found.most <= gb:
        return f"of {gb:g}: fits"
    ways: list[str] = []
    if "decoder" in found.memory:
        ways += ["lower sampling.batch_size, or let an engine draw (engine_gpus)"]
    else:
        ways += ["lower compute.micro_batch_tokens"]
        ways += [] if compute.gradient_checkpointing else ["set compute.gradient_checkpointing"]
    ways += ["shard (compute.shard full)"] if compute.shard == "none" else ["take more GPUs"]
    ways += [] if adapters else ["train adapters (lora.rank 16)"]
    ways += ["compute.dtype bfloat16"] if compute.dtype == "float32" else []
    return f"of {gb:g}: does not fit; {', '.join(ways)}"
