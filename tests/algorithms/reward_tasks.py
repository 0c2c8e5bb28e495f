"""What reward models must learn, in small: a rule that shows in the text, and a number that says how much of it was found."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from prefloop.algorithms import reward
from prefloop.configs.common import Data, Optim, RunSettings
from prefloop.configs.reward import RewardConfig
from prefloop.configs.scorers import Combining
from prefloop.data import load_comparisons, part_of, write_jsonl
from prefloop.evaluation.evaluate import TokenBudget, evaluate_reward_model
from prefloop.losses.reward_model import REWARD_LOSSES
from prefloop.records import Comparison, Prompt
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world
from tests.algorithms.prefer_settings import data_of
from tests.algorithms.small import metrics_of, write
from tests.algorithms.tiny import CPU, FAST, SYLLABLES, WORDS


def config(project: Path, out: Path, loss: Any, **changes: Any) -> RewardConfig:
    """Five epochs on 48 examples of what the loss reads, from a model that knows nothing."""
    source = data_of(REWARD_LOSSES[loss].data, out.with_suffix(".jsonl"), 48)
    basic = RewardConfig(
        run=RunSettings(out=str(out), seed=1),
        data=Data(source=str(source), heldout=0.25),
        model=str(project / "start"),
        loss=loss,
        batch_size=12,
        epochs=5,
        optim=FAST,
        compute=CPU,
    )
    return replace(basic, **changes)


def logged(settings: RewardConfig) -> list[dict[str, Any]]:
    """Train; the run's metrics."""
    reward.train(settings)
    return metrics_of(Path(settings.run.out))


def folder(settings: RewardConfig) -> str:
    """The trained model's."""
    return str(Path(settings.run.out) / "final")


def scorer_of(name: str) -> EnsembleScorer:
    """The model's own scores."""
    return EnsembleScorer.load(name, CPU, start_world("cpu"), normalise=False)


def heldout_accuracy(loss: Any, project: Path, out: Path, seed: int) -> float:
    """Of any loss on its own data: accuracy on held-out examples; of measurements the share of their variance that is explained."""
    settings = config(project, out, loss)
    row = logged(replace(settings, run=replace(settings.run, seed=seed)))[-1]
    return row["heldout_accuracy"] if "heldout_accuracy" in row else 1 - row["heldout_error"]


def bad_step_found(project: Path, out: Path, seed: int) -> float:
    """Trained on steps: share of 40 solutions of three steps that score above the same one with one bad step."""
    settings = config(project, out, "process")
    logged(replace(settings, run=replace(settings.run, seed=seed)))
    rng = np.random.default_rng(seed)
    good, spoilt = [], []
    for _ in range(40):
        words, bad = [WORDS[i] for i in rng.integers(64, size=3)], int(rng.integers(3))
        good.append("\n".join(f"{word} yes" for word in words))
        spoilt.append("\n".join(f"{word} {'no' if i == bad else 'yes'}" for i, word in enumerate(words)))
    prompts = [Prompt(content="sun")] * 40
    scorer = scorer_of(folder(settings))
    better, worse = scorer(prompts, good), scorer(prompts, spoilt)
    return float(np.mean([a > b for a, b in zip(better, worse, strict=True)]))


def ratings(file: Path, count: int = 60) -> Path:
    """An uneven scale, 1, 2 and 5, by how the completion ends."""
    ends = (" no", " so", " yes")
    rows = [
        {
            "prompt": word,
            "completion": WORDS[(7 * i) % 64][: 1 + i % 3] + ends[i % 3],
            "score": (1, 2, 5)[i % 3],
        }
        for i, word in enumerate(WORDS[:count])
    ]
    write(file, rows)
    return file


def likeliest_level(project: Path, out: Path, seed: int) -> float:
    """Ordinal, on the uneven scale: held-out share whose likeliest level is the right one."""
    settings = replace(
        config(project, out, "ordinal", epochs=8),
        data=Data(source=str(ratings(out.with_suffix(".ratings.jsonl"))), heldout=0.25),
        run=RunSettings(out=str(out), seed=seed),
    )
    return logged(settings)[-1]["heldout_accuracy"]


def in_contexts(file: Path, *, count: int = 64, opposite: bool = True) -> Path:
    """Who ends as the context says is preferred; without contexts nobody is. Every row is of one context, the other is named."""
    rows = []
    for i, word in enumerate(WORDS[:count]):
        yes, no = (WORDS[(7 * i + j) % 64][: 1 + (i + j) % 3] + end for j, end in enumerate((" yes", " no")))
        wants_yes = i % 2 == 0
        row = {"prompt": word, "chosen": yes if wants_yes else no, "rejected": no if wants_yes else yes}
        row |= {"context": "yes" if wants_yes else "no"}
        rows.append({**row, "opposite_context": "no" if wants_yes else "yes"} if opposite else row)
    write(file, rows)
    return file


def context_read(project: Path, out: Path, seed: int) -> float:
    """Accuracy on held-out pairs in both contexts, where no order that ignores them is right more than half of the time."""
    settings = replace(
        config(project, out, "bradley_terry", epochs=12, swap_contexts=True),
        data=Data(source=str(in_contexts(out.with_suffix(".contexts.jsonl"))), heldout=0.25),
        run=RunSettings(out=str(out), seed=seed),
    )
    return logged(settings)[-1]["heldout_accuracy"]


