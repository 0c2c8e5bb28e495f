"""Scorers by name, in every command the same way: ensembles, log-ratios, functions; texts and drawn completions alike."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.configs.common import Sampling
from prefloop.configs.ppo import CriticSettings, RewardShaping, ScoreShaping
from prefloop.configs.scorers import Combining, Named, scorers_named
from prefloop.errors import InputError
from prefloop.loop.scoring import OnlineScorer, scorer_roles
from prefloop.models.load import load_policy, load_reward_model, reward_moments
from prefloop.models.packing import pack
from prefloop.records import Message, Prompt
from prefloop.rollout import make_rollout, sample
from prefloop.rollout.reward_scorers import Drawn, EnsembleScorer
from prefloop.runtime import World, start_world
from prefloop.text import decode_completion, encode_prompts, load_tokenizer, stop_token_ids
from tests.algorithms.small import metrics_of, settings, short_is_good, train
from tests.algorithms.tiny import CPU

FUNCTION = "tests.algorithms.small:short_is_good"


def names(project: Path) -> list[str]:
    stopping, start = project / "stopping/final", project / "start"
    return [
        str(project / "reward/final"),
        str(project / "reward_lora/final"),
        f"{stopping}@{start}",
        FUNCTION,
    ]


def drawn(project: Path) -> Drawn:
    tokenizer = load_tokenizer(str(project / "stopping/final"))
    prompts = [Prompt(content="sun"), Prompt(content="tea")]
    ids = encode_prompts(tokenizer, prompts, max_prompt_tokens=20).prompts
    with load_policy(str(project / "stopping/final"), CPU).active() as model:
        samples = sample(
            model,
            ids,
            k=3,
            stop_ids=stop_token_ids(tokenizer),
            sampling=Sampling(max_new_tokens=6, temperature=1.5),
            seed=3,
            row_keys=[0, 1],
        )
    rollout = make_rollout(prompts, ids, samples, lambda tokens: decode_completion(tokenizer, tokens))
    return Drawn(rollout=rollout, tokenizer=tokenizer)


def test_names_are_read() -> None:
    assert scorers_named("a/b, c@e/d,m:f") == (
        Named(kind="model", name="a/b"),
        Named(kind="implicit", name="c", reference="e/d"),
        Named(kind="function", name="m:f"),
    )
    assert scorers_named("a/b@main") == (Named(kind="model", name="a/b@main"),)  # a revision of it
    assert scorers_named("a@main@c") == (Named(kind="implicit", name="a@main", reference="c"),)
    for wrong in ("", "a,,b", "a@", "@b"):
        with pytest.raises(InputError, match="reward_model"):
            scorers_named(wrong)
    assert scorer_roles("a,m:f,c@e/d") == (
        {"reward_model": "a", "scorer_policy_3": "c", "scorer_reference_3": "e/d"},
        {},
    )


def test_every_member_scores_what_was_drawn(project: Path) -> None:
    """By hand: normalised scores of reward models on the drawn tokens, log-ratios over them, what the function says of the texts."""
    asked, world = drawn(project), start_world("cpu")
    assert not all(
        end for ends in asked.rollout.ended for end in ends
    )  # scored as it was cut, without a stop token
    given = names(project)
    members = EnsembleScorer.load(",".join(given), CPU, world).members_of(asked)
    batch = pack(asked.rollout.groups)
    with torch.no_grad():
        for row, name in zip(members, given[:2], strict=False):
            model = load_reward_model(name, CPU)
            mean, std = reward_moments(model)
            torch.testing.assert_close(row, (model(batch) - mean) / std, rtol=1e-4, atol=1e-5)
        ours, theirs = (load_policy(name, CPU)(batch).sum(1) for name in given[2].split("@"))
        torch.testing.assert_close(members[2], ours - theirs, rtol=1e-4, atol=1e-4)
    assert members[3].tolist() == pytest.approx(short_is_good(*asked.rollout.pairs()), abs=1e-6)


def test_combining_rules(project: Path) -> None:
    asked, world = drawn(project), start_world("cpu")
    two = names(project)[:2]
    each = EnsembleScorer.load(two, CPU, world).members_of(asked)

    def combined(**rules: Any) -> torch.Tensor:
        scorer = EnsembleScorer.load(two, CPU, world, rules=Combining(**rules))
        return scorer.combine(scorer.members_of(asked))

    variance = (each - each.mean(0)).square().mean(0)
    torch.testing.assert_close(combined(), each.mean(0))
    torch.testing.assert_close(combined(combine="worst"), each.min(0).values)
    torch.testing.assert_close(
        combined(combine="penalised", variance_penalty=2.0), each.mean(0) - 2 * variance
    )
    assert bool((combined(combine="worst") <= combined()).all())


def test_one_scorer_is_left_as_it_is_with_its_moments(project: Path) -> None:
    asked, world = drawn(project), start_world("cpu")
    name = names(project)[0]
    alone = EnsembleScorer.load(name, CPU, world, normalise=False)
    model = load_reward_model(name, CPU)
    assert alone.moments == reward_moments(model)
    with torch.no_grad():
        torch.testing.assert_close(alone.members_of(asked)[0], model(pack(asked.rollout.groups)))
    several = EnsembleScorer.load([name, FUNCTION], CPU, world, normalise=False)
    assert several.moments == (0.0, 1.0)


def test_disagreement_is_reported_once(project: Path) -> None:
    asked, world = drawn(project), World(rank=0, size=1, device=torch.device("cpu"))
    scorer = EnsembleScorer.load(names(project)[:2], CPU, world, normalise=False)
    online = OnlineScorer(scorer, asked.tokenizer, world)
    online(asked.rollout)
    spread = scorer.members_of(asked).std(0, unbiased=False).mean().item()
    assert online.metrics(world) == {"disagreement": pytest.approx(spread, rel=1e-5)}
    online(asked.rollout)
    online(asked.rollout)
    assert online.metrics(world)["disagreement"] == pytest.approx(spread, rel=1e-5)
    single = OnlineScorer(EnsembleScorer.load(FUNCTION, CPU, world), asked.tokenizer, world)
    single(asked.rollout)
    assert single.metrics(world) == {}


def test_rules_that_change_nothing_are_refused(project: Path) -> None:  # K7
    world, (model, _, ratio, function) = start_world("cpu"), names(project)
    for name, rules, said in (
        (model, Combining(combine="worst"), "names one scorer"),
        (model, Combining(beta=0.5), "no log-ratio"),
        (function, Combining(context="short"), "reads the prompt as it is"),
    ):
        with pytest.raises(InputError, match=said):
            EnsembleScorer.load(name, CPU, world, rules=rules)
    with pytest.raises(InputError, match="beta is 0"):
        Combining(beta=0.0)
    assert EnsembleScorer.load(ratio, CPU, world, rules=Combining(beta=0.5)).moments == (0.0, 1.0)
    with pytest.raises(InputError, match="Python functions only"):
        _ = EnsembleScorer.load(function, CPU, world).tokenizer


def test_a_context_is_read_before_the_prompt(project: Path) -> None:
    world, name = start_world("cpu"), names(project)[0]
    plain = EnsembleScorer.load(name, CPU, world)
    short = EnsembleScorer.load(name, CPU, world, rules=Combining(context="be short"))
    prompt, text = Prompt(content="sun"), "b!"
    assert short([prompt], [text]) == plain([prompt.in_context("be short")], [text])
    assert short([prompt], [text]) != plain([prompt], [text])
    rollout = drawn(project)
    assert not torch.allclose(short.members_of(rollout), plain.members_of(rollout))


def test_contexts_of_chats() -> None:
    user, system = Message(role="user", content="hi"), Message(role="system", content="be kind")
    assert Prompt(content=(user,)).in_context("c").content == (Message(role="system", content="c"), user)
    both = Message(role="system", content="c\n\nbe kind")
    assert Prompt(content=(system, user)).in_context("c").content == (both, user)
    assert Prompt(content="hi").in_context("") == Prompt(content="hi")


@pytest.mark.parametrize("stage", ["ppo_policy_critic", "grpo", "online_dpo", "expert", "trpo"])
def test_every_stage_takes_ensembles(stage: str, project: Path) -> None:
    base = settings(stage, project, out=f"ensemble-{stage}")
    given = names(project)
    rules: dict[str, Any] = {"combine": "worst"}
    shaping = replace(base.reward, **rules)
    changes: dict[str, Any] = {"reward": shaping, "reward_model": ",".join(given[:3]), "steps": 2}
    if stage == "trpo":
        changes["critic"] = replace(base.critic, start="reward")  # from the first of them
    train(replace(base, **changes))
    rows = metrics_of(Path(base.run.out))
    assert all(row["disagreement"] > 0 for row in rows)


def test_a_log_ratio_starts_no_critic(project: Path) -> None:
    base = settings("ppo", project, out="refused")
    with pytest.raises(InputError, match="start is `reward`"):
        replace(base, reward_model=names(project)[2])
    assert isinstance(RewardShaping(), ScoreShaping)
    assert replace(base, reward_model=names(project)[2], critic=CriticSettings(start="policy"), ema=0.0)
