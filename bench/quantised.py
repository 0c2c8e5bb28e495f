"""What weights in 8 and 4 bits change: the loss, single log-probabilities, bytes of the linear layers, and the time of a forward and backward pass.

OMP_NUM_THREADS=1 python -m bench.quantised MODEL TEXTS [--rows 64]

TEXTS: rows with `prompt` and `completion`; the first of them, cut to `--tokens`.
"""

import argparse
import time

from torch import Tensor, nn

from prefloop.configs.common import Compute, LoRA
from prefloop.data import BadRow, read_rows
from prefloop.models.load import load_policy
from prefloop.models.lora import lora_policy
from prefloop.models.packing import pack
from prefloop.models.quantize import is_quantised_linear
from prefloop.text.groups import Group
from prefloop.text.tokenizer import load_tokenizer

KINDS = ("none", "int8", "nf4")


def texts(model: str, file: str, *, rows: int, tokens: int) -> list[Group]:
    """The first rows, prompts and completions cut to `tokens` each."""
    tokenizer, found = load_tokenizer(model), []
    for row in read_rows(file):
        if isinstance(row, BadRow):
            continue
        prompt, completion = (
            tokenizer(str(row.values[name])).input_ids[:tokens] for name in ("prompt", "completion")
        )
        if prompt and completion:
            found.append(Group(prompt=prompt, completions=(completion,), masks=([True] * len(completion),)))
        if len(found) == rows:
            break
    return found


def linear_bytes(model: nn.Module) -> int:
    """Of the weights of linear layers but the head and adapters."""
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if "lora_" not in name and name.split(".")[-1] != "lm_head"
    ]
    return sum(
        module.weight.numel() * module.weight.element_size()
        for _, module in layers
        if is_quantised_linear(module) or type(module) is nn.Linear
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    given = parser.parse_args()
    groups = texts(given.model, given.texts, rows=given.rows, tokens=given.tokens)
    print("| weights | loss, nats per token | distance of a log-probability, mean | largest | MB | pass, s |")
    print("| -- | -- | -- | -- | -- | -- |")
    whole: Tensor | None = None
    for kind in KINDS:
        policy = load_policy(given.model, Compute(device="cpu", quantize=kind))
        size = linear_bytes(policy.model)
        adapted, _ = lora_policy(policy, LoRA(rank=16), seed=0)
        batch = pack(groups, policy.device)
        mask = batch.completion_mask
        began = time.process_time()
        logprobs = adapted(batch)
        (logprobs * mask).sum().backward()
        seconds = time.process_time() - began
        logprobs = logprobs.detach()
        whole = logprobs if whole is None else whole
        apart = ((logprobs - whole).abs() * mask)[mask]
        print(
            f"| {kind} | {-logprobs[mask].mean():.3f} | {apart.mean():.3f} | {apart.max():.2f} | {size / 1e6:.0f} | {seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
