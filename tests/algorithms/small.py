"""Every stage in small: a model of one layer, a few short examples of ragged lengths, settings that use most of what a stage can do.

`make_project` makes a folder with data and starting models, `settings` the configuration of a named stage that runs in it.
"""

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from prefloop.algorithms import (
    critic_free,
    distill_context,
    dpo,
    expert,
    ilql,
    nash_md,
    nlpo,
    online_dpo,
    ppo,
    prefer,
    pretrain,
    reward,
    sft,
    sppo,
    trpo,
)
from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, Sampling
from prefloop.configs.critic_free import METHODS
from prefloop.configs.distill_context import DistillContextConfig
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.games import NashMDConfig, SPPOConfig
from prefloop.configs.ilql import ILQLConfig
from prefloop.configs.own_samples import ExpertConfig, OnlineDPOConfig
from prefloop.configs.ppo import (
    KL,
    A2CConfig,
    CriticSettings,
    NLPOConfig,
    PPOConfig,
    RewardShaping,
    TRPOConfig,
)
from prefloop.configs.prefer import PreferConfig
from prefloop.configs.pretrain import Architecture, PretrainConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sft import SFTConfig
from prefloop.loop import shown, sources
from prefloop.runtime.journal import read_metrics
from tests.algorithms.online_stages import IN_ENVIRONMENT, ONLINE, make_chatting, online_settings
from tests.tiny_project import make_model

OPTIM = Optim(lr=3e-3, schedule="cosine", warmup=0.2, weight_decay=0.1, eps=1e-3, max_grad_norm=0.5)
"""With so large an epsilon the update goes by the size of the gradient, which Adam otherwise hides; it also keeps float noise small."""
CPU = Compute(device="cpu", attention="packed")
"""Not `auto`: that would fall back to `padded`, with a warning, where packing goes wrong."""
ADAPTER = LoRA(rank=2, alpha=8.0)
TRAIN: dict[type, Callable[[Any], Path]] = {
    PretrainConfig: pretrain.train,
    SFTConfig: sft.train,
    RewardConfig: reward.train,
    DPOConfig: dpo.train,
    PreferConfig: prefer.train,
    PPOConfig: ppo.train,
    A2CConfig: ppo.train,
    NLPOConfig: nlpo.train,
    NashMDConfig: nash_md.train,
    SPPOConfig: sppo.train,
    ILQLConfig: ilql.train,
    TRPOConfig: trpo.train,
    ExpertConfig: expert.train,
    OnlineDPOConfig: online_dpo.train,
    DistillContextConfig: distill_context.train,
    **dict.fromkeys(METHODS, critic_free.train),
}


def train(config: Any) -> Path:
    """Run the stage that a configuration is of."""
    return TRAIN[type(config)](config)


