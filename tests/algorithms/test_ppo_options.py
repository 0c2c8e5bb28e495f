"""What each of PPO's settings changes, recomputed in float64 from what a step was given; and what it leaves alone."""

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefloop.configs.common import Data, LoRA, Optim, Sampling
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig, RewardShaping
from prefloop.loop import actor_critic, learn
from prefloop.loop.inputs import demonstrations
from prefloop.losses import gae
from prefloop.models.load import load_policy, load_reward_model, reward_moments
from prefloop.models.packing import pack
from prefloop.rollout.scoring import score_groups, summed_logprobs
from prefloop.runtime import start_world
from prefloop.text import load_tokenizer
from prefloop.text.groups import Group
from tests.algorithms import tiny
from tests.algorithms.small import weights_of
from tests.algorithms.test_ppo import spy_judge
from tests.algorithms.tiny import CPU, FAST, echoes, logged

STILL = Optim(lr=0.0)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """(config, roles, rollout, scores, experience, metrics) of every step."""
    return spy_judge(monkeypatch)


@pytest.fixture
def rewards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rewards, values, mask) of every step, as the advantages were made of them."""
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def spy(rewards: Any, values: Any, mask: Any, **settings: float) -> Any:
        seen.append((rewards.double().numpy(), values.double().numpy(), mask.numpy()))
        return gae(rewards, values, mask, **settings)

    monkeypatch.setattr("prefloop.loop.experience.gae", spy)
    return seen


def with_model(project: Path, out: Path, **changes: Any) -> PPOConfig:
    """PPO from a policy that often stops by itself, paid by a reward model whose scores have a mean and a spread."""
    return tiny.ppo(
        project,
        out,
        **{
            "model": str(project / "stopping/final"),
            "reward_model": str(project / "reward/final"),
            **changes,
        },
    )


def last_tokens(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each completion's last token stands."""
    return np.arange(len(mask)), mask.sum(1) - 1


# Scores and rewards


def test_the_score_is_paid_at_the_last_token_and_the_kl_everywhere(
    project: Path, tmp_path: Path, judged: list[Any], rewards: list[Any]
) -> None:  # M15 K6
    settings = with_model(
        project,
        tmp_path / "ppo",
        reference=str(project / "start"),
        kl=KL(coef=0.3),
        reward=RewardShaping(normalise=False),
    )
    (row,) = logged(settings)
    ((_, _, rollout, scores, experience, _),) = judged
    ((paid, _, mask),) = rewards
    lengths = [len(c) for group in rollout.groups for c in group.completions]
    assert mask.sum(1).tolist() == lengths
    assert len(set(lengths)) > 1
    kl = (experience.old_logprobs - experience.reference_logprobs).double().numpy() * mask
    expected = -0.3 * kl
    expected[last_tokens(mask)] += scores.double().numpy()
    np.testing.assert_allclose(paid, expected, atol=1e-5)
    assert row["kl"] == pytest.approx(kl.sum(1).mean(), rel=1e-4)  # K12
    assert row["reward"] == pytest.approx(paid.sum(1).mean(), rel=1e-4)
    assert row["score"] == pytest.approx(scores.double().mean().item(), rel=1e-5)
    world = start_world("cpu")
    model = load_reward_model(settings.reward_model, CPU)
    torch.testing.assert_close(
        scores, score_groups(model, rollout.groups, tokens=50, world=world), rtol=1e-4, atol=1e-5
    )


def shaped(settings: PPOConfig, judged: list[Any], rewards: list[Any]) -> list[tuple[np.ndarray, ...]]:
    """(scores, what was paid for them, did the completion end) of each step, without a KL."""
    logged(replace(settings, kl=KL(coef=0.0)))
    result = []
    for (_, _, rollout, scores, _, _), (paid, _, mask) in zip(judged, rewards, strict=True):
        ended = np.array([end for ends in rollout.ended for end in ends])
        assert np.abs(paid).sum() == pytest.approx(np.abs(paid[last_tokens(mask)]).sum())
        result.append((scores.double().numpy(), paid[last_tokens(mask)], ended))
    return result


def test_normalised_by_the_reward_models_moments(
    project: Path, tmp_path: Path, judged: list[Any], rewards: list[Any]
) -> None:  # K7
    settings = with_model(project, tmp_path / "ppo")
    ((scores, paid, _),) = shaped(settings, judged, rewards)
    mean, std = reward_moments(load_reward_model(settings.reward_model, CPU))
    assert abs(std - 1) > 0.01
    np.testing.assert_allclose(paid, (scores - mean) / std, rtol=1e-4, atol=1e-5)


