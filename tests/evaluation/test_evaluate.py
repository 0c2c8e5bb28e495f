"""Policies and reward models measured on held-out prompts: numbers recomputed one completion at a time, and what must be zero is."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from prefloop.configs.common import Compute, Sampling
from prefloop.data.toy_world import ToyWorld
from prefloop.errors import InputError
from prefloop.evaluation.evaluate import (
    PolicyResults,
    Setting,
    TokenBudget,
    answer,
    best_of_n_curve,
    evaluate_policies,
    evaluate_reward_model,
)
from prefloop.models.load import load_policy, load_reward_model, new_reward_model, save_classifier
from prefloop.models.packing import pack
from prefloop.records import Comparison, Prompt
from prefloop.rollout.scoring import score_groups
from prefloop.runtime import start_world
from prefloop.text import (
    comparison_group,
    completions_group,
    decode_completion,
    load_tokenizer,
    train_tokenizer,
)
from prefloop.text.groups import Group
from tests.tiny_project import make_model

CPU = Compute(device="cpu")


def gold(prompt: Prompt, completion: str) -> float:
    """Longer is better."""
    return float(len(completion))


def setting(k: int = 1, tokens: int = 8192) -> Setting:
    return Setting(
        sampling=Sampling(max_new_tokens=6, temperature=0.9),
        completions_per_prompt=k,
        seed=5,
        max_prompt_tokens=128,
        compute=Compute(device="cpu", micro_batch_tokens=tokens),
        world=start_world("cpu"),
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two policies and a reward model."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    found = {name: str(make_model(folder / name, seed=seed)) for seed, name in enumerate(("sft", "ppo"))}
    tokenizer = load_tokenizer(found["sft"])
    save_classifier(new_reward_model(found["sft"], tokenizer, CPU, seed=3), tokenizer, folder / "reward")
    return {**found, "reward": str(folder / "reward")}


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return list(dict.fromkeys(ToyWorld(0).prompts(20)))[:8]


def measure(
    models: dict[str, str], prompts: list[Prompt], *, k: int = 2, tokens: int = 8192
) -> PolicyResults:
    folders = {"sft": models["sft"], "same": models["sft"], "ppo": models["ppo"]}
    return evaluate_policies(folders, prompts, setting(k, tokens), gold=gold, reward_model=models["reward"])


def test_numbers_are_those_of_the_completions(models: dict[str, str], prompts: list[Prompt]) -> None:  # N9
    results = measure(models, prompts)
    tokenizer, judge = load_tokenizer(models["ppo"]), load_reward_model(models["reward"], CPU)
    reference, policy = load_policy(models["sft"], CPU), load_policy(models["ppo"], CPU)
    summary, evaluated = results.policies[2], results.evaluated[2]
    assert [len(row) for row in evaluated.completions] == [2] * len(prompts)
    rollout = answer(policy, tokenizer, prompts, setting(2))  # the same draws, with their tokens
    golds, proxies, lengths, kls, under_reference = [], [], [], [], 0.0
    for prompt, row, group in zip(prompts, evaluated.completions, rollout.groups, strict=True):
        for one, tokens in zip(row, group.completions, strict=True):
            assert one.gold == gold(prompt, one.text)
            assert one.text == decode_completion(tokenizer, tokens)
            alone = Group(prompt=group.prompt, completions=(tokens,), masks=([True] * len(tokens),))
            with torch.no_grad():
                batch = pack([alone], policy.device)
                assert judge(batch).item() == pytest.approx(one.proxy, abs=1e-4)
                kls.append(policy.statistics_against(reference, batch, temperature=0.9).kl.sum().item())
                under_reference += reference(batch).sum().item()
            golds.append(one.gold)
            proxies.append(one.proxy)
            lengths.append(one.tokens)
            assert one.tokens == len(tokens)
    assert summary.gold is not None
    assert summary.proxy is not None
    assert summary.gold.value == pytest.approx(np.mean(golds))
    assert summary.proxy.value == pytest.approx(np.mean(np.array(proxies, dtype=float)))
    assert summary.length.value == pytest.approx(np.mean(lengths))
    assert summary.kl.value == pytest.approx(np.mean(kls), rel=1e-4)
    perplexity = math.exp(-under_reference / sum(lengths))
    assert summary.further["perplexity_under_sft"].value == pytest.approx(perplexity, rel=1e-4)


def test_the_same_policy_has_no_kl_and_wins_half(models: dict[str, str], prompts: list[Prompt]) -> None:  # K9
    """It is asked with the same random numbers, so it gives the same answers, under whatever name."""
    results = measure(models, prompts)
    first, same, other = results.policies
    assert [one.text for row in results.evaluated[0].completions for one in row] == [
        one.text for row in results.evaluated[1].completions for one in row
    ]
    assert first.kl.value == 0
    assert same.kl.value == pytest.approx(0, abs=1e-6)
    assert same.win_rate_vs_sft is not None
    assert same.win_rate_vs_sft.value == 0.5
    assert same.further["perplexity_under_sft"] == first.further["perplexity_under_sft"]
    assert other.further["perplexity_under_sft"].value > 100  # about uniform over 300 tokens
    assert math.isfinite(other.further["perplexity_under_sft"].high)


def test_micro_batches_change_nothing(models: dict[str, str], prompts: list[Prompt]) -> None:  # N1
    whole, cut = (measure(models, prompts, tokens=tokens).policies[2] for tokens in (8192, 30))
    assert whole.gold == cut.gold
    assert whole.kl.value == pytest.approx(cut.kl.value, rel=1e-4)


def test_without_judges_there_is_what_needs_none(models: dict[str, str], prompts: list[Prompt]) -> None:
    results = evaluate_policies(
        {"sft": models["sft"], "ppo": models["ppo"]}, prompts, setting(), gold=None, reward_model=""
    )
    for summary in results.policies:
        assert (summary.gold, summary.proxy, summary.win_rate_vs_sft) == (None, None, None)
        assert summary.length.n == len(prompts)


def comparisons() -> list[Comparison]:
    prompts = ToyWorld(0).prompts(6)
    return [
        Comparison(prompt=prompt, chosen="word " * (1 + i % 4), rejected="other " * (1 + i % 3))
        for i, prompt in enumerate(prompts)
    ]


def test_reward_model_accuracy_is_that_of_its_scores(models: dict[str, str]) -> None:
    pairs = comparisons()
    quality = evaluate_reward_model(
        models["reward"],
        pairs,
        compute=CPU,
        world=start_world("cpu"),
        budget=TokenBudget(prompt=128, completion=64),
        gold=gold,
        ceiling=0.9,
    )
    tokenizer = load_tokenizer(models["reward"])
    scores = score_groups(
        load_reward_model(models["reward"], CPU),
        [comparison_group(tokenizer, pair) for pair in pairs],
        tokens=99,
        world=start_world("cpu"),
    ).view(-1, 2)
    right = (scores[:, 0] > scores[:, 1]).double()
    assert quality.accuracy.value == pytest.approx(right.mean().item())
    assert quality.accuracy.n == len(pairs)
    assert quality.ceiling == 0.9
    assert quality.gold_accuracy is not None
    better = torch.tensor([gold(p.prompt, p.chosen) > gold(p.prompt, p.rejected) for p in pairs])
    agrees = (scores[:, 0] > scores[:, 1]) == better
    assert quality.gold_accuracy.value == pytest.approx(agrees.double().mean().item())


def test_gold_that_sees_no_difference_gives_no_accuracy(models: dict[str, str]) -> None:
    """A policy that has learned little may write nothing but ties; the run must still end in a report."""
    quality = evaluate_reward_model(
        models["reward"],
        comparisons(),
        compute=CPU,
        world=start_world("cpu"),
        budget=TokenBudget(prompt=128, completion=64),
        gold=lambda prompt, completion: 1.0,
    )
    assert quality.gold_accuracy is None


def test_comparisons_over_the_budget_are_refused_and_not_left_out(models: dict[str, str]) -> None:  # D5
    with pytest.raises(InputError, match="max_completion_tokens = 3"):
        evaluate_reward_model(
            models["reward"],
            comparisons(),
            compute=CPU,
            world=start_world("cpu"),
            budget=TokenBudget(prompt=128, completion=3),
        )


def test_best_of_n_starts_at_the_policy_and_rises_by_proxy(
    models: dict[str, str], prompts: list[Prompt]
) -> None:
    curve = best_of_n_curve(models["sft"], models["reward"], prompts, setting(4), gold=gold)
    assert (curve[0].n, curve[-1].n) == (1, 4)
    proxies = [point.proxy.value for point in curve]
    assert proxies == sorted(proxies)
    results = evaluate_policies(
        {"sft": models["sft"]}, prompts, setting(4), gold=gold, reward_model=models["reward"]
    )
    assert results.policies[0].proxy is not None
    assert curve[0].proxy.value == pytest.approx(results.policies[0].proxy.value, rel=1e-5)


def with_other_tokens(folder: Path) -> PreTrainedTokenizerFast:
    """Give a model another tokenizer whose ids it has embeddings for."""
    other = train_tokenizer((f"zebra {number} quay" for number in range(99)), vocab_size=290)
    other.save_pretrained(folder)
    return other


def test_policies_of_other_tokens_are_refused(
    models: dict[str, str], prompts: list[Prompt], tmp_path: Path
) -> None:  # K9
    """The KL between them would be that of two different texts."""
    with_other_tokens(make_model(tmp_path / "other", seed=2))
    folders = {"sft": models["sft"], "other": str(tmp_path / "other")}
    with pytest.raises(InputError, match=r"policy other \(.*other\) has a different tokenizer from "):
        evaluate_policies(folders, prompts, setting(), gold=gold)


def test_a_reward_model_of_other_tokens_reads_the_text(
    models: dict[str, str], prompts: list[Prompt], tmp_path: Path
) -> None:  # M14
    shutil.copytree(models["reward"], tmp_path / "reward")
    theirs = with_other_tokens(tmp_path / "reward")
    reward_model = str(tmp_path / "reward")
    results = evaluate_policies(
        {"sft": models["sft"]}, prompts, setting(2), gold=None, reward_model=reward_model
    )
    judge = load_reward_model(reward_model, CPU)
    for prompt, row in zip(prompts, results.evaluated[0].completions, strict=True):
        group = completions_group(theirs, prompt, [one.text for one in row], ended=[one.ended for one in row])
        with torch.no_grad():
            scores = judge(pack([group])).tolist()
        assert [one.proxy for one in row] == pytest.approx(scores, abs=1e-4)
