"""One GPU: are its numbers those of the processor, and how fast are DPO, PPO, GRPO and sampling on it, also beside TRL:

    python -m bench.gpu --size 0.5b
    python -m bench.gpu --size 1.5b --family qwen2 --trl .venv-trl/bin/python

Models have random weights and the shapes of Qwen2 0.5B and 1.5B (or a Llama's block in those shapes), in bfloat16. DPO's step, PPO's update and
generation run two ways in turn: ours, and plain, which is transformers alone: every completion padded after its own copy of the prompt with the
logits of every position, and `generate`, which is what TRL samples with where it has no server beside it. Rounds of PPO and GRPO are those of
the comparison on a processor (`bench.versus`): 32 completions, PPO with 4 epochs of 2 updates and a critic of its own, GRPO with 8 completions of a prompt
and 4 updates, by `prefloop`'s own stages. With `--trl PYTHON`, of an environment that has TRL (`make bench` makes `.venv-trl/bin/python`, with the last
release that has PPO beside it), its trainers take turns in DPO's step and in the rounds, on the same models and data, in bfloat16, with Liger's
kernels where that environment has them. MFU is the share of `--peak` TFLOP/s that the real tokens' arithmetic needs, padding and recomputation
not counted. A contender that ends with an error is named, the others go on, and the command ends with 1.

`--device cpu --size tiny` runs every part here in a minute or two, to see that it works.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.gpu.equality import check_equality
from bench.gpu.material import CONFIGS, SIZES, comparisons, write_material
from bench.gpu.timing import Setting, time_generation, time_rounds, time_updates

PEAK = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 TFLOP/s by the makers' data sheets."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where there is no GPU, or a contender ended with an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    parser.add_argument("--family", choices=CONFIGS, default="llama")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--peak", type=float, default=0.0, help="dense bfloat16 TFLOP/s; 0: by the GPU's name"
    )
    parser.add_argument("--trl", type=Path, help="a Python that has TRL, to measure its trainers too")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured (`--device cpu --size tiny` tries every part)")
        return 1
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    peak = args.peak or next((rate for chip, rate in PEAK.items() if chip in name), 1.0)
    print(f"{name}, torch {torch.__version__}, {args.family} {args.size}, peak {peak:g} TFLOP/s")
    check_equality(args.device, args.family)
    size = SIZES[args.size]
    groups = comparisons(size)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            size=size,
            family=args.family,
            device=args.device,
            repeats=args.repeats,
            peak=peak,
            trl=args.trl,
            folder=Path(folder),
        )
        write_material(setting.folder, size, args.family, groups)
        time_updates(setting, groups)
        if args.device == "cuda":
            torch.cuda.empty_cache()  # the workers of the rounds need what this process has freed
        time_rounds(setting)
        time_generation(setting)
    return 1 if setting.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