def test_scaled_by_all_scores_so_far(
    project: Path, tmp_path: Path, judged: list[Any], rewards: list[Any]
) -> None:  # K7
    settings = with_model(
        project, tmp_path / "ppo", steps=3, reward=RewardShaping(normalise=False, scale=True)
    )
    seen: list[float] = []
    for scores, paid, _ in shaped(settings, judged, rewards):
        seen += scores.tolist()
        np.testing.assert_allclose(paid, scores / np.std(seen, ddof=1), rtol=1e-4)


def test_clipped(project: Path, tmp_path: Path, judged: list[Any], rewards: list[Any]) -> None:  # K7
    settings = with_model(project, tmp_path / "ppo", reward=RewardShaping(normalise=False, clip=0.05))
    ((scores, paid, _),) = shaped(settings, judged, rewards)
    assert (np.abs(scores) > 0.05).any()
    np.testing.assert_allclose(paid, np.clip(scores, -0.05, 0.05), atol=1e-6)


def test_who_does_not_end_pays(
    project: Path, tmp_path: Path, judged: list[Any], rewards: list[Any]
) -> None:  # K7
    settings = with_model(
        project,
        tmp_path / "ppo",
        sampling=Sampling(max_new_tokens=2),
        reward=RewardShaping(normalise=False, clip=0.5, missing_eos=2.0),
    )
    ((scores, paid, ended),) = shaped(settings, judged, rewards)
    assert 0 < ended.sum() < len(ended)
    np.testing.assert_allclose(paid, np.clip(scores, -0.5, 0.5) - 2.0 * ~ended, atol=1e-6)


def test_rewards_whitened_over_tokens_with_their_mean_kept(
    project: Path, tmp_path: Path, rewards: list[Any], judged: list[Any]
) -> None:  # K7 M10
    kl = KL(coef=0.3)
    for name, whiten in (("plain", False), ("white", True)):
        logged(with_model(project, tmp_path / name, kl=kl, reward=RewardShaping(whiten=whiten)))
    (plain, _, mask), (white, _, same) = rewards
    assert (mask == same).all()
    ragged = plain[mask]
    expected = (ragged - ragged.mean()) / np.sqrt(ragged.var() + 1e-8) + ragged.mean()
    np.testing.assert_allclose(white[mask], expected, rtol=1e-4, atol=1e-5)
    assert not white[~mask].any()


# Advantages


@pytest.mark.parametrize("whiten", [False, True])
def test_advantages_by_their_definition(
    whiten: bool, project: Path, tmp_path: Path, judged: list[Any], rewards: list[Any]
) -> None:  # C1 C2 M10
    """A_t = Σ_l (γλ)^l δ_{t+l} over the completion's own tokens, the value after its last token 0."""
    settings = with_model(
        project,
        tmp_path / "ppo",
        gamma=0.9,
        lam=0.8,
        whiten_advantages=whiten,
        critic=CriticSettings(start="reward"),
    )
    (row,) = logged(settings)
    ((_, _, _, _, experience, _),) = judged
    ((paid, values, mask),) = rewards
    advantages = np.zeros_like(paid)
    for b, length in enumerate(mask.sum(1)):
        after = [*values[b, 1:length], 0.0]
        delta = [paid[b, t] + 0.9 * after[t] - values[b, t] for t in range(length)]
        for t in range(length):
            advantages[b, t] = sum((0.9 * 0.8) ** (k - t) * delta[k] for k in range(t, length))
    returns = advantages + values
    np.testing.assert_allclose(experience.returns.numpy()[mask], returns[mask], rtol=1e-4, atol=1e-5)
    variance = 1 - (returns - values)[mask].var() / returns[mask].var()
    assert row["explained_variance"] == pytest.approx(variance, abs=1e-3)
    if whiten:
        ragged = advantages[mask]
        advantages = (advantages - ragged.mean()) / np.sqrt(ragged.var() + 1e-8)
    np.testing.assert_allclose(experience.advantages.numpy()[mask], advantages[mask], rtol=1e-3, atol=1e-4)


# The KL


