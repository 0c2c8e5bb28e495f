"""Processor seconds of a training step, its share of the matrix-product limit, and where they go. One core, about a minute:

    OMP_NUM_THREADS=1 python -m bench.training_step dpo small DATA

DATA is a file or folder of comparisons. Stages: dpo, kto, sft, reward, grpo, ppo. The stage's own `train` runs on a Llama with random weights;
times are of whole steps less the sampling of completions, in processor time, which other processes do not lengthen as they do the clock's.
`--profile` prints where a step goes; `--set path.to.setting=value` changes the configuration, for example `--set compute.dtype=bfloat16`.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from prefloop.algorithms import critic_free, dpo, ppo, prefer, reward, sft
from prefloop.configs.common import Compute, Data, Optim, RunSettings, Sampling
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig
from prefloop.configs.prefer import PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data.load import load_comparisons
from prefloop.models import head as head_module
from prefloop.models import roles as roles_module
from prefloop.models.packing import Batch
from prefloop.runtime import Run
from prefloop.runtime.tune import peak_rss_mb
from prefloop.text import encode_all, train_tokenizer

PAIRS, MAX_TOKENS, RECORDS = 16, 256, 160
SIZES = {
    "tiny": {"hidden_size": 128, "layers": 4, "heads": 4, "intermediate_size": 344, "vocab_size": 4096},
    "small": {"hidden_size": 384, "layers": 6, "heads": 6, "intermediate_size": 1024, "vocab_size": 16384},
}


def make_material(folder: Path, size: str, source: str) -> None:
    """`policy`, `reward_model` and `comparisons.jsonl`: those that fit in MAX_TOKENS, so that none is cut."""
    shape: dict[str, Any] = dict(SIZES[size])
    records = load_comparisons(source, skip_bad=True).records[:2000]
    texts = [text for r in records for text in (str(r.prompt.content), r.chosen, r.rejected)]
    tokenizer = train_tokenizer(texts, vocab_size=shape["vocab_size"])
    layers, heads = shape.pop("layers"), shape.pop("heads")
    ids: dict[str, Any] = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = LlamaConfig(
        **shape,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        **ids,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "policy")
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward_model")
    for name in ("policy", "reward_model"):
        tokenizer.save_pretrained(folder / name)
    encoded = encode_all(
        tokenizer, records, max_prompt_tokens=MAX_TOKENS, max_completion_tokens=MAX_TOKENS, overlong="drop"
    )
    fits = [
        records[at]
        for at, group in zip(encoded.kept, encoded.groups, strict=True)
        if len(group.prompt) + max(map(len, group.completions)) <= MAX_TOKENS
    ]
    rows = [
        {
            "prompt": r.prompt.content
            if isinstance(r.prompt.content, str)
            else [{"role": m.role, "content": m.content} for m in r.prompt.content],
            "chosen": r.chosen,
            "rejected": r.rejected,
        }
        for r in fits[:RECORDS]
    ]
    (folder / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))


def settings_of(stage: str, material: Path, steps: int) -> tuple[Any, Callable[[Any], Any]]:
    """A stage's configuration and its `train`."""
    out = tempfile.mkdtemp(dir=material)
    common: dict[str, Any] = {
        "run": RunSettings(out=f"{out}/{stage}", seed=0),
        "optim": Optim(lr=1e-5, schedule="constant"),
        "compute": Compute(device="cpu"),
    }
    data = Data(
        source=str(material / "comparisons.jsonl"),
        heldout=0.0,
        max_prompt_tokens=MAX_TOKENS,
        max_completion_tokens=MAX_TOKENS,
    )
    policy, reward_model = str(material / "policy"), str(material / "reward_model")
    offline = {**common, "data": data, "max_steps": steps}
    online = {
        **common,
        "data": dataclasses.replace(data, max_prompt_tokens=64, overlong="truncate"),
        "steps": steps,
        "model": policy,
        "sampling": Sampling(max_new_tokens=64),
    }
    match stage:
        case "dpo":
            return DPOConfig(**offline, batch_size=PAIRS, model=policy), dpo.train
        case "kto":
            kto = PreferConfig(
                **offline, batch_size=2 * PAIRS, model=policy, loss="kto", from_comparisons=True
            )
            return kto, prefer.train
        case "sft":
            offline["data"] = dataclasses.replace(data, source=str(material / "demonstrations.jsonl"))
            return SFTConfig(**offline, batch_size=2 * PAIRS, model=policy), sft.train
        case "reward":
            return RewardConfig(**offline, batch_size=PAIRS, model=reward_model, keep_head=True), reward.train
        case "grpo":
            grpo = GRPOConfig(
                **online,
                reward_model=reward_model,
                batch_prompts=4,
                completions_per_prompt=8,
                minibatches=4,
                kl=KL(coef=0.04, placement="loss", estimator="k3"),
            )
            return grpo, critic_free.train
        case _:
            ppo_config = PPOConfig(
                **online,
                reward_model=reward_model,
                batch_prompts=32,
                epochs=4,
                minibatches=2,
                critic=CriticSettings(start="reward"),
            )
            return ppo_config, ppo.train


