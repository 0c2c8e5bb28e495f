"""Every objective of `prefloop prefer` from one start on one budget of samples, judged by the toy world's gold utility. After `prefloop run toy --out demo`:

    OMP_NUM_THREADS=1 python -m bench.families --toy demo --out families [--loss dpo kto] [--prompts 500] [--seeds 0]

Four completions of each training prompt are drawn from the SFT model once, and one noisy annotator (Bradley-Terry at temperature 0.25, 10 % of its
labels flipped) is asked in the way that each kind of data has: the better of two, an order of four, good or bad, a number. Comparisons are two of each prompt's four,
so an objective on pairs reads half the completions that the others read. Prints a Markdown table, and keeps what is done in OUT/results.json.
"""

import argparse
import json
import math
import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefloop.algorithms import prefer
from prefloop.configs.common import Compute, Data, Optim, RunSettings, Sampling
from prefloop.configs.prefer import FollowPolicy, PreferConfig
from prefloop.data import load_prompts, split, write_jsonl
from prefloop.data.toy_world import gold_utility
from prefloop.evaluation.evaluate import Setting, answer, evaluate_policies
from prefloop.losses.objectives import OBJECTIVES
from prefloop.models.load import load_policy
from prefloop.records import Comparison, Label, Prompt, Ranking, Score
from prefloop.runtime import World, start_world
from prefloop.text import load_tokenizer

HELDOUT = 0.2
TEMPERATURE, FLIP = 0.25, 0.1
SAMPLING = Sampling(max_new_tokens=48, batch_size=128)
COMPUTE = Compute(device="cpu")
RATE = 2e-4
"""Learning rate where `CHANGES` has no other."""

CHANGES: dict[str, dict[str, Any]] = {
    "ipo_sum": {"settings": ("beta=0.02",)},
    "ipo_mean": {"settings": ("beta=0.5",)},
    "sppo_hard": {"settings": ("beta=0.02",)},
    "sppo_soft": {"settings": ("beta=0.02",)},
    "bco_pair": {"settings": ("beta=0.1",)},
    "bco": {"settings": ("beta=0.1",)},
    "nca_pair": {"settings": ("beta=0.1",)},
    "hinge": {"settings": ("beta=0.1",)},
    "r_dpo": {"settings": ("alpha=0.02",)},
    "bco_matched": {"settings": ("beta=0.1",)},
    "npo": {"settings": ("beta=1",)},
    "dro": {"settings": ("tau=0.2",)},
    "unlikelihood": {"settings": ("alpha=0.5",)},
}
"""What an objective is run with besides its defaults: settings for log-ratios as large as these short replies give."""