def test_kl_is_in_the_reward_or_in_the_loss_and_never_in_both(
    project: Path, tmp_path: Path, judged: list[Any], rewards: list[Any]
) -> None:  # K6
    base = tiny.ppo(
        project, tmp_path / "none", model=str(project / "stopping/final"), reference=str(project / "start")
    )
    extra, paid = {}, {}
    for name, kl in (
        ("none", KL(coef=0.0)),
        ("reward", KL(coef=0.5)),
        ("loss", KL(coef=0.5, placement="loss", estimator="k2")),
        ("exact", KL(coef=0.5, placement="loss", estimator="exact")),
    ):
        (row,) = logged(replace(base, kl=kl, run=replace(base.run, out=str(tmp_path / name))))
        extra[name] = row["loss"] - row["policy_loss"]
        paid[name] = rewards[-1][0]
    mask = rewards[0][2]
    experience = judged[0][4]
    ratio = (experience.old_logprobs - experience.reference_logprobs).double().numpy() * mask
    assert extra["none"] == pytest.approx(0, abs=1e-6)
    assert extra["reward"] == pytest.approx(0, abs=1e-6)
    assert extra["loss"] == pytest.approx(0.5 * (ratio**2 / 2).sum() / mask.sum(), rel=1e-3)
    assert extra["exact"] > 0.01
    np.testing.assert_allclose(paid["loss"], paid["none"], atol=1e-6)
    np.testing.assert_allclose(paid["exact"], paid["none"], atol=1e-6)
    np.testing.assert_allclose(paid["reward"], paid["none"] - 0.5 * ratio, atol=1e-5)


def test_the_controller_is_fed_the_kl_of_completions(
    project: Path, tmp_path: Path, judged: list[Any]
) -> None:  # K12
    """Of completion tokens alone, summed over each: the number that is logged, and the one penalised."""
    settings = with_model(
        project,
        tmp_path / "ppo",
        steps=5,
        completions_per_prompt=2,
        kl=KL(coef=0.2, target=0.3, horizon=100),
    )
    rows = logged(settings)
    assert rows[0]["kl_coef"] == 0.2
    for row, after in itertools.pairwise(rows):
        error = min(max(row["kl"] / 0.3 - 1, -0.2), 0.2)
        assert after["kl_coef"] == pytest.approx(row["kl_coef"] * (1 + error * 32 / 100), rel=1e-9)
    for row, (*_, experience, _) in zip(rows, judged, strict=True):
        r = (experience.old_logprobs - experience.reference_logprobs).double() * experience.mask
        assert row["kl"] == pytest.approx(r.sum(1).mean().item(), abs=1e-5)
    assert rows[1]["kl_coef"] < 0.2  # no KL yet, so it lets go


# The policy's update


def test_a_larger_entropy_bonus_ends_with_more_entropy(project: Path, tmp_path: Path) -> None:  # K7
    ends = {}
    for coefficient in (0.0, 1.0):
        out = tmp_path / f"{coefficient:g}"
        settings = tiny.ppo(project, out, steps=12, epochs=3, kl=KL(coef=0.0), entropy_coef=coefficient)
        ends[coefficient] = logged(settings)[-1]["entropy"]
    assert ends[1.0] > ends[0.0] + 0.2


def test_the_entropy_bonus_is_a_mean_over_tokens(project: Path, tmp_path: Path) -> None:  # N7
    (row,) = logged(tiny.ppo(project, tmp_path / "ppo", entropy_coef=0.3, old_logprobs="policy"))
    assert row["loss"] == pytest.approx(row["policy_loss"] - 0.3 * row["entropy"], abs=1e-5)


