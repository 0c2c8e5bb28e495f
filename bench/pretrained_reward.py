"""What preference-model pretraining is worth (arXiv:2112.00861): reward models on few comparisons, from a language model and from a reward model.

    OMP_NUM_THREADS=2 python -m bench.pretrained_reward MODEL --large public.jsonl --small own.jsonl --out pmp [--sizes 100 300 1000 0] [--layers 4]

A reward model is trained on the large set once. Then each start is trained on the first 100, 300, 1,000 and all (0) of the small set's training
comparisons, and every model is measured on the same held-out ones; the pretrained model also before it has seen any. `--layers` keeps the first
layers of MODEL alone, for a machine that is slow. Prints a Markdown table as it goes, and keeps what is done in OUT/results.json, so that it
can be stopped and started again.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from prefloop.algorithms import reward
from prefloop.configs.common import Compute, Data, Optim, RunSettings
from prefloop.configs.reward import RewardConfig
from prefloop.data import load_comparisons, split, write_jsonl
from prefloop.evaluation.evaluate import TokenBudget, evaluate_reward_model
from prefloop.models.generation import save_model
from prefloop.models.load import load_policy
from prefloop.records import Comparison
from prefloop.runtime import start_world
from prefloop.text import load_tokenizer

HELDOUT = 0.3
COMPUTE = Compute(device="auto")


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--large", required=True, help="comparisons to pretrain on")
    parser.add_argument("--small", required=True, help="comparisons to train on and to measure with")
    parser.add_argument("--out", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000, 0])
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument(
        "--pretrain", type=int, default=0, help="of the large set, the first so many; 0 is all"
    )
    parser.add_argument(
        "--test", type=int, default=0, help="of the held-out comparisons, the first so many; 0 is all"
    )
    parser.add_argument(
        "--tokens", type=int, nargs=2, default=[256, 256], help="of prompts and completions, at most"
    )
    parser.add_argument("--lr", type=float, default=2e-5)
    given = parser.parse_args()
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    start = cut(given.model, given.layers, out) if given.layers else given.model
    large, small = (load_comparisons(source, skip_bad=True) for source in (given.large, given.small))
    print(f"{large.summary}\n{small.summary}")
    train, heldout = split(small.records, heldout=HELDOUT)
    asked = {record.prompt for record in heldout}
    public = [record for record in large.records if record.prompt not in asked][: given.pretrain or None]
    pretrained = fit(start, public, out / "pretrained", given)
    print(
        f"{len(public)} comparisons to pretrain on, {len(train)} to train on, {len(heldout[: given.test or None])} to measure with"
    )
    print("| comparisons | from | accuracy [95 %] | seconds |\n| -- | -- | -- | -- |", flush=True)
    show(out, 0, "the pretrained reward model", pretrained, heldout, given, 0.0)
    for size in given.sizes:
        for name, model, keep in (
            ("the language model", start, False),
            ("the pretrained reward model", pretrained, True),
        ):
            began = time.monotonic()
            some = train[: size or None]
            folder = fit(
                model, some, out / f"{'pretrained' if keep else 'plain'}-{len(some)}", given, keep_head=keep
            )
            show(out, len(some), name, folder, heldout, given, time.monotonic() - began)


def cut(model: str, layers: int, out: Path) -> str:
    """The model's first layers as a model of its own."""
    folder = out / f"first-{layers}"
    if not folder.is_dir():
        policy = load_policy(model, COMPUTE)
        policy.model.base_model.layers = policy.model.base_model.layers[:layers]  # pyright: ignore[reportIndexIssue, reportArgumentType]
        policy.model.config.num_hidden_layers = layers
        save_model(policy.model, load_tokenizer(model), folder)
    return str(folder)


def fit(
    model: str,
    records: "list[Comparison] | tuple[Comparison, ...]",
    out: Path,
    given: argparse.Namespace,
    *,
    keep_head: bool = False,
) -> str:
    """Train a reward model, unless that is done already; its folder."""
    final = out / "final"
    if final.is_dir():
        return str(final)
    write_jsonl(records, out.with_suffix(".jsonl"))
    prompt, completion = given.tokens
    config = RewardConfig(
        run=RunSettings(out=str(out)),
        data=Data(
            source=str(out.with_suffix(".jsonl")),
            heldout=0.0,
            max_prompt_tokens=prompt,
            max_completion_tokens=completion,
            overlong="truncate",
        ),
        model=model,
        keep_head=keep_head,
        normalise=False,
        batch_size=16,
        optim=Optim(lr=given.lr, schedule="linear", warmup=0.03),
        compute=COMPUTE,
    )
    reward.train(config)
    return str(final)


def show(
    out: Path,
    size: int,
    name: str,
    folder: str,
    heldout: "tuple[Comparison, ...]",
    given: argparse.Namespace,
    seconds: float,
) -> None:
    """Measure a reward model on the held-out comparisons, and print and keep it."""
    prompt, completion = given.tokens
    quality = evaluate_reward_model(
        folder,
        heldout[: given.test or None],
        compute=COMPUTE,
        world=start_world(COMPUTE.device),
        budget=TokenBudget(prompt=prompt, completion=completion, truncate=True),
    )
    found = quality.accuracy
    print(
        f"| {size} | {name} | {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] | {seconds:.0f} |",
        flush=True,
    )
    file = out / "results.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    rows = [row for row in rows if (row["comparisons"], row["from"]) != (size, name)]
    file.write_text(
        json.dumps([*rows, {"comparisons": size, "from": name, "accuracy": asdict(found)}], indent=1)
    )


if __name__ == "__main__":
    main()
