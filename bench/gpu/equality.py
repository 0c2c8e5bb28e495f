"""The device's numbers beside the processor's."""

import torch
from torch import Tensor

from bench.gpu.material import SIZES, comparisons, language_model
from prefloop.configs.common import Compute, Sampling
from prefloop.models.load import as_policy
from prefloop.models.packing import pack
from prefloop.rollout import sample


def check_equality(device: str, family: str) -> None:
    """Stop where the device's log-probabilities, gradients or tokens are not the processor's, in float32 on a small model."""
    size = SIZES["tiny"]
    groups, found = comparisons(size), []
    for place in ("cpu", device):
        model = language_model(size, family, torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)  # distributions that are far from uniform
        policy = as_policy(model, Compute(device=place))  # pyright: ignore[reportArgumentType]
        logprobs = policy(pack(groups, policy.device))
        logprobs.sum().backward()
        gradient = policy.model.get_input_embeddings().weight.grad  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(gradient, Tensor)
        drawn = sample(
            policy.model,
            [group.prompt for group in groups],
            k=2,
            stop_ids=(),
            sampling=Sampling(max_new_tokens=8),
            seed=0,
            row_keys=range(len(groups)),
        )
        tokens = [one.tokens for group in drawn for one in group]
        found.append((policy.way, logprobs.detach().cpu(), gradient.cpu(), tokens))
    (_, logprobs, gradient, tokens), (way, theirs, their_gradient, their_tokens) = found
    apart = float((logprobs - theirs).abs().max())
    gradients_apart = float((gradient - their_gradient).norm() / gradient.norm())
    same = sum(one == other for one, other in zip(tokens, their_tokens, strict=True))
    print(
        f"equality on {device} ({way}): log-probabilities differ by {apart:.1e}, gradients by {gradients_apart:.1e}; "
        f"{same} of {len(tokens)} completions are the same"
    )
    if apart > 1e-3 or gradients_apart > 1e-3 or same < len(tokens) - 1:
        raise SystemExit("the device's numbers are not the processor's: nothing was timed")
