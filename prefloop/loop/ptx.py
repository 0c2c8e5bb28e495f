"""The pretraining mix: text or demonstrations that a policy keeps learning beside its own samples (arXiv:2203.02155)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from prefloop.configs.ppo import PPOConfig
from prefloop.errors import InputError
from prefloop.loop.batches import Batches
from prefloop.loop.inputs import demonstrations, texts
from prefloop.loop.learn import Job
from prefloop.loop.likelihood import trained_tokens
from prefloop.loop.reading import Read, another
from prefloop.loop.roles import positions_of
from prefloop.loop.sources import PromptSource
from prefloop.losses import mean_over
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy
from prefloop.models.trunk import check_length
from prefloop.runtime import World
from prefloop.text import pretraining_blocks
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Ptx:
    """Sequences of the mix, and how they enter the loss."""

    name: str
    groups: Sequence[Group]
    batches: Batches
    """As many as a minibatch has prompts."""
    coef: float
    tokens: int
    """Of a micro-batch."""
    world: World

    def check_room(self, policy: Policy) -> None:
        """Raise `InputError` if the policy has too few positions for a sequence."""
        check_length(
            policy.model,
            max(positions_of(policy, group) for group in self.groups),
            what=f"{self.name}: a record",
        )

    def jobs(self, policy: Policy, update: int) -> list[Job]:
        """The mix's part of the loss of this update; the first is 1, and each has the next sequences. Collective: all processes call it."""
        groups = self.world.share(self.batches.pick(self.groups, update))
        count = self.world.sum_float(trained_tokens(groups))

        def loss(part: MicroBatch) -> Tensor:
            return self.coef * mean_over(-policy(part.batch), part.batch.completion_mask, count=count)

        parts = micro_batches(groups, tokens=self.tokens, device=self.world.device)
        return [partial(loss, part) for part in parts]


def read_ptx(config: PPOConfig, source: PromptSource) -> tuple[Ptx | None, Mapping[str, Read]]:
    """The mix, and what was read for it; None and nothing if it is off."""
    if not config.ptx:
        return None, {}
    data, tokenizer, world = (
        replace(another(config.data, config.ptx), heldout=0.0, limit=0),
        source.reader.tokenizer,
        source.world,
    )

    def documents() -> tuple[list[Group], Read]:
        records, _, read = texts(data)
        block = data.max_prompt_tokens + config.sampling.max_new_tokens
        return pretraining_blocks(tokenizer, [record.text for record in records], block), read

    try:
        inputs = demonstrations(data, tokenizer, source.reader.store, world)
        groups, read = inputs.train.groups, inputs.read
    except InputError as not_demonstrations:
        try:
            groups, read = world.on_main(documents)
        except InputError as not_texts:
            raise InputError(
                f"ptx {config.ptx!r} is neither demonstrations ({not_demonstrations}) nor texts ({not_texts})"
            ) from not_texts
    size = max(1, config.batch_prompts // config.minibatches)
    ptx = Ptx(
        name=config.ptx,
        groups=groups,
        batches=Batches(count=len(groups), size=size, seed=config.run.seed),
        coef=config.ptx_coef,
        tokens=config.compute.micro_batch_tokens,
        world=world,
    )
    return ptx, {"ptx_data": read}
