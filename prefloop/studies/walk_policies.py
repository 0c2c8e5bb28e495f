"""Policies of the random-walks task of `prefloop.data.random_walks`: a small language model of the walks, and every method that learns from it.

A model is trained on 1,000 random walks by likelihood. From it methods learn with the optimality of their own walks as reward, or, implicit
Q-learning, from the same 1,000 walks and their scores alone, without walking once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefloop.algorithms import expert, ilql, nash_md, nlpo, online_dpo, ppo, sft, sppo
from prefloop.configs.common import Compute, Data, Optim, RunSettings
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.games import NashMDConfig, SPPOConfig
from prefloop.configs.ilql import ILQLConfig
from prefloop.configs.own_samples import ExpertConfig, OnlineDPOConfig
from prefloop.configs.ppo import KL, CriticSettings, NLPOConfig, PPOConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data import write_jsonl
from prefloop.data.random_walks import LETTERS, LONGEST, NODES, make_graph, optimality, scored_walks, spell
from prefloop.models.load import as_policy, save_policy
from prefloop.records import Demonstration, Prompt

REWARD = "prefloop.data.random_walks:optimality"
PREFERENCE = "prefloop.studies.walk_policies:shorter_wins"
SAMPLING = OnlineSampling(max_new_tokens=LONGEST, batch_size=1000)
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
class WalksTask:
    """A seed's data and language model, a method's folder, and how long it trains."""

    prepared: Path
    folder: Path
    seed: int
    length: float = 1.0
    """Steps and epochs are this many times what they are otherwise."""

    @property
    def model(self) -> str:
        """The language model of the walks, which every method starts from."""
        return str(self.prepared / "sft/final")

    def run(self, name: str) -> RunSettings:
        """The run folder of a method."""
        return RunSettings(out=str(self.folder / name), seed=self.seed)

    def data(self, name: str) -> Data:
        """One of the task's files, nothing of it held out."""
        return Data(source=str(self.prepared / f"{name}.jsonl"), heldout=0.0)

    def steps(self, number: int) -> int:
        """So many, times the task's length."""
        return max(1, round(self.length * number))

    def online(self, name: str, *, steps: int, k: int = 0, lr: float = 3e-4) -> dict[str, Any]:
        """Settings of a method that walks for itself, from every start in each step."""
        settings: dict[str, Any] = {
            "run": self.run(name),
            "data": self.data("starts"),
            "model": self.model,
            "reward_model": REWARD,
            "sampling": SAMPLING,
            "steps": self.steps(steps),
            "batch_prompts": 20,
            "optim": Optim(lr=lr, schedule="constant"),
            "compute": CPU,
        }
        return settings | ({"completions_per_prompt": k} if k else {})


def run_sft(task: WalksTask) -> Path:
    """Likelihood of the walks, good and bad."""
    return sft.train(
        SFTConfig(
            run=task.run("sft"),
            data=task.data("walks"),
            model=str(task.prepared / "start"),
            batch_size=50,
            epochs=15 * task.length,
            optim=Optim(lr=1e-3, schedule="cosine"),
            compute=CPU,
        )
    )


def actor_critic(task: WalksTask, name: str) -> dict[str, Any]:
    """PPO's settings: 120 walks a step, four epochs, no KL, value coefficient 1.2."""
    critic = CriticSettings(start="shared", coef=1.2, optim=Optim(lr=3e-4, schedule="constant"))
    return {**task.online(name, steps=60, k=6), "epochs": 4, "kl": KL(coef=0.0), "critic": critic}


def run_ppo(task: WalksTask) -> Path:
    return ppo.train(PPOConfig(**actor_critic(task, "ppo")))


def run_nlpo(task: WalksTask) -> Path:
    return nlpo.train(NLPOConfig(**actor_critic(task, "nlpo"), top_p=0.9, mask_every=5))


def run_rft(task: WalksTask) -> Path:
    return expert.train(ExpertConfig(**task.online("rft", steps=20, k=16), epochs=2))


def run_online_dpo(task: WalksTask) -> Path:
    return online_dpo.train(OnlineDPOConfig(**task.online("online_dpo", steps=60), beta=0.1))


def run_nash_md(task: WalksTask) -> Path:
    settings = {**task.online("nash_md", steps=120), "reward_model": ""}
    return nash_md.train(NashMDConfig(**settings, preference=PREFERENCE, beta=0.0, mixture=0.25))


def run_sppo(task: WalksTask) -> Path:
    settings = {**task.online("sppo", steps=12, k=5), "reward_model": ""}
    return sppo.train(SPPOConfig(**settings, preference=PREFERENCE, minibatches=6, eta=5.0))


def run_ilql(task: WalksTask) -> Path:
    """The published settings; nothing is walked."""
    return ilql.train(
        ILQLConfig(
            run=task.run("ilql"),
            data=task.data("scored"),
            model=task.model,
            batch_size=100,
            epochs=30 * task.length,
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


METHODS: dict[str, Callable[[WalksTask], Path]] = {
    "sft": lambda task: Path(task.model),
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


def prepare_task(task: WalksTask, *, layers: int, width: int) -> None:
    """The walks, their scores, the starts, and a language model of the walks, in the task's folder of prepared files."""
    walks, folder = list(scored_walks()), task.prepared
    clones = [Demonstration(prompt=one.prompt, completion=one.completion) for one in walks]
    write_jsonl(clones, folder / "walks.jsonl")
    write_jsonl(walks, folder / "scored.jsonl")
    write_jsonl([Prompt(content=spell([start])) for start in make_graph().starts], folder / "starts.jsonl")
    make_model(folder / "start", layers=layers, width=width, seed=task.seed)
    run_sft(task)
