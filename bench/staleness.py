"""What drawing ahead costs: a policy's return after training on completions of older weights, with and without importance weights.

    OMP_NUM_THREADS=1 python -m bench.staleness --folder stale --picture docs/staleness.svg

The toy world's language model is trained and fine-tuned in the folder, unless it is there. Then GRPO trains an adapter on it, once for each staleness,
rule and seed, on completions of a vLLM server (`prefloop engine serve`, started here). The return is the toy judge's mean score of completions that the
trained policy draws in process for prompts it was not trained on, less that of the policy before. Finished runs are kept in `runs.jsonl`, so it may be
interrupted.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Literal, cast

from prefloop.algorithms import critic_free, pretrain, sft
from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, Sampling
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.engine import EngineServeConfig, Importance, OnlineSampling
from prefloop.configs.recipes import ToyConfig
from prefloop.data.toy_world import ToyWorld
from prefloop.evaluation.curves import Series
from prefloop.evaluation.plots import Frame, line_chart, standalone
from prefloop.feedback.gold import ToyJudge
from prefloop.models.load import load_policy
from prefloop.models.roles import Policy
from prefloop.recipes.toy import stages, world_files
from prefloop.records import Prompt
from prefloop.rollout import sample
from prefloop.rollout.engine.environment import find_environment
from prefloop.rollout.engine.server import free_port, serving
from prefloop.runtime.journal import read_metrics
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids

CPU = Compute(device="cpu")
RULES = {"truncate": "with importance weights", "off": "without"}
TOKENS = 16
"""Of a completion."""
HELDOUT, DRAWS = 64, 4
"""Prompts, and completions of each, that the return is measured on."""
Cell = tuple[int, str, int]
"""Staleness, rule, seed."""


def gold(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """The reward: the toy judge's utility."""
    return [ToyJudge().utility(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]


def make_policy(folder: Path) -> Path:
    """The toy world's policy after SFT, smaller than the recipe's."""
    settings = ToyConfig(out=str(folder), texts=3000, demonstrations=600, prompts=400, compute=CPU)
    plan = stages(settings, folder, world_files(settings, folder))
    made = folder / "sft/final"
    if not made.exists():
        pretrain.train(plan.pretrain[0])
        sft.train(plan.sft)
    return made


def run(folder: Path, url: str, cell: Cell, steps: int) -> dict[str, float]:
    """Train once; the return of the policy, and what the run logged of its engine."""
    staleness, rule, seed = cell
    out = folder / f"grpo-{staleness}-{rule}-{seed}"
    config = GRPOConfig(
        run=RunSettings(out=str(out), seed=seed, tune=False, resume=out.exists()),
        data=Data(source=str(folder / "data/prompts.jsonl"), heldout=0.2),
        model=str(folder / "sft/final"),
        reward_model="bench.staleness:gold",
        sampling=OnlineSampling(max_new_tokens=TOKENS, engine=url, staleness=staleness),
        importance=Importance(rule=cast(Literal["truncate", "off"], rule)),
        lora=LoRA(rank=8),
        steps=steps,
        batch_prompts=8,
        completions_per_prompt=4,
        optim=Optim(lr=5e-3, schedule="constant"),
        compute=CPU,
    )
    critic_free.train(replace(config, run=replace(config.run, save_every=steps)))
    rows = read_metrics(out / "metrics.jsonl")
    last = rows[-1]
    return {
        "return": returns(load_policy(str(out / "final"), CPU), folder),
        "kl": last["kl"],
        "sampler_gap": last.get("sampler_gap", 0.0),
        "engine_gap_max": max(row.get("engine_gap_max", 0.0) for row in rows),
    }


def returns(policy: Policy, folder: Path) -> float:
    """The judge's mean score of what a policy draws for other prompts than those it was trained on."""
    reader = load_tokenizer(str(folder / "sft/final"))
    prompts = list(ToyWorld(99).prompts(HELDOUT))
    with policy.active() as model:
        drawn = sample(
            model,
            [encode_prompt(reader, prompt) for prompt in prompts],
            k=DRAWS,
            stop_ids=stop_token_ids(reader),
            sampling=Sampling(max_new_tokens=TOKENS, batch_size=128),
            seed=0,
            row_keys=range(HELDOUT),
        )
    scores = [
        score
        for prompt, row in zip(prompts, drawn, strict=True)
        for score in gold([prompt] * DRAWS, [decode_completion(reader, one.tokens) for one in row])
    ]
    return sum(scores) / len(scores)


def picture(table: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """Return against staleness: the seeds' mean, from the lowest to the highest."""
    series = []
    for slot, (rule, by) in enumerate(table.items(), 1):
        series.append(
            Series(
                label=RULES[rule],
                x=[float(staleness) for staleness in by],
                y=[mean(values) for values in by.values()],
                low=[min(values) for values in by.values()],
                high=[max(values) for values in by.values()],
                slot=slot,
            )
        )
    drawn = line_chart(
        series,
        title="Return after training on completions of older weights",
        x_label="sampling.staleness",
        y_label="gain in the judge's score",
        frame=Frame(include_x=[0.0]),
    )
    return standalone(drawn)


def main() -> None:
    """Train what is missing, print the table of docs/engine.md and draw its picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--engine", default="", help="address of a server of FOLDER/sft/final; else one is started"
    )
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 4, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    folder: Path = given.folder
    model, kept = make_policy(folder), folder / "runs.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {tuple(row["cell"]): row for row in rows}
    cells = [(n, rule, seed) for seed in range(given.seeds) for n in given.staleness for rule in RULES]
    with ExitStack() as stack:
        url = given.engine
        for cell in cells:
            if cell in done:
                continue
            if not url:
                settings = EngineServeConfig(
                    model=str(model),
                    port=free_port(),
                    log=str(folder / "engine.log"),
                    max_adapters=1 + max(given.staleness),
                    max_lora_rank=8,
                )
                url = stack.enter_context(serving(settings, find_environment(""))).url
            done[cell] = {"cell": cell, **run(folder, url, cell, given.steps)}
            with kept.open("a") as file:
                file.write(json.dumps(done[cell]) + "\n")
            print(done[cell], flush=True)
    start = returns(load_policy(str(model), CPU), folder)
    table = {
        rule: {
            n: [done[n, rule, seed]["return"] - start for seed in range(given.seeds)] for n in given.staleness
        }
        for rule in RULES
    }
    print(f"\nreturn before training {start:.3f}; gain, mean of {given.seeds} seeds (lowest to highest)\n")
    print(
        "| staleness | with importance weights | without | KL, with | KL, without | `sampler_gap`, last step |"
    )
    print("| -- | -- | -- | -- | -- | -- |")
    for n in given.staleness:
        of_rule = [table[rule][n] for rule in RULES]
        gains = [f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})" for values in of_rule]
        logged = {
            (name, rule): mean(done[n, rule, seed][name] for seed in range(given.seeds))
            for name in ("kl", "sampler_gap")
            for rule in RULES
        }
        kl = [f"{logged['kl', rule]:.2f}" for rule in RULES]
        print(f"| {n} | {' | '.join((*gains, *kl))} | {logged['sampler_gap', 'truncate']:.2g} |")
    if given.picture:
        given.picture.write_text(picture(table), encoding="utf-8")
        print(f"\nwrote {given.picture}")


if __name__ == "__main__":
    main()
