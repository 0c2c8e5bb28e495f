"""A made-up project with everything in it, as an evaluation would leave it; no model is run."""

import json
import math
from pathlib import Path

import numpy as np

from prefloop.evaluation.intervals import exactly, mean_interval, paired_difference
from prefloop.evaluation.reward_model_quality import (
    accuracy_against_gold,
    best_of_n,
    ceiling_under_flips,
    reward_model_quality,
)
from prefloop.evaluation.summary import (
    EvaluatedCompletion,
    EvaluatedPolicy,
    Evaluation,
    FrontierPoint,
    PolicySummary,
    RewardModelSummary,
    StageTime,
    Summary,
)
from prefloop.evaluation.text_statistics import policy_alarms, text_statistics
from prefloop.evaluation.win_rate import win_matrix, win_rate
from prefloop.records import Message, Prompt

PROMPTS = (
    "How do I keep bread fresh?",
    "Why is the sea salt?",
    "What should I pack for a day on the hills?",
    "Can you explain why leaves turn red?",
    "My bicycle squeaks. What can I do?",
    "Which plants grow in a dark room?",
    "How long should I boil an egg?",
    "What is a good first book on birds?",
)
BODIES = (
    "Keep it in a paper bag inside a tin, cut side down, away from the stove. If it has gone hard, a few minutes in a warm oven bring it back.",
    "Rivers carry minerals down to the sea, the water leaves as vapour and the minerals stay; after a very long time that makes it salt.",
    "Water, a hat, a warm layer, a map and something to eat. The weather turns faster up there than it looks from below.",
    "The green fades when the days get short, and the red that some trees make in autumn is what you see then.",
)
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "</div></section></body><h1>broken out</h1>",
    "safe \u202eevil txt.exe\u202c and zero\u200bwidth and \x00\x1b[31m control",
    "{{ 7*7 }} {% raw %} <style>body{display:none}</style> <!-- ",
    '<a href="https://evil.example/x">click</a> &lt;b&gt; &#x6a;',
)


