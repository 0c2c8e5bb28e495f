"""What a policy is held to; its log-probabilities of every token are computed once and kept on disk by what they depend on: weights, tokens and precision."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.configs.copies import here
from prefloop.configs.prefer import PreferConfig
from prefloop.loop.provenance import START
from prefloop.loop.roles import frozen_twin, open_reference
from prefloop.loop.session import Session
from prefloop.models.gathering import computes_in
from prefloop.models.quantize import quantisation_of
from prefloop.models.roles import BASE, Policy
from prefloop.rollout.scoring import token_logprobs
from prefloop.runtime import World
from prefloop.runtime.sending import bring
from prefloop.text.groups import Group

log = logging.getLogger(__name__)

LOGPROBS = "logprobs"
"""Name of the tensor in a file of the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What a policy is held to: a model that is named, or the weights that the policy starts with."""

    session: Session
    policy: Policy
    start: str
    """Model that the policy starts from."""
    named: str
    """Model that is named; empty takes the start."""
    weights: str
    """Hash of its weights."""
    cache: Path
    """Folder where its log-probabilities are kept."""

    def standing(self) -> Policy:
        """The model, for what is computed before the first update: it may be the policy itself."""
        if self.named:
            return open_reference(self.session, self.named)
        if self.policy.adapter_name != BASE:
            return self.policy.frozen_copy()
        return open_reference(self.session, self.start) if self.session.run.start else self.policy

    def live(self) -> Policy:
        """The model, for a pass beside the policy's at every step."""
        found = self.standing()
        if found is not self.policy:
            return found
        return frozen_twin(self.session, found, self.start)

    def logprobs(self, groups: Sequence[Group]) -> list[Float[Tensor, " _"]]:
        """Of each group the log-probability of every trained token, completions after one another."""
        flat = reference_tokens(
            self.standing(),
            groups,
            weights=self.weights,
            tokens=self.session.tokens,
            cache=self.cache,
            world=self.session.world,
        )
        return list(flat.split([sum(map(sum, group.masks)) for group in groups]))


def references_of(
    config: PreferConfig, session: Session, policy: Policy
) -> tuple[Reference, Reference | None]:
    """What the policy is held to; and what a ranking's last completion is held to, where that is another model."""
    sha256 = session.models.sha256
    cache = Path(config.reference_cache or Path(config.run.out).parent / "cache")
    # In bfloat16 an adapter beside the weights and one merged into them give other last bits.
    start = sha256[START] + ("+" if config.lora.adapter == "train" else "")

    def reference(named: str, weights: str) -> Reference:
        return Reference(
            session=session, policy=policy, start=config.model, named=named, weights=weights, cache=cache
        )

    last = config.reference_last
    return (
        reference(config.reference, sha256.get("reference", start)),
        reference(last, sha256["reference_last"]) if last else None,
    )


def tokens_sha256(groups: Sequence[Group]) -> str:
    """Hash of the token ids and masks of groups, in order."""
    digest = hashlib.sha256()
    for group in groups:
        row = [
            list(group.prompt),
            [list(c) for c in group.completions],
            [list(map(int, m)) for m in group.masks],
        ]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def reference_tokens(
    policy: Policy,
    groups: Sequence[Group],
    *,
    weights: str,
    tokens: int,
    cache: Path,
    world: World,
) -> Float[Tensor, " M"]:
    """`token_logprobs` of a frozen policy, read from the cache if these weights have seen these tokens before.

    `weights` is the hash of the policy's weights. The file is memory-mapped; it is written beside and renamed, so a killed run leaves no
    half of one, and holds a hash of its numbers, so a changed byte does not train another policy in silence.
    """
    kind = [
        str(computes_in(policy.model)),
        policy.way,
        "tokens",
        *({quantisation_of(policy.model)} - {"none"}),
    ]
    key = json.dumps([weights, tokens_sha256(groups), *kind])
    file = cache / f"reference-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    if world.on_main(lambda: _usable(file)):
        log.info("reference log-probabilities: read from %s", file)
        bring(world, str(file))
        return load_file(here(str(file)))[LOGPROBS]
    result = token_logprobs(policy, groups, tokens=tokens, world=world)

    def write() -> None:
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        save_file({LOGPROBS: result}, temporary, metadata={"sha256": numbers_sha256(result)})
        os.replace(temporary, file)

    world.on_main(write)
    return result


def _usable(file: Path) -> bool:
    """Whether the cache has the file, whole. One that is damaged is computed again, and said."""
    if not file.exists():
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            written = (opened.metadata() or {}).get("sha256")
            fault = (
                "" if numbers_sha256(opened.get_tensor(LOGPROBS)) == written else "its hash does not match"
            )
    except (OSError, SafetensorError) as error:
        fault = str(error)
    if fault:
        log.warning("%s is damaged (%s): the reference log-probabilities are computed again.", file, fault)
    return not fault


def numbers_sha256(tensor: Tensor) -> str:
    """Hash of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