def test_dual_clip_touches_exploded_ratios_only(project: Path, tmp_path: Path) -> None:  # K7
    def end(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        logged(tiny.ppo(project, tmp_path / name, **changes))
        return weights_of(tmp_path / name / "final")

    calm, calm_bound = end("calm"), end("calm_bound", dual_clip=1.5)
    assert all(torch.equal(calm[name], calm_bound[name]) for name in calm)  # the only ratio was 1
    wild = {"epochs": 6, "optim": Optim(lr=0.1, schedule="constant")}
    free, bound = end("free", **wild), end("bound", **wild, dual_clip=1.5)
    assert any(not torch.equal(free[name], bound[name]) for name in free)


def test_the_clip_range_is_read(project: Path, tmp_path: Path) -> None:  # K7
    fractions = {}
    for clip in (0.02, 0.5):
        fractions[clip] = logged(tiny.ppo(project, tmp_path / f"{clip}", clip=clip, epochs=4))[0][
            "clip_fraction"
        ]
    assert fractions[0.02] > fractions[0.5] + 0.05


def ptx_nll(folder: str, source: str) -> float:
    """Negative log-likelihood of a file's demonstrations under a saved policy."""
    world, tokenizer = start_world("cpu"), load_tokenizer(folder)
    groups = demonstrations(Data(source=source, heldout=0.0), tokenizer, "", world).train.groups
    return -summed_logprobs(load_policy(folder, CPU), groups, tokens=99, world=world).mean().item()


def test_ptx_keeps_the_likelihood_of_its_data(project: Path, tmp_path: Path) -> None:  # K7
    source = str(echoes(tmp_path / "ptx.jsonl"))
    ends = {}
    for name, changes in {"off": {}, "on": {"ptx": source, "ptx_coef": 1.0}}.items():
        logged(tiny.ppo(project, tmp_path / name, steps=6, epochs=2, **changes))
        ends[name] = ptx_nll(str(tmp_path / name / "final"), source)
    assert ends["on"] < ends["off"] - 3


def test_ptx_reads_texts_too_and_is_a_mean_over_its_tokens(project: Path, tmp_path: Path) -> None:  # N7
    """One document, one block: its loss can be computed by hand."""
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"text": "a few words of text"}) + "\n")
    (row,) = logged(tiny.ppo(project, tmp_path / "ppo", ptx=str(file), ptx_coef=0.4))
    tokenizer = load_tokenizer(str(project / "start"))
    ids = [*tokenizer("a few words of text")["input_ids"], tokenizer.eos_token_id]
    group = Group(prompt=ids[:1], completions=(ids[1:],), masks=([True] * (len(ids) - 1),))
    policy = load_policy(str(project / "start"), CPU)
    total = summed_logprobs(policy, [group], tokens=99, world=start_world("cpu")).item()
    assert row["loss"] == pytest.approx(row["policy_loss"] - 0.4 * total / (len(ids) - 1), abs=1e-4)