def make_evaluation(seed: int = 0, prompts: int = 60) -> tuple[Summary, Evaluation]:
    """A project's two JSON files, drawn at random but believable."""
    random = np.random.default_rng(seed)
    asked: list[Prompt] = [
        Prompt(content=PROMPTS[i % len(PROMPTS)] + " " * (i // len(PROMPTS))) for i in range(prompts)
    ]
    asked[2] = Prompt(
        content=(
            Message(role="system", content="Answer kindly."),
            Message(role="user", content="My tea is cold. What now?"),
        )
    )
    means = {"sft": 0.0, "ppo": 1.3, "dpo": 1.0}
    openings = {"sft": "Well. ", "ppo": "Thank you for asking. I am glad to help. ", "dpo": "Happy to help. "}
    gold = {name: random.normal(mean, 1.0, prompts) for name, mean in means.items()}
    proxy = {name: 0.8 * gold[name] + random.normal(means[name] * 0.4, 0.5, prompts) for name in means}
    policies = []
    for name in means:
        texts = [openings[name] + BODIES[random.integers(4)] for _ in range(prompts)]
        if name == "ppo":
            texts[: len(HOSTILE)] = HOSTILE
        if name == "dpo":
            texts[1] = ""
        ended = (random.random(prompts) < 0.95).tolist()
        tokens = [len(text.split()) + 3 for text in texts]
        completions = tuple(
            (
                EvaluatedCompletion(
                    text=text,
                    gold=float(gold[name][i]),
                    proxy=float(proxy[name][i]),
                    tokens=tokens[i],
                    ended=ended[i],
                ),
            )
            for i, text in enumerate(texts)
        )
        statistics = text_statistics(texts, prompts=range(prompts), ended=ended, lengths=tokens)
        policies.append(EvaluatedPolicy(name=name, completions=completions, text=statistics))
    kl = {
        "sft": exactly(0.0, prompts),
        **{n: mean_interval(random.gamma(9, 0.7, prompts)) for n in ("ppo", "dpo")},
    }
    kl["dpo"] = mean_interval(random.gamma(9, 1.1, prompts))
    chosen, rejected = random.normal(0.9, 1, 400), random.normal(-0.2, 1, 400)
    lengths = random.integers(10, 60, 400), random.integers(8, 55, 400)
    gold_accuracy = accuracy_against_gold(chosen, rejected, chosen + random.normal(0, 0.8, 400), rejected)
    ceiling = ceiling_under_flips(0.1)
    quality = reward_model_quality(
        chosen,
        rejected,
        *lengths,
        clusters=list(range(200)) * 2,
        ceiling=ceiling,
        gold_accuracy=gold_accuracy,
    )
    sampled = random.normal(size=(prompts, 64))
    evaluation = Evaluation(
        prompts=tuple(asked),
        policies=tuple(policies),
        reward_model=quality,
        wins=win_matrix({name: gold[name] for name in means}),
        frontier=(
            FrontierPoint(
                policy="ppo",
                label="step 20",
                kl=mean_interval(random.gamma(3, 0.7, prompts)),
                score=mean_interval(gold["ppo"] - 0.6),
            ),
        ),
        best_of_n=best_of_n(sampled + random.normal(0, 1.2, sampled.shape), sampled),
        lineage="ppo/checkpoint-60\n├─ sft/checkpoint-200\n│  └─ pretrain/checkpoint-900  (texts 4f1c…)\n└─ reward/checkpoint-90\n   └─ export 91ab…  1,200 comparisons by simulated-1, 10 % flipped",
    )
    alarms = tuple(
        alarm
        for after in policies[1:]
        for alarm in policy_alarms(
            after.name,
            proxy_gain=paired_difference(proxy[after.name], proxy["sft"]),
            gold_gain=paired_difference(gold[after.name], gold["sft"]),
            before=policies[0].text,
            after=after.text,
        )
    )
    summary = Summary(
        recipe="toy",
        seconds=274.2,
        peak_rss_mb=1843.0,
        reward_model=RewardModelSummary(
            accuracy=quality.accuracy,
            ceiling=ceiling,
            gold_accuracy=gold_accuracy,
            checkpoint="reward/checkpoint-90",
        ),
        policies=tuple(
            PolicySummary(
                name=p.name,
                checkpoint=f"{p.name}/checkpoint-60",
                gold=mean_interval(gold[p.name]),
                proxy=mean_interval(proxy[p.name]),
                kl=kl[p.name],
                win_rate_vs_sft=exactly(0.5, prompts)
                if p.name == "sft"
                else win_rate(gold[p.name], gold["sft"]),
                length=p.text.length,
                repetition=p.text.repetition,
                further={"perplexity_under_sft": mean_interval(random.gamma(20, 0.5, prompts))},
            )
            for p in policies
        ),
        alarms=alarms,
        notes=("Gold is the generator's own utility, so it is free of noise.",),
        stages=tuple(
            StageTime(stage=stage, seconds=seconds)
            for stage, seconds in (
                ("pretrain", 92.0),
                ("sft", 14.1),
                ("sample", 8.0),
                ("reward", 11.0),
                ("ppo", 96.0),
                ("dpo", 21.0),
                ("evaluate", 22.0),
            )
        ),
        seed=seed,
        commands=("prefloop run toy --out runs/toy --seed 0", "prefloop report runs/toy"),
        settings={"ppo": {"steps": 60, "kl": {"coef": 0.05, "estimator": "k1"}}},
        versions={"prefloop": "0.1.0", "torch": "2.13.0"},
    )
    return summary, evaluation


def make_metrics(folder: Path, seed: int = 0) -> None:
    """Metrics of every stage, with gaps, nulls and metrics that no chart knows."""
    random = np.random.default_rng(seed)
    curves = {
        "pretrain": (900, {"loss": lambda t: 2 + 5 * math.exp(-4 * t), "lr": lambda t: 1e-3 * (1 - t)}),
        "sft": (
            120,
            {"loss": lambda t: 1.4 + math.exp(-3 * t), "heldout_loss": lambda t: 1.5 + math.exp(-3 * t)},
        ),
        "reward": (
            90,
            {
                "loss": lambda t: 0.69 - 0.25 * t,
                "accuracy": lambda t: 0.5 + 0.35 * t,
                "heldout_accuracy": lambda t: 0.5 + 0.3 * t,
            },
        ),
        "ppo": (
            60,
            {
                "score": lambda t: 1.5 * t,
                "reward": lambda t: 1.2 * t,
                "kl": lambda t: 6 * t,
                "length": lambda t: 20 + 14 * t,
                "entropy": lambda t: 2.5 - t,
                "explained_variance": lambda t: 0.7 * t,
                "clip_fraction": lambda t: 0.02 + 0.05 * t,
                "grad_norm": lambda t: 1 + t,
            },
        ),
        "dpo": (
            80,
            {
                "loss": lambda t: 0.69 - 0.3 * t,
                "margin": lambda t: 1.4 * t,
                "accuracy": lambda t: 0.5 + 0.4 * t,
                "reward_chosen": lambda t: -0.3 * t,
                "reward_rejected": lambda t: -1.7 * t,
            },
        ),
    }
    for stage, (steps, metrics) in curves.items():
        (folder / stage).mkdir(parents=True)
        with (folder / stage / "metrics.jsonl").open("w") as file:
            for step in range(1, steps + 1):
                row: dict[str, float | int | None] = {"step": step}
                for name, shape in metrics.items():
                    if name.startswith("heldout") and step % 10:
                        continue
                    value = shape(step / steps)
                    row[name] = (
                        None if step == 7 else value + float(random.normal(0, 0.03 * (abs(value) + 0.1)))
                    )
                file.write(json.dumps(row) + "\n")
