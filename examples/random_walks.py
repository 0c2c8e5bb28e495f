"""PPO, rejection-sampling fine-tuning and implicit Q-learning on the random-walks task of `prefloop.data.random_walks`.

    python -m examples.random_walks --out runs/walks --seeds 0 1 2
    python -m examples.random_walks --out runs/more --methods nlpo online_dpo nash_md sppo

A small language model is trained on 1,000 random walks by likelihood. From it PPO and expert iteration learn with the optimality of their own walks as reward,
and implicit Q-learning from the same 1,000 walks and their scores alone, without walking once. Each policy then walks from every start, and the mean optimality
is measured; the Q-learner's at several decoding betas. Prints a table, and writes walks.json and walks.svg.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prefloop.algorithms import expert, ilql, nash_md, online_dpo, ppo, sft, sppo
from prefloop.configs.common import Compute, Data, Optim, RunSettings, Sampling
from prefloop.configs.games import NashMDConfig, SPPOConfig
from prefloop.configs.ilql import ILQLConfig
from prefloop.configs.own_samples import ExpertConfig, OnlineDPOConfig
from prefloop.configs.ppo import KL, CriticSettings, NLPOConfig, PPOConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data import write_jsonl
from prefloop.data.random_walks import LETTERS, LONGEST, NODES, make_graph, optimality, scored_walks, spell
from prefloop.evaluation.curves import Series
from prefloop.evaluation.plots import Frame, ReferenceLine, line_chart, standalone
from prefloop.models.load import as_policy, load_policy, save_policy
from prefloop.models.q_heads import load_q_heads
from prefloop.records import Demonstration, Prompt
from prefloop.rollout import sample
from prefloop.rollout.steered import Drawer, Perturbed
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids

REWARD = "prefloop.data.random_walks:optimality"
PREFERENCE = "examples.random_walks:shorter_wins"
BETAS = (0.0, 0.5, 1.0, 2.0, 4.0, 10.0, 100.0)
WALKS_FROM_EACH = 50
SAMPLING = Sampling(max_new_tokens=LONGEST, batch_size=1000)
SPECIAL = ("<bos>", "<eos>", "<pad>", "<unk>")
CPU = Compute(device="cpu")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each node, and for start, end and padding."""
    vocabulary = {token: place for place, token in enumerate((*SPECIAL, *LETTERS[:NODES]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def make_model(folder: Path, *, layers: int, width: int, seed: int) -> None:
    """A fresh language model with the tokenizer, in a folder."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=6,
        max_position_embeddings=2 * LONGEST,
        tie_word_embeddings=True,
        bos_token_id=SPECIAL.index("<bos>"),
        eos_token_id=SPECIAL.index("<eos>"),
        pad_token_id=SPECIAL.index("<pad>"),
    )
    save_policy(as_policy(LlamaForCausalLM(config), CPU), tokenizer, folder)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A seed's folder, and what every method is given."""

    folder: Path
    seed: int

    def run(self, name: str) -> RunSettings:
        """The run folder of a method."""
        return RunSettings(out=str(self.folder / name), seed=self.seed)

    def data(self, name: str) -> Data:
        """One of the task's files, nothing of it held out."""
        return Data(source=str(self.folder / f"{name}.jsonl"), heldout=0.0)

    def online(self, name: str, *, steps: int, k: int = 0, lr: float = 3e-4) -> dict[str, Any]:
        """Settings of a method that walks for itself, from every start in each step."""
        settings: dict[str, Any] = {
            "run": self.run(name),
            "data": self.data("starts"),
            "model": str(self.folder / "sft/final"),
            "reward_model": REWARD,
            "sampling": SAMPLING,
            "steps": steps,
            "batch_prompts": 20,
            "optim": Optim(lr=lr, schedule="constant"),
            "compute": CPU,
        }
        return settings | ({"completions_per_prompt": k} if k else {})


def run_sft(task: Task) -> Path:
    """Likelihood of the walks, good and bad."""
    return sft.train(
        SFTConfig(
            run=task.run("sft"),
            data=task.data("walks"),
            model=str(task.folder / "start"),
            batch_size=50,
            epochs=15,
            optim=Optim(lr=1e-3, schedule="cosine"),
            compute=CPU,
        )
    )


def actor_critic(task: Task, name: str) -> dict[str, Any]:
    """PPO's settings: 120 walks a step, four epochs, no KL, value coefficient 1.2."""
    critic = CriticSettings(start="shared", coef=1.2, optim=Optim(lr=3e-4, schedule="constant"))
    return {**task.online(name, steps=60, k=6), "epochs": 4, "kl": KL(coef=0.0), "critic": critic}


def run_ppo(task: Task) -> Path:
    return ppo.train(PPOConfig(**actor_critic(task, "ppo")))


def run_nlpo(task: Task) -> Path:
    return ppo.train(NLPOConfig(**actor_critic(task, "nlpo"), top_p=0.9, mask_every=5))


def run_rft(task: Task) -> Path:
    return expert.train(ExpertConfig(**task.online("rft", steps=20, k=16), epochs=2))


def run_online_dpo(task: Task) -> Path:
    return online_dpo.train(OnlineDPOConfig(**task.online("online_dpo", steps=60), beta=0.1))


def run_nash_md(task: Task) -> Path:
    settings = {**task.online("nash_md", steps=120), "reward_model": ""}
    return nash_md.train(NashMDConfig(**settings, preference=PREFERENCE, beta=0.0, mixture=0.25))


def run_sppo(task: Task) -> Path:
    settings = {**task.online("sppo", steps=12, k=5), "reward_model": ""}
    return sppo.train(SPPOConfig(**settings, preference=PREFERENCE, minibatches=6, eta=5.0))


def run_ilql(task: Task) -> Path:
    """The published settings; nothing is walked."""
    return ilql.train(
        ILQLConfig(
            run=task.run("ilql"),
            data=task.data("scored"),
            model=str(task.folder / "sft/final"),
            batch_size=100,
            epochs=30,
            tau=0.8,
            gamma=0.99,
            cql_coef=0.1,
            target_rate=0.1,
            target_every=5,
            optim=Optim(lr=2e-4, schedule="constant"),
            heads_optim=Optim(lr=2e-4, schedule="constant"),
            compute=CPU,
        )
    )


METHODS: dict[str, Callable[[Task], Path]] = {
    "ppo": run_ppo,
    "rft": run_rft,
    "ilql": run_ilql,
    "nlpo": run_nlpo,
    "online_dpo": run_online_dpo,
    "nash_md": run_nash_md,
    "sppo": run_sppo,
}


def shorter_wins(prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]) -> list[float]:
    """A preference: the better of two walks wins, equal ones half of the time."""
    pairs = zip(optimality(prompts, first), optimality(prompts, second), strict=True)
    return [0.5 + 0.5 * ((a > b) - (a < b)) for a, b in pairs]


def train_all(
    folder: Path, methods: Sequence[str], *, seed: int, layers: int, width: int
) -> dict[str, float]:
    """Data and policies in `folder`; minutes that each took."""
    walks, task = list(scored_walks()), Task(folder=folder, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    clones = [Demonstration(prompt=one.prompt, completion=one.completion) for one in walks]
    write_jsonl(clones, folder / "walks.jsonl")
    write_jsonl(walks, folder / "scored.jsonl")
    write_jsonl([Prompt(content=spell([start])) for start in make_graph().starts], folder / "starts.jsonl")
    make_model(folder / "start", layers=layers, width=width, seed=seed)
    minutes: dict[str, float] = {}
    for name, work in {"sft": run_sft, **{name: METHODS[name] for name in methods}}.items():
        began = time.monotonic()
        work(task)
        minutes[name] = round((time.monotonic() - began) / 60, 1)
    return minutes


def measure(drawer: Drawer, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> dict[str, float]:
    """Mean optimality of walks from every start, and the share that arrive."""
    graph = make_graph()
    prompts = [Prompt(content=spell([start])) for start in graph.starts]
    with drawer.active() as model:
        drawn = sample(
            model,
            [encode_prompt(tokenizer, prompt) for prompt in prompts],
            k=WALKS_FROM_EACH,
            stop_ids=stop_token_ids(tokenizer),
            sampling=SAMPLING,
            seed=1_000 + seed,
            row_keys=range(len(prompts)),
        )
    asked = [prompt for prompt, own in zip(prompts, drawn, strict=True) for _ in own]
    texts = [decode_completion(tokenizer, one.tokens) for own in drawn for one in own]
    scores = np.array(optimality(asked, texts))
    return {"optimality": float(scores.mean()), "shortest": float((scores == 1).mean())}


def measure_all(folder: Path, methods: Sequence[str], *, seed: int) -> dict[str, dict[str, float]]:
    """Every policy that was trained, and the data."""
    values = np.array([one.value for one in scored_walks()])
    results = {"data": {"optimality": float(values.mean()), "shortest": float((values == 1).mean())}}
    for name in ("sft", *methods):
        final = folder / name / "final"
        policy, tokenizer = load_policy(str(final), CPU), load_tokenizer(str(final))
        if name != "ilql":
            results[name] = measure(policy, tokenizer, seed=seed)
            continue
        heads = load_q_heads(final, policy.device)
        for beta in BETAS:
            steered = Perturbed(policy=policy, heads=heads, beta=beta)
            results[f"ilql {beta:g}"] = measure(steered, tokenizer, seed=seed)
    return results


def table(results: dict[int, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a policy, mean over seeds with the lowest and highest, then each seed's."""
    seeds = list(results)
    rows = [
        "| policy | optimality | lowest to highest | shortest paths, % |",
        "| --- | --- | --- | --- |",
    ]
    for name in next(iter(results.values())):
        values = [results[seed][name]["optimality"] for seed in seeds]
        best = 100 * float(np.mean([results[seed][name]["shortest"] for seed in seeds]))
        label = name.replace("ilql ", "ilql, beta ")
        rows.append(
            f"| {label} | {np.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} | {best:.0f} |"
        )
    return "\n".join(rows)


def plot(results: dict[int, dict[str, dict[str, float]]]) -> str:
    """Optimality against the decoding beta, the other policies as level lines; SVG."""
    mean = {
        name: float(np.mean([results[seed][name]["optimality"] for seed in results]))
        for name in next(iter(results.values()))
    }
    places = [float(place) for place in range(len(BETAS))]
    lines = [Series(label="ilql", x=places, y=[mean[f"ilql {beta:g}"] for beta in BETAS], slot=1)]
    levels = [ReferenceLine(value=mean[name], label=name) for name in mean if not name.startswith("ilql")]
    said = ", ".join(f"{beta:g}" for beta in BETAS)
    drawing = line_chart(
        lines,
        title="Optimality of walks",
        x_label=f"decoding beta of ilql: {said}",
        y_label="optimality",
        references=levels,
        frame=Frame(include=(0.0, 1.0)),
    )
    return standalone(drawing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ppo", "rft", "ilql"])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=96)
    given = parser.parse_args()
    results: dict[int, dict[str, dict[str, float]]] = {}
    for seed in given.seeds:
        folder = given.out / f"seed-{seed}"
        minutes = train_all(folder, given.methods, seed=seed, layers=given.layers, width=given.width)
        results[seed] = measure_all(folder, given.methods, seed=seed)
        print(json.dumps({"seed": seed, "minutes": minutes, **results[seed]}), flush=True)
    (given.out / "walks.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if "ilql" in given.methods:
        (given.out / "walks.svg").write_text(plot(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
