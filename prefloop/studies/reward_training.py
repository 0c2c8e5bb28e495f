"""Reward models on published comparisons, each made in one way and measured on the same held-out comparisons: what the study `reward_models` runs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefloop.algorithms import filter as filtering
from prefloop.algorithms import prefer, reward, sft
from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings
from prefloop.configs.filter import FilterConfig
from prefloop.configs.prefer import PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data import load_comparisons, split, write_jsonl
from prefloop.errors import InputError
from prefloop.evaluation.reward_model_quality import reward_model_quality
from prefloop.models.generation import save_model
from prefloop.models.load import load_policy
from prefloop.records import Comparison, Demonstration
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.rollout.scoring import summed_logprobs
from prefloop.runtime import start_world
from prefloop.text import encode_all, load_tokenizer

FILES = {"alpaca-eval": "comparisons.jsonl.gz", "hh-harmless": "train.jsonl.gz"}
"""Data set -> its file, in a folder of its name."""
Floats = NDArray[np.float64]
ADAPTER = LoRA(rank=16, alpha=32.0)
SHORTER, LONGER = "Prefer the shorter answer.", "Prefer the longer answer."


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardFit:
    """How everything is trained and measured."""

    seed: int
    folder: Path
    tokens: int
    lr: float
    """Of adapters of reward models."""
    whole_lr: float
    """Where all weights are trained."""
    policy_lr: float
    batch: int
    compute: Compute

    def run(self, name: str) -> RunSettings:
        """A run folder of that name."""
        return RunSettings(out=str(self.folder / name), seed=self.seed)

    def data(self, records: Sequence[Comparison | Demonstration], name: str) -> Data:
        """Records as a stage reads them, none held out. What is over the limit can only be a prompt (`read_set`), which keeps its end."""
        file = write_jsonl(records, self.folder / f"{name}.jsonl").path
        return Data(
            source=str(file),
            heldout=0.0,
            max_prompt_tokens=self.tokens,
            max_completion_tokens=self.tokens,
            overlong="truncate",
        )


def read_set(
    data: str, name: str, model: str, *, tokens: int, heldout: float
) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons of a data set whose completions have fewer tokens than the limit: those to train on, and those held out, by prompt."""
    kept, _ = read_short(data, name, model, tokens=tokens)
    train, test = split(kept, heldout=heldout)
    return list(train), list(test)


def read_short(data: str, name: str, model: str, *, tokens: int) -> tuple[list[Comparison], int]:
    """Comparisons of a data set whose completions have fewer tokens than the limit, and how many there are in all. Raises `InputError` without its file."""
    file = Path(data) / name / FILES[name]
    if not file.exists():
        raise InputError(
            f"{file}: there is no such file; --data must name a folder with {' and '.join(FILES)}"
        )
    loaded = load_comparisons(file, skip_bad=True, chat=name == "alpaca-eval")
    sides = [side for one in loaded.records for side in (one.chosen, one.rejected)]
    counts = [len(ids) for ids in load_tokenizer(model)(sides, add_special_tokens=False)["input_ids"]]
    fits = [max(counts[2 * at : 2 * at + 2]) < tokens for at in range(len(loaded.records))]
    kept = [replace(one, annotator="") for one, fit in zip(loaded.records, fits, strict=True) if fit]
    return kept, len(loaded.records)


def cut(model: str, layers: int, out: Path) -> str:
    """The model's first layers as a model of its own; the model itself for 0."""
    if not layers:
        return model
    policy = load_policy(model, Compute(device="cpu"))
    policy.model.base_model.layers = policy.model.base_model.layers[:layers]  # pyright: ignore[reportIndexIssue, reportArgumentType]
    policy.model.config.num_hidden_layers = layers
    save_model(policy.model, load_tokenizer(model), out)
    return str(out)


def fit_reward(
    fit: RewardFit,
    start: str,
    records: Sequence[Comparison],
    name: str,
    *,
    whole: bool = False,
    keep_head: bool = False,
    residual: bool = False,
    swap: bool = False,
) -> str:
    """A reward model's folder; an adapter is trained, or all weights where that is asked for."""
    config = RewardConfig(
        run=fit.run(name),
        data=fit.data(records, f"{name}-data"),
        model=start,
        keep_head=keep_head,
        lora=LoRA() if whole else ADAPTER,
        length_residual=residual,
        swap_contexts=swap,
        normalise=False,
        batch_size=fit.batch,
        optim=Optim(lr=fit.whole_lr if whole else fit.lr, schedule="linear", warmup=0.1),
        compute=fit.compute,
    )
    return str(reward.train(config))