def test_the_average_is_saved_and_equals_one_by_hand(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = actor_critic.Roles.follow
    start = load_policy(str(project / "start"), CPU)
    by_hand = {name: value.double().clone() for name, value in start.model.named_parameters()}

    def follow(self: Any) -> None:
        real(self)
        for name, value in self.policy.model.named_parameters():
            by_hand[name] = 0.7 * by_hand[name] + 0.3 * value.detach().double()

    monkeypatch.setattr(actor_critic.Roles, "follow", follow)
    logged(tiny.ppo(project, tmp_path / "ppo", steps=2, epochs=2, ema=0.7))
    average = load_policy(str(tmp_path / "ppo/final/ema"), CPU).model
    policy = load_policy(str(tmp_path / "ppo/final"), CPU).model
    for name, value in average.named_parameters():
        torch.testing.assert_close(value.double(), by_hand[name], rtol=1e-5, atol=1e-6)
    assert any(
        not torch.allclose(value, other)
        for value, other in zip(average.parameters(), policy.parameters(), strict=True)
    )
    assert load_tokenizer(str(tmp_path / "ppo/final/ema")).get_vocab()


# The critic and the reward model


def test_the_critics_warm_up_leaves_the_policy_alone(project: Path, tmp_path: Path) -> None:
    settings = with_model(
        project,
        tmp_path / "ppo",
        steps=3,
        critic=CriticSettings(start="reward", warmup_steps=2, optim=FAST),
    )
    settings = replace(settings, run=replace(settings.run, save_every=1, keep=9))
    rows = logged(settings)
    steps = [weights_of(tmp_path / f"ppo/checkpoints/step-{n}") for n in (1, 2, 3)]
    start = {
        name: value for name, value in weights_of(project / "stopping/final").items() if name in steps[0]
    }
    assert len(start) > 5
    assert all(torch.equal(steps[1][name], start[name]) for name in start)
    assert any(not torch.equal(steps[2][name], start[name]) for name in start)
    critics = [{k: v for k, v in step.items() if k.startswith("critic/")} for step in steps]
    assert any(not torch.equal(critics[0][name], critics[1][name]) for name in critics[0])
    assert "policy_loss" not in rows[0]
    assert "policy_loss" in rows[2]
    assert rows[2]["lr"] > 0


@pytest.mark.parametrize("lora", [LoRA(), LoRA(rank=2, alpha=8.0)])
def test_the_reward_model_stays_bit_identical(
    lora: LoRA, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: list[Any]
) -> None:
    """Though the critic began as its copy, and though with adapters it lives on the policy's trunk."""
    name = "reward_lora" if lora.rank else "reward"
    found: list[Any] = []
    for maker in ("load_reward_model", "reward_model_on_trunk"):
        real = getattr(actor_critic, maker)

        def opened(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            model = real(*args, **kwargs)
            found.append((model, {key: value.clone() for key, value in model.state_dict().items()}))
            return model

        monkeypatch.setattr(actor_critic, maker, opened)
    settings = with_model(
        project,
        tmp_path / "ppo",
        steps=3,
        lora=lora,
        reward_model=str(project / name / "final"),
        critic=CriticSettings(start="reward", optim=FAST),
    )
    logged(settings)
    ((model, before),) = found
    same = {
        key: torch.equal(value, before[key]) for key, value in model.state_dict().items() if key in before
    }
    own = [key for key in same if not lora.rank or ".reward." in key or key.startswith("score_head")]
    assert own
    assert all(same[key] for key in own)
    roles, last = judged[-1][1], judged[-1][4]
    with torch.no_grad():
        batch = pack(last.groups, roles.policy.device)
        fresh = load_reward_model(settings.reward_model, CPU)
        torch.testing.assert_close(model(batch), fresh(batch), rtol=1e-4, atol=1e-5)


def test_a_critic_from_the_reward_model_predicts_the_normalised_score(
    project: Path, tmp_path: Path, judged: list[Any]
) -> None:  # C3
    """Its value before token t is the normalised score of the completion up to there: at the end it predicts what is paid."""
    settings = with_model(project, tmp_path / "ppo", critic=CriticSettings(start="reward"))
    logged(settings)
    ((_, _, rollout, _, experience, _),) = judged
    model = load_reward_model(settings.reward_model, CPU)
    mean, std = reward_moments(model)
    checked = 0
    for i, group in enumerate(rollout.groups):
        (completion,) = group.completions
        for t in range(1, len(completion)):
            shorter = Group(prompt=group.prompt, completions=(completion[:t],), masks=([True] * t,))
            score = score_groups(model, [shorter], tokens=50, world=start_world("cpu")).item()
            assert experience.old_values[i, t].item() == pytest.approx((score - mean) / std, abs=1e-4)
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("start", ["policy", "shared"])
def test_other_critics_begin_by_predicting_nothing(
    start: Any, project: Path, tmp_path: Path, judged: list[Any]
) -> None:
    logged(tiny.ppo(project, tmp_path / "ppo", critic=CriticSettings(start=start)))
    assert not judged[0][4].old_values.any()


def test_the_value_loss_of_a_shared_trunk_is_weighed(project: Path, tmp_path: Path) -> None:  # K7 N6
    for coefficient in (0.1, 2.0):
        settings = tiny.ppo(
            project, tmp_path / f"{coefficient}", critic=CriticSettings(start="shared", coef=coefficient)
        )
        (row,) = logged(settings)
        assert row["value_loss"] > 0
        assert row["loss"] == pytest.approx(row["policy_loss"] + coefficient * row["value_loss"], rel=1e-4)


def test_the_value_loss_is_half_the_squared_error(
    project: Path, tmp_path: Path, judged: list[Any]
) -> None:  # N6
    (row,) = logged(tiny.ppo(project, tmp_path / "ppo", critic=CriticSettings(start="policy", optim=STILL)))
    experience = judged[0][4]
    error = (experience.returns - experience.old_values)[experience.mask].double()
    assert row["value_loss"] == pytest.approx((error**2).mean().item() / 2, rel=1e-4)


def test_the_value_clip_is_read(project: Path, tmp_path: Path) -> None:  # K7
    losses = {}
    for clip in (0.0, 0.01):
        critic = CriticSettings(start="policy", optim=FAST, clip=clip)
        losses[clip] = logged(tiny.ppo(project, tmp_path / f"{clip}", epochs=5, critic=critic))[0][
            "value_loss"
        ]
    assert losses[0.01] > losses[0.0]


# Prompts and samples


def test_k_completions_of_each_prompt_that_differ(
    project: Path, tmp_path: Path, judged: list[Any]
) -> None:  # C9 D7
    settings = tiny.ppo(project, tmp_path / "ppo", steps=2, completions_per_prompt=4, optim=STILL)
    logged(settings)
    for _, _, rollout, scores, experience, _ in judged:
        assert [len(group.completions) for group in rollout.groups] == [4] * 16
        assert len(scores) == len(experience.mask) == 64
        for group in rollout.groups:
            assert len({tuple(completion) for completion in group.completions}) == 4
    draws = [tuple(c) for _, _, rollout, *_ in judged for group in rollout.groups for c in group.completions]
    assert len(set(draws)) == len(draws)  # another step draws anew, though nothing was learned


def test_scores_and_advantages_stay_with_their_completions(
    project: Path, tmp_path: Path, judged: list[Any], rewards: list[Any]
) -> None:  # M11 C8
    """Whatever the micro-batches: each row is paid by its own text."""
    settings = tiny.ppo(
        project,
        tmp_path / "ppo",
        completions_per_prompt=3,
        minibatches=4,
        compute=replace(CPU, micro_batch_tokens=20),
        kl=KL(coef=0.0),
        reward=RewardShaping(normalise=False),
    )
    (row,) = logged(settings)
    ((_, _, rollout, scores, _, _),) = judged
    ((paid, _, mask),) = rewards
    asked, texts = rollout.pairs()
    own = tiny.small_letters(asked, texts)
    assert scores.tolist() == own
    assert paid[last_tokens(mask)].tolist() == own
    assert row["ratio"] < 1e-4


def test_every_prompt_of_an_epoch_is_used_once(
    project: Path, tmp_path: Path, judged: list[Any]
) -> None:  # D8
    settings = tiny.ppo(project, tmp_path / "ppo", steps=6, batch_prompts=6, optim=STILL)
    logged(settings)
    sizes = [len(rollout.prompts) for _, _, rollout, *_ in judged]
    assert sizes == [6, 6, 4, 6, 6, 4]
    for epoch in (judged[:3], judged[3:]):
        used = Counter(prompt.sha256 for _, _, rollout, *_ in epoch for prompt in rollout.prompts)
        assert len(used) == 16
        assert set(used.values()) == {1}
    orders = [
        [p.sha256 for _, _, rollout, *_ in part for p in rollout.prompts] for part in (judged[:3], judged[3:])
    ]
    assert orders[0] != orders[1]


def test_every_completion_is_in_one_minibatch_of_each_epoch(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # D8
    real = learn.update
    updates: list[list[Group]] = []

    def update(updater: Any, groups: Any, *rest: Any, **more: Any) -> Any:
        updates.append(list(groups))
        return real(updater, groups, *rest, **more)

    monkeypatch.setattr(learn, "update", update)
    logged(tiny.ppo(project, tmp_path / "ppo", epochs=2, minibatches=5))
    batches = updates[::2]  # the policy's; the critic learns from the same
    assert updates[1::2] == batches
    assert [len(batch) for batch in batches] == [4, 3, 3, 3, 3] * 2
    for epoch in (batches[:5], batches[5:]):
        assert len({id(group) for batch in epoch for group in batch}) == 16


def test_the_seed_decides_everything_random(project: Path, tmp_path: Path) -> None:  # C4
    def end(name: str, seed: int) -> dict[str, torch.Tensor]:
        settings = tiny.ppo(project, tmp_path / name, steps=2)
        logged(replace(settings, run=replace(settings.run, seed=seed)))
        return weights_of(tmp_path / name / "final")

    one, same, other = end("one", 1), end("same", 1), end("other", 2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_length_and_ended_are_those_of_the_completions(
    project: Path, tmp_path: Path, judged: list[Any]
) -> None:  # M16 N9
    (row,) = logged(with_model(project, tmp_path / "ppo", completions_per_prompt=2, old_logprobs="policy"))
    rollout, experience = judged[0][2], judged[0][4]
    lengths = [len(c) for group in rollout.groups for c in group.completions]
    assert row["length"] == pytest.approx(np.mean(lengths))
    assert row["ended"] == pytest.approx(np.mean([end for ends in rollout.ended for end in ends]))
    policy = load_policy(str(project / "stopping/final"), CPU)
    with torch.no_grad():
        statistics = policy.statistics(pack(rollout.groups, policy.device), entropy=True)
    assert row["entropy"] == pytest.approx(statistics.entropy.mean().item(), rel=1e-4)
    assert experience.mask.sum() == sum(lengths)
    assert not math.isnan(row["explained_variance"])