def make_project(folder: Path) -> Path:
    """Data; a language model that has learned to stop, so that completions end; reward models with and without an adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["sun", "a", "rain or", "tea", "it is", "no", "wind", "yes, so", "b", "oak", "to be", "ice", "hm"]
    write(
        folder / "texts.jsonl",
        [{"text": f"{word} and {word}s. " * (1 + i % 3)} for i, word in enumerate(words)],
    )
    write(
        folder / "demonstrations.jsonl",
        [{"prompt": word, "completion": word[: 1 + i % 4] + "!"} for i, word in enumerate(words)],
    )
    write(
        folder / "comparisons.jsonl",
        [
            {"prompt": word, "chosen": word + "!" * (1 + i % 3), "rejected": words[i - 1], "margin": i / 10}
            for i, word in enumerate(words)
        ],
    )
    write(
        folder / "scores.jsonl",
        [
            {"prompt": word, "completion": words[i - 3][: 1 + i % 4], "score": (i % 5) / 2 - 1}
            for i, word in enumerate(words)
        ],
    )
    write(folder / "prompts.jsonl", [{"prompt": word} for word in words[:7]])
    write(folder / "short.jsonl", [{"prompt": word, "completion": word[:1]} for word in words])
    start = make_model(folder / "start", chat=False)
    sharpen(start)
    make_model(folder / "other", chat=False, seed=1)
    stopping = SFTConfig(
        run=RunSettings(out=str(folder / "stopping")),
        data=Data(source=str(folder / "short.jsonl"), heldout=0.0),
        model=str(start),
        epochs=14,
        batch_size=13,
        optim=Optim(lr=2e-2, schedule="constant"),
        compute=CPU,
    )
    train(stopping)
    make_chatting(folder)
    train(settings("reward", folder, out="reward"))
    train(settings("reward_lora", folder, out="reward_lora"))
    return folder


def sharpen(model: Path) -> None:
    """Make a fresh model attend: its weights are so small that it would take the mean of all tokens, wherever they stand."""
    file = model / "model.safetensors"
    weights = load_file(file)
    save_file(
        {name: weight * (10 if ".self_attn." in name else 1) for name, weight in weights.items()},
        file,
        metadata={"format": "pt"},
    )


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def settings(name: str, project: Path, *, out: str, compute: Compute = CPU) -> Any:
    """The configuration of stage `name`, in folder `out` of the project. Batch sizes do not divide the data, so an epoch ends raggedly."""
    if name in ONLINE or name in IN_ENVIRONMENT:
        return online_settings(name, project, out=out, compute=compute)
    model = str(project / "stopping/final")
    run = RunSettings(out=str(project / out), seed=3)

    def data(kind: str, heldout: float = 0.3) -> Data:
        return Data(source=str(project / f"{kind}.jsonl"), heldout=heldout)

    pairs: dict[str, Any] = {
        "run": run,
        "data": data("comparisons"),
        "model": model,
        "batch_size": 3,
        "epochs": 2,
        "eval_every": 2,
        "label_smoothing": 0.1,
        "optim": OPTIM,
        "compute": compute,
    }
    if name == "pretrain":
        return PretrainConfig(
            run=run,
            data=data("texts"),
            architecture=Architecture(
                hidden_size=16, layers=1, heads=2, ffn_size=24, vocab_size=300, max_positions=64
            ),
            block_tokens=16,
            batch_blocks=4,
            epochs=2,
            eval_every=2,
            optim=OPTIM,
            compute=compute,
        )
    if name in ("sft", "sft_lora"):
        return SFTConfig(
            run=run,
            data=data("demonstrations"),
            model=model,
            batch_size=4,
            epochs=2,
            eval_every=2,
            optim=OPTIM,
            lora=ADAPTER if name == "sft_lora" else LoRA(),
            compute=compute,
        )
    if name in ("reward", "reward_lora"):
        return RewardConfig(
            **pairs, margin=True, centring=0.1, lora=ADAPTER if name == "reward_lora" else LoRA()
        )
    if name in ("dpo", "dpo_lora"):
        return DPOConfig(
            **pairs,
            beta=0.5,
            sft_coef=0.2,
            reference_cache=str(project / f"cache-{out}"),
            lora=ADAPTER if name == "dpo_lora" else LoRA(),
        )
    basic = PPOConfig(
        run=run,
        data=data("prompts", heldout=0.0),
        model=model,
        reward_model=str(project / "reward/final"),
        sampling=OnlineSampling(max_new_tokens=8, temperature=1.3),
        steps=4,
        batch_prompts=3,  # of 7: the third step of an epoch has a single prompt
        completions_per_prompt=2,
        epochs=2,
        minibatches=2,
        optim=OPTIM,
        critic=CriticSettings(optim=replace(OPTIM, schedule="constant")),
        compute=compute,
    )
    return PPO[name](basic, project)


def _full(basic: PPOConfig, project: Path) -> PPOConfig:
    return replace(
        basic,
        kl=KL(coef=0.2, target=0.05, horizon=20),
        reward=RewardShaping(scale=True, whiten=True, clip=3.0, missing_eos=0.5),
        critic=replace(basic.critic, warmup_steps=1),
        entropy_coef=0.01,
        ptx=str(project / "demonstrations.jsonl"),
        ptx_coef=0.3,
        ema=0.8,
    )


def _shared(basic: PPOConfig, project: Path) -> PPOConfig:
    return replace(
        basic,
        reward_model="tests.algorithms.small:short_is_good",
        kl=KL(coef=0.1, placement="loss", estimator="exact"),
        critic=replace(basic.critic, start="shared"),
    )


def _lora(basic: PPOConfig, project: Path) -> PPOConfig:
    return replace(
        basic,
        reward_model=str(project / "reward_lora/final"),
        kl=KL(coef=0.1, target=0.05, horizon=20, estimator="k3"),
        lora=ADAPTER,
    )


def _lora_shared(basic: PPOConfig, project: Path) -> PPOConfig:
    return replace(_lora(basic, project), critic=replace(basic.critic, start="shared"), kl=KL(coef=0.1))


def _policy_critic(basic: PPOConfig, project: Path) -> PPOConfig:
    return replace(
        basic,
        reward_model="tests.algorithms.small:short_is_good",
        critic=replace(basic.critic, start="policy"),
        kl=KL(coef=0.1, placement="loss", estimator="k2"),
        reference=str(project / "start"),
        dual_clip=2.0,
    )


PPO: dict[str, Callable[[PPOConfig, Path], PPOConfig]] = {
    "ppo": _full,
    "ppo_shared": _shared,
    "ppo_policy_critic": _policy_critic,
    "ppo_lora": _lora,
    "ppo_lora_shared": _lora_shared,
}
STAGES = ("pretrain", "sft", "sft_lora", "reward", "reward_lora", "dpo", "dpo_lora", *PPO, *ONLINE)


def short_is_good(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """A reward function: minus a tenth of the characters, and something for vowels."""
    return [sum(c in "aeiou" for c in text) - len(text) / 10 for text in completions]


def metrics_of(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without their times."""
    return [
        {name: value for name, value in row.items() if name != "time"}
        for row in read_metrics(out / "metrics.jsonl")
    ]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors in a folder and below it, by file and name."""
    return {
        f"{file.relative_to(folder)}:{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same(ours: Path, theirs: Path) -> None:
    """Two finished runs have logged the same numbers and ended with the same bits."""
    rows, others = metrics_of(ours), metrics_of(theirs)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        # By repr: every bit counts, and NaN equals NaN.
        wrong = {
            name: (row.get(name), other.get(name))
            for name in row | other
            if repr(row.get(name)) != repr(other.get(name))
        }
        assert not wrong, (row["step"], wrong)
    a, b = weights_of(ours / "final"), weights_of(theirs / "final")
    assert a
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def assert_close(ours: Path, theirs: Path, *, tolerance: float = 1e-5) -> None:
    """Two finished runs agree to `tolerance`, absolute and relative, in every metric and weight."""
    rows, others = metrics_of(ours), metrics_of(theirs)
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        # The ratio is float noise itself, and not the same noise. So is the accuracy where all margins are zero: before DPO's first update.
        noise = {"ratio"} | ({"accuracy"} if abs(row.get("margin", 1.0)) < tolerance else set())
        wrong = {
            name: (row[name], other[name])
            for name in row.keys() - noise
            if not close(row[name], other[name], tolerance)
        }
        assert not wrong, (row["step"], wrong)
    a, b = weights_of(ours / "final"), weights_of(theirs / "final")
    assert a
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda said, name=name: f"{name}: {said}"
        )


def close(a: float, b: float, tolerance: float) -> bool:
    """|a - b| within `tolerance`, or within that share of |b|; NaN is close to NaN."""
    return (a != a and b != b) or abs(a - b) <= tolerance * max(1.0, abs(b))


def resumed(config: Any, **changes: Any) -> Any:
    """The same run, to go on with."""
    return replace(config, run=replace(config.run, resume=True, **changes))


def train_and_keep_samples(config: Any, *, part: str = "") -> Path:
    """Run the stage; what an online stage draws is left beside its run folder as `RUN.PART.json`, token ids of each prompt by its key."""
    drawn: dict[str, list[list[int]]] = {}
    real = sources.sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        samples = real(*args, **kwargs)
        for key, of_prompt in zip(kwargs["row_keys"], samples, strict=True):
            drawn[str(key)] = [one.tokens for one in of_prompt]
        return samples

    sources.sample = sample
    try:
        return train(config)
    finally:
        sources.sample = real
        Path(f"{config.run.out}.{part}.json").write_text(json.dumps(drawn))


BRIEF = 8
SAMPLE = shown.sample
"""What the program does."""


def briefly(*args: Any, sampling: Sampling, **kwargs: Any) -> Any:
    """Few of the tokens that a stage shows of what its model says: nothing in a run depends on them."""
    few = min(BRIEF, sampling.max_new_tokens)
    return SAMPLE(*args, sampling=replace(sampling, max_new_tokens=few), **kwargs)


def samples_of(out: Path) -> dict[str, list[list[int]]]:
    """What all parts of a run have drawn."""
    return {
        key: tokens
        for file in out.parent.glob(f"{out.name}.*.json")
        for key, tokens in json.loads(file.read_text()).items()
    }


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)