def fit_policy(fit: RewardFit, start: str, records: Sequence[Comparison], loss: str) -> str:
    """A policy trained on comparisons by an objective of `prefer`."""
    config = PreferConfig(
        run=fit.run(loss),
        data=fit.data(records, f"{loss}-data"),
        model=start,
        loss=loss,
        lora=ADAPTER,
        batch_size=fit.batch,
        optim=Optim(lr=fit.policy_lr, schedule="linear", warmup=0.1),
        compute=fit.compute,
    )
    return str(prefer.train(config))


def fit_chosen(fit: RewardFit, start: str, records: Sequence[Comparison]) -> str:
    """A policy trained on the chosen completions by likelihood."""
    shown = [Demonstration(prompt=one.prompt, completion=one.chosen) for one in records]
    config = SFTConfig(
        run=fit.run("sft"),
        data=fit.data(shown, "sft-data"),
        model=start,
        lora=ADAPTER,
        batch_size=fit.batch,
        epochs=1,
        optim=Optim(lr=fit.policy_lr, schedule="linear", warmup=0.1),
        compute=fit.compute,
    )
    return str(sft.train(config))


def flipped(records: Sequence[Comparison], share: float, seed: int) -> list[Comparison]:
    """A share of the labels turned round, drawn from the seed."""
    draw = random.Random(seed)
    return [one.swap() if draw.random() < share else one for one in records]


def filtered(fit: RewardFit, model: str, records: Sequence[Comparison], least: float) -> list[Comparison]:
    """Those that a reward model agrees with by at least so much, in standard deviations of its scores."""
    kept = fit.folder / "kept.jsonl"
    filtering.filter_comparisons(
        FilterConfig(
            data=fit.data(records, "unfiltered"),
            out=str(kept),
            reward_models=(model,),
            least_margin=least,
            compute=fit.compute,
        )
    )
    return list(load_comparisons(kept).records)


def about_length(records: Sequence[Comparison], seed: int, *, said: bool) -> list[Comparison]:
    """The shorter or the longer completion is preferred, as a context says that is drawn for each; the context is left out unless it is `said`."""
    draw, result = random.Random(seed), []
    for one in records:
        if len(one.chosen) == len(one.rejected):
            continue
        wanted = draw.choice((SHORTER, LONGER))
        right = (len(one.chosen) < len(one.rejected)) == (wanted == SHORTER)
        asked = one if right else one.swap()
        other = LONGER if wanted == SHORTER else SHORTER
        result.append(replace(asked, context=wanted, opposite_context=other) if said else asked)
    return result


def measure(
    fit: RewardFit, scorer: str, comparisons: Sequence[Comparison], *, start: str = ""
) -> dict[str, float]:
    """Accuracy in %, and what length explains of the scores. `start` scores by the mean log-probability of a token, as SimPO does."""
    scores, lengths = scores_of(fit, scorer, comparisons, start=start)
    (chosen, rejected), (long, short) = scores.T, lengths.T
    found = reward_model_quality(
        chosen, rejected, long, short, clusters=[one.prompt.sha256 for one in comparisons]
    )
    about = found.length
    return {
        "accuracy": 100 * found.accuracy.value,
        "longer_is_chosen": 100 * about.longer_is_chosen.value,
        "longer_scores_higher": 100 * about.longer_scores_higher.value,
        "correlation": about.correlation.value if about.correlation else float("nan"),
        "chosen_longer": 100 * about.chosen_longer.value if about.chosen_longer else float("nan"),
        "chosen_shorter": 100 * about.chosen_shorter.value if about.chosen_shorter else float("nan"),
    }


def scores_of(
    fit: RewardFit, scorer: str, comparisons: Sequence[Comparison], *, start: str = ""
) -> tuple[Floats, Floats]:
    """`[comparisons, 2]` scores of the chosen and the rejected completions, and how many tokens they have."""
    world = start_world(fit.compute.device)
    tokenizer = load_tokenizer(start or scorer.partition("@")[0])
    encoded = encode_all(
        tokenizer,
        comparisons,
        max_prompt_tokens=fit.tokens,
        max_completion_tokens=fit.tokens,
        overlong="truncate",
    )
    lengths = np.array([len(one) for group in encoded.groups for one in group.completions], dtype=float)
    if start:
        policy = load_policy(scorer, fit.compute)
        summed = summed_logprobs(policy, encoded.groups, tokens=fit.compute.micro_batch_tokens, world=world)
        scores = summed.double().numpy() / lengths
    else:
        members = EnsembleScorer.load(scorer, fit.compute, world, normalise=False)
        texts = [(one.chosen, one.rejected) for one in comparisons]
        prompts = [one.prompt.in_context(one.context) for one in comparisons]
        scores = members.of_texts(prompts, texts, budgets=(fit.tokens, fit.tokens)).double().numpy()
    return scores.reshape(-1, 2), lengths.reshape(-1, 2)
