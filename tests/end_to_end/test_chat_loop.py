"""The loop on chats, stage by stage as the commands run it: each begins from what the one before left in the project folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefloop.algorithms import dpo, ppo, reward, sft
from prefloop.algorithms.sample import sample_completions
from prefloop.configs.common import Compute, Data, Optim, RunSettings
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.ppo import CriticSettings, PPOConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sample import SampleConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data.store import Store
from prefloop.data.store.lineage import lineage
from prefloop.feedback.simulate import SimulatedAnnotator, label_items
from prefloop.records import Prompt
from prefloop.runtime.journal import read_metrics
from tests.algorithms.small import write
from tests.tiny_project import make_model

CPU = Compute(device="cpu")
ASKED = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu", "ra") for b in ("do", "fi", "gu", "ha")]


def utility(prompt: Prompt, completion: str) -> float:
    """The annotator likes the letter o."""
    return float(completion.count("o"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT on chats, two samples a prompt, an annotator's choices, and what is trained on them."""
    torch.set_num_threads(1)
    project = tmp_path_factory.mktemp("loop")
    base, store = str(make_model(project / "base")), str(project / "prefloop.db")
    fast = Optim(lr=2e-2, schedule="constant")

    def run(stage: str) -> RunSettings:
        return RunSettings(out=str(project / stage))

    def turn(text: str, answer: str) -> dict[str, Any]:
        return {
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": answer},
                {"role": "user", "content": "and then"},
                {"role": "assistant", "content": answer},
            ]
        }

    answers = ("so", "no", "oo", "si", "na")
    write(project / "chats.jsonl", [turn(text, answers[i % 5]) for i, text in enumerate(ASKED)])
    write(project / "asked.jsonl", [{"prompt": [{"role": "user", "content": text}]} for text in ASKED])
    prompts = Data(source=str(project / "asked.jsonl"), heldout=0.25)
    sft.train(
        SFTConfig(
            run=run("sft"),
            data=Data(source=str(project / "chats.jsonl"), heldout=0.0),
            model=base,
            batch_size=12,
            epochs=20,
            optim=fast,
            compute=CPU,
        )
    )
    policy, sampling = str(project / "sft/final"), OnlineSampling(max_new_tokens=6)
    sample_completions(
        SampleConfig(
            model=policy,
            data=prompts,
            store=store,
            completions_per_prompt=4,
            part="all",
            sampling=sampling,
            compute=CPU,
        )
    )
    annotator = SimulatedAnnotator(
        name="likes o", utility=utility, temperature=0.0, flip=0.0, seed=0, utility_sha256="0" * 64
    )
    with Store.open(store) as opened:
        opened.add_pairs(strategy="all", seed=0)
        id = opened.add_annotator(annotator.name, kind="simulated", settings=annotator.settings())
        label_items(opened, annotator, opened.open_items(id))
    judged = Data(source="store", heldout=0.25)
    reward.train(
        RewardConfig(run=run("reward"), data=judged, model=policy, epochs=4, optim=fast, compute=CPU)
    )
    dpo.train(
        DPOConfig(run=run("dpo"), data=judged, model=policy, epochs=3, optim=Optim(lr=5e-3), compute=CPU)
    )
    ppo.train(
        PPOConfig(
            run=run("ppo"),
            data=prompts,
            model=policy,
            reward_model=str(project / "reward/final"),
            sampling=sampling,
            steps=10,
            batch_prompts=18,
            completions_per_prompt=2,
            epochs=2,
            critic=CriticSettings(optim=fast),
            optim=Optim(lr=1e-2, schedule="constant"),
            compute=CPU,
        )
    )
    return project


def rows(project: Path, stage: str) -> list[dict[str, Any]]:
    return list(read_metrics(project / stage / "metrics.jsonl"))


def said(folder: Path) -> list[str]:
    """What a policy says to everything asked, by transformers alone, without randomness."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    answers = []
    for text in ASKED:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        full = model.generate(ids, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(ids))[0]
        answers.append(tokenizer.decode(full[ids.shape[1] :]))
    return answers


def test_every_turn_ends_in_the_stop_token(project: Path) -> None:  # M1 M2
    assert sum(text.endswith("<|eos|>") for text in said(project / "sft/final")) > 20


def test_the_annotators_taste_reaches_both_policies(project: Path) -> None:
    """From labels to weights: the mean gold utility of what is said goes up."""
    first = rows(project, "sft")[-1]
    assert first["loss"] < 2
    assert rows(project, "reward")[-1]["heldout_accuracy"] > 0.8
    assert rows(project, "dpo")[-1]["heldout_accuracy"] > 0.8
    steps = rows(project, "ppo")
    assert steps[-1]["score"] > steps[0]["score"]
    before = sum(text.count("o") - text.count("<|eos|>") for text in said(project / "sft/final"))
    for stage in ("ppo", "dpo"):
        after = sum(text.count("o") - text.count("<|eos|>") for text in said(project / stage / "final"))
        assert after > before, stage


def test_the_chain_from_a_policy_back_to_the_labels(project: Path) -> None:
    with Store.open(project / "prefloop.db", create=False) as store:
        for stage in ("ppo", "dpo"):
            text = str(lineage(store, str(project / stage / "final")))
            for words in ("likes o", "chats.jsonl", "sft/final", "base"):
                assert words in text, (stage, words)