def main() -> None:
    """Draw, judge, train and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", type=Path, required=True, help="project folder of the recipe toy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--loss", nargs="*", default=[*OBJECTIVES, "tr_dpo"])
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--eval_prompts", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.json"
    done: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    world, start = start_world("cpu"), str(given.toy / "sft" / "final")
    train, heldout = split(load_prompts(str(given.toy / "data" / "prompts.jsonl")).records, heldout=HELDOUT)
    for seed in given.seeds:
        data = given.out / f"data-{seed}"
        if not data.exists():
            draw(start, list(train[: given.prompts]), data, seed, world)
        for loss in given.loss:
            key = f"{loss} {seed}"
            if key in done:
                continue
            began = time.process_time()
            policy = fit(loss, start, data, given.out / key.replace(" ", "-"), seed)
            took = time.process_time() - began
            measured = measure(start, str(policy), list(heldout[: given.eval_prompts]), seed, world)
            done[key] = {"loss": loss, "seed": seed, "seconds": took, **measured}
            file.write_text(json.dumps(done, indent=1))
            print(row(done[key]), flush=True)
    print("\n".join(table(list(done.values()))))


def draw(start: str, prompts: list[Prompt], folder: Path, seed: int, world: World) -> None:
    """Four completions a prompt, and what the annotator says of them."""
    policy, tokenizer = load_policy(start, COMPUTE), load_tokenizer(start)
    setting = Setting(
        sampling=SAMPLING,
        completions_per_prompt=4,
        seed=seed,
        max_prompt_tokens=128,
        compute=COMPUTE,
        world=world,
    )
    rollout = answer(policy, tokenizer, prompts, setting)
    noise = random.Random(f"{seed} families")
    rows: dict[str, list[Any]] = {"comparisons": [], "rankings": [], "labels": [], "scores": []}
    utilities = [[gold_utility(p, t) for t in ts] for p, ts in zip(prompts, rollout.texts, strict=True)]
    middle = sorted(u for four in utilities for u in four)[2 * len(prompts)]
    for prompt, texts, known in zip(prompts, rollout.texts, utilities, strict=True):
        # Gumbel noise on utilities: pairs of the order follow Bradley-Terry.
        felt = [u - TEMPERATURE * math.log(-math.log(noise.uniform(1e-12, 1))) for u in known]
        pair = sorted((0, 1), key=lambda i, felt=felt: -felt[i])
        if noise.random() < FLIP:
            pair.reverse()
        if texts[0] != texts[1]:
            rows["comparisons"].append(
                Comparison(prompt=prompt, chosen=texts[pair[0]], rejected=texts[pair[1]])
            )
        order = sorted(range(4), key=lambda i, felt=felt: -felt[i])
        if noise.random() < FLIP:
            order.reverse()
        if len(set(texts)) == 4:
            rows["rankings"].append(Ranking(prompt=prompt, completions=tuple(texts[i] for i in order)))
        for text, feeling in zip(texts, felt, strict=True):
            turned = noise.random() < FLIP
            good = (feeling > middle) != turned
            rows["labels"].append(Label(prompt=prompt, completion=text, good=good))
            value = (2 * middle - feeling if turned else feeling) - middle
            rows["scores"].append(Score(prompt=prompt, completion=text, value=value))
    folder.mkdir(parents=True)
    for kind, records in rows.items():
        write_jsonl(records, folder / f"{kind}.jsonl")


def fit(loss: str, start: str, data: Path, out: Path, seed: int) -> Path:
    """Train by one objective, one epoch; `tr_dpo` is DPO whose reference follows every fourth step."""
    follow = FollowPolicy(every=4, rate=0.6) if loss == "tr_dpo" else FollowPolicy()
    name = "dpo" if loss == "tr_dpo" else loss
    kind = OBJECTIVES[name].data
    config = PreferConfig(
        run=RunSettings(out=str(out), seed=seed, resume=False),
        data=Data(source=str(data / f"{kind}.jsonl"), heldout=0.0),
        model=start,
        loss=name,
        follow=follow,
        batch_size=32 if kind in ("labels", "scores") else 16,
        epochs=1,
        reference_cache=str(data / "cache"),
        optim=Optim(lr=RATE, schedule="linear", warmup=0.1),
        compute=COMPUTE,
    )
    changes = dict(CHANGES.get(loss, {}))
    rate = changes.pop("lr", RATE)
    return prefer.train(replace(config, optim=replace(config.optim, lr=rate), **changes))


def measure(start: str, policy: str, prompts: list[Prompt], seed: int, world: World) -> dict[str, Any]:
    """Against the start on held-out prompts."""
    setting = Setting(
        sampling=SAMPLING,
        completions_per_prompt=1,
        seed=seed + 1_000_003,
        max_prompt_tokens=128,
        compute=COMPUTE,
        world=world,
    )
    results = evaluate_policies({"sft": start, "policy": policy}, prompts, setting, gold=gold_utility)
    found = results.policies[1]
    assert found.gold
    assert found.win_rate_vs_sft
    return {
        "wins": asdict(found.win_rate_vs_sft),
        "gold": asdict(found.gold),
        "kl": asdict(found.kl),
        "length": asdict(found.length),
    }


def table(results: list[dict[str, Any]]) -> list[str]:
    """Markdown, by kind of data."""
    lines: list[str] = []
    for kind in ("comparisons", "rankings", "labels", "scores"):
        of_kind = [each for each in results if kind_of(each["loss"]) == kind]
        if of_kind:
            lines += [
                "",
                kind,
                "",
                "| `--loss` | seed | settings | wins against SFT, % | gold | KL, nats | tokens | processor s |",
            ]
            lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |", *map(row, of_kind)]
    return lines


def kind_of(loss: str) -> str:
    """What it trains on."""
    return OBJECTIVES["dpo" if loss == "tr_dpo" else loss].data


def row(result: dict[str, Any]) -> str:
    """One objective."""

    def shown(name: str, digits: int, scale: float = 1.0) -> str:
        value, low, high = (scale * result[name][key] for key in ("value", "low", "high"))
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    changes = CHANGES.get(result["loss"], {})
    settings = " ".join(changes.get("settings", ()))
    return (
        f"| `{result['loss']}` | {result['seed']} | {settings} | {shown('wins', 0, 100)} | {shown('gold', 2)} | {shown('kl', 1)} | "
        f"{result['length']['value']:.0f} | {result['seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