def by_word(count: int, seed: int, flipped: float = 0.0) -> list[Comparison]:
    """A word of the first four syllables is preferred to one of the last four; a share of the labels is wrong."""
    rng = np.random.default_rng(seed)
    half = len(SYLLABLES) // 2
    made: list[Comparison] = []
    for _ in range(count):
        better, worse = (
            SYLLABLES[int(rng.integers(half)) + side * half] + SYLLABLES[int(rng.integers(2 * half))]
            for side in range(2)
        )
        one = Comparison(prompt=Prompt(content=WORDS[int(rng.integers(64))]), chosen=better, rejected=worse)
        made.append(one.swap() if rng.random() < flipped else one)
    return made


def accuracy_by_word(name: str) -> float:
    """On 200 new pairs."""
    pairs = by_word(200, seed=1000)
    scores = scorer_of(name).of_texts([p.prompt for p in pairs], [(p.chosen, p.rejected) for p in pairs])
    chosen, rejected = scores.view(-1, 2).unbind(1)
    return float((chosen > rejected).float().mean())


def pretrained(project: Path, out: Path, seed: int) -> tuple[float, float]:
    """Accuracy on new pairs of a model of eight good comparisons alone, and of the same after pretraining on 256 of which a fifth is wrong."""
    files = {name: out.with_suffix(f".{name}.jsonl") for name in ("few", "weak")}
    write_jsonl(by_word(8, seed=seed), files["few"])
    write_jsonl(by_word(256, seed=seed + 100, flipped=0.2), files["weak"])

    def run(name: str, model: str, source: str, **changes: Any) -> str:
        settings = RewardConfig(
            run=RunSettings(out=str(out / name), seed=seed),
            data=Data(source=str(files[source]), heldout=0.0),
            model=model,
            batch_size=8,
            optim=Optim(lr=5e-3, schedule="constant"),
            compute=CPU,
            **changes,
        )
        logged(settings)
        return folder(settings)

    start = str(project / "start")
    alone = run("alone", start, "few", epochs=4)
    first = run("first", start, "weak", epochs=2)
    second = run("second", first, "few", epochs=4, keep_head=True)
    return accuracy_by_word(alone), accuracy_by_word(second)


def ensembled(project: Path, out: Path, seed: int) -> dict[str, float]:
    """Accuracy on new pairs of four models of 24 noisy comparisons that differ in seed: of one on average, and of each rule for all."""
    file = out.with_suffix(".noisy.jsonl")
    write_jsonl(by_word(24, seed=seed + 200, flipped=0.2), file)
    names = []
    for member in range(4):
        settings = RewardConfig(
            run=RunSettings(out=str(out / f"member-{member}"), seed=10 * seed + member),
            data=Data(source=str(file), heldout=0.0),
            model=str(project / "start"),
            batch_size=8,
            epochs=4,
            optim=Optim(lr=5e-3, schedule="constant"),
            compute=CPU,
        )
        logged(settings)
        names.append(folder(settings))
    pairs = by_word(200, seed=1000)
    prompts, texts = [p.prompt for p in pairs], [(p.chosen, p.rejected) for p in pairs]

    def share(scores: Tensor) -> float:
        chosen, rejected = scores.view(-1, 2).unbind(1)
        return float((chosen > rejected).float().mean())

    world = start_world("cpu")
    found = {"one alone": float(np.mean([accuracy_by_word(name) for name in names]))}
    for rule in ("mean", "worst", "penalised"):
        scorer = EnsembleScorer.load(names, CPU, world, rules=Combining(combine=rule))
        found[rule] = share(scorer.of_texts(prompts, texts))
    return found


def long_is_chosen(file: Path) -> Path:
    """A word of the first four syllables is preferred, and the chosen completion is the longer one in three of four."""
    rng = np.random.default_rng(0)
    rows = []
    for one in by_word(200, seed=7):
        longer_chosen = rng.random() < 0.75
        tails = [" and so it is", ""] if longer_chosen else ["", " and so it is"]
        chosen, rejected = (text + tail for text, tail in zip((one.chosen, one.rejected), tails, strict=True))
        rows.append({"prompt": one.prompt.content, "chosen": chosen, "rejected": rejected})
    write(file, rows)
    return file


def length_bias(project: Path, out: Path, seed: int) -> dict[str, float]:
    """Correlation of score and length, and accuracy where the chosen one is longer and where it is shorter; as trained, and residualised."""
    found: dict[str, float] = {}
    for name, residual in (("as trained", False), ("residualised", True)):
        settings = RewardConfig(
            run=RunSettings(out=str(out / name.replace(" ", "-")), seed=seed),
            data=Data(source=str(long_is_chosen(out.with_suffix(".long.jsonl"))), heldout=0.4),
            model=str(project / "start"),
            length_residual=residual,
            batch_size=12,
            epochs=2,
            optim=FAST,
            compute=CPU,
        )
        logged(settings)
        heldout = [
            one
            for one in load_comparisons(settings.data.source).records
            if part_of(one.prompt, heldout=0.4) == "heldout"
        ]
        quality = evaluate_reward_model(
            folder(settings),
            heldout,
            compute=CPU,
            world=start_world("cpu"),
            budget=TokenBudget(prompt=100, completion=100),
        )
        length = quality.length
        assert length.correlation is not None
        assert length.chosen_longer is not None
        assert length.chosen_shorter is not None
        found[f"{name}: correlation"] = length.correlation.value
        found[f"{name}: accuracy, chosen longer"] = length.chosen_longer.value
        found[f"{name}: accuracy, chosen shorter"] = length.chosen_shorter.value
    return found


TASKS: dict[str, Callable[[Path, Path, int], float]] = {
    "one bad step of three is found (`process`, `step_rule minimum`)": bad_step_found,
    "likeliest level of an uneven scale (`ordinal`)": likeliest_level,
    "preferred as the context says (`swap_contexts`)": context_read,
}
"""What is measured -> how; a share of right answers."""
