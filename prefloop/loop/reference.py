"""Reference log-probabilities of every token, computed once and kept on disk by what they depend on: weights, tokens and precision."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.models.roles import Policy
from prefloop.rollout.scoring import token_logprobs
from prefloop.runtime import World
from prefloop.text.groups import Group

log = logging.getLogger(__name__)


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
    half of one.
    """
    key = json.dumps([weights, tokens_sha256(groups), str(policy.model.dtype), policy.way, "tokens"])
    file = cache / f"reference-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    if world.on_main(lambda: _usable(file)):
        log.info("reference log-probabilities: read from %s", file)
        return load_file(file)["logprobs"]
    result = token_logprobs(policy, groups, tokens=tokens, world=world)

    def write() -> None:
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        save_file({"logprobs": result}, temporary)
        os.replace(temporary, file)

    world.on_main(write)
    return result


def _usable(file: Path) -> bool:
    """Whether the cache has the file, whole. One that is damaged is computed again, and said."""
    if not file.exists():
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            return "logprobs" in opened.keys()  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged (%s): the reference log-probabilities are computed again.", file, error)
        return False