def changed(config: Any, path: str, value: str) -> Any:
    """The configuration with one setting changed, `compute.dtype` for example."""
    name, _, rest = path.partition(".")
    old = getattr(config, name)
    new = (
        changed(old, rest, value)
        if rest
        else (value == "true" if isinstance(old, bool) else type(old)(value))
    )
    return dataclasses.replace(config, **{name: new})


class Work:
    """What a step costs at least, in floating-point operations: no padding, each prompt once, the head where a token is predicted.

    6 for each weight and token where there is a backward pass, 2 where not; attention the same for two products of each visible pair.
    """

    def __init__(self) -> None:
        self.flops = self.seconds_off = 0.0
        hidden_rows, statistics = roles_module.hidden_rows, head_module._statistics

        def counted_rows(model: Any, batch: Batch, way: Any) -> Tensor:
            self.flops += (6.0 if torch.is_grad_enabled() else 2.0) * trunk_work(model.config, batch)
            return hidden_rows(model, batch, way)

        def counted_head(hidden: Tensor, head: Any, *rest: Any) -> Any:
            self.flops += (6.0 if hidden.requires_grad else 2.0) * hidden.numel() * head.weight.shape[0]
            return statistics(hidden, head, *rest)

        roles_module.hidden_rows, head_module._statistics = counted_rows, counted_head
        for module in (ppo, critic_free):
            setattr(module, "draw_rollout", self._off(module.draw_rollout))  # noqa: B010

    def _off(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                self.seconds_off += time.process_time() - began

        return timed


def trunk_work(config: Any, batch: Batch) -> float:
    """Multiplications and additions, in pairs, of the trunk's forward pass."""
    d, ffn = config.hidden_size, config.intermediate_size
    pairs = float((batch.position_ids + 1).sum())  # each token sees its own position's number of tokens
    return config.num_hidden_layers * (batch.tokens * (4 * d * d + 3 * d * ffn) + 2 * d * pairs)


def matmul_gflops(rows: int = 2048, width: int = 768) -> float:
    """What one large float32 product reaches, the best of several, per processor second."""
    a, b, out = torch.randn(rows, width), torch.randn(width, width), torch.empty(rows, width)
    best = 0.0
    for _ in range(6):
        began = time.process_time()
        torch.mm(a, b, out=out)
        best = max(best, 2e-9 * rows * width * width / (time.process_time() - began))
    return best


def run(stage: str, material: Path, steps: int, changes: list[str], *, profile: bool) -> dict[str, Any]:
    """Time steps of a stage; the first two warm up."""
    config, train = settings_of(stage, material, steps)
    for change in changes:
        config = changed(config, *change.split("=", 1))
    work = Work()
    seconds: list[float] = []
    flops: list[float] = []
    limits: list[float] = []
    losses: list[float] = []
    faults: list[int] = []
    real = Run.steps

    def timed(self: Run, **kwargs: Any) -> Iterator[int]:
        for step in real(self, **kwargs):
            limits.append(matmul_gflops())
            work.flops = work.seconds_off = 0.0
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            began = time.process_time()
            with _profiled(on=profile and step == 3):
                yield step
            seconds.append(time.process_time() - began - work.seconds_off)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
            flops.append(work.flops)
            losses.append(self.last_metrics.get("loss", 0.0))

    Run.steps = timed  # pyright: ignore[reportAttributeAccessIssue]
    train(config)
    later = slice(2, None)
    limit = statistics.median(limits)
    reached = [1e-9 * f / s for f, s in zip(flops[later], seconds[later], strict=True)]
    shares = [each / of for each, of in zip(reached, limits[later], strict=True)]
    return {
        "stage": stage,
        "cpu_s": round(statistics.median(seconds[later]), 4),
        "cpu_s_least": round(min(seconds[later]), 4),
        "gflop": round(1e-9 * statistics.median(flops[later]), 2),
        "gflops": round(statistics.median(reached), 1),
        "matmul_gflops": round(limit, 1),
        "of_matmul": round(statistics.median(shares), 3),
        "faults": int(statistics.median(faults[later])),
        "peak_mb": round(peak_rss_mb()),
        "first_losses": losses[:3],
    }


@contextmanager
def _profiled(*, on: bool) -> Iterator[None]:
    if not on:
        yield
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        yield
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=28, max_name_column_width=60))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("dpo", "kto", "sft", "reward", "grpo", "ppo"))
    parser.add_argument("size", choices=tuple(SIZES))
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--keep", default="", help="folder for the models, to use them again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        material = Path(given.keep or scratch) / given.size
        if not (material / "comparisons.jsonl").exists():
            make_material(material, given.size, given.data)
        print(json.dumps(run(given.stage, material, given.steps, given.set, profile=given.profile)))


if __name__ == "__main__":
    main()
