"""What a decoder takes beside the model it samples from, and how long a step of 16 completions takes.

OMP_NUM_THREADS=1 python -m bench.decoder_memory MODEL [--lora]
"""

import argparse
import gc
import time
from pathlib import Path

import torch

from prefloop.configs.common import Compute, LoRA
from prefloop.models.load import load_policy
from prefloop.models.lora import lora_policy
from prefloop.rollout.decoders import make_decoder

COMPLETIONS, COLUMNS, STEPS = 16, 128, 15


def resident_mb() -> float:
    """Memory of this process, MB (Linux)."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--lora", action="store_true", help="with an adapter of rank 16")
    given = parser.parse_args()
    policy = load_policy(given.model, Compute(device="cpu"))
    if given.lora:
        policy, _ = lora_policy(policy, LoRA(rank=16), seed=0)
    gc.collect()
    of_model, best = resident_mb(), float("inf")
    with policy.active() as model, torch.inference_mode():
        decoder = make_decoder(model, slots=COMPLETIONS, columns=COLUMNS)
        of_decoder = resident_mb() - of_model
        read = decoder.prefill([[1] * 32] * 4)
        decoder.fill(range(COMPLETIONS), read, [row % 4 for row in range(COMPLETIONS)])
        for step in range(STEPS):
            began = time.process_time()
            positions = torch.full((COMPLETIONS,), 31 + step)
            decoder.logits(torch.full((COMPLETIONS,), 5), positions, 32 + step)
            best = min(best, time.process_time() - began)
    after = resident_mb() - of_model
    print(
        f"{type(decoder).__name__}: process {of_model:.0f} MB, decoder {of_decoder:.0f} MB, with cache and steps {after:.0f} MB; "
        f"a step {1e3 * best:.0f} ms of processor time"
    )


if __name__ == "__main__":
    main()
