"""A rollout knows which weights drew it; where those are not the ones that learn, the run says so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms import expert
from prefloop.loop.sources import PromptSource, RolloutSource, read_prompts, staleness
from prefloop.records import Prompt
from prefloop.rollout import Rollout, Sampled, make_rollout
from prefloop.runtime import World
from tests.algorithms.small import metrics_of, settings

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


class Lagging(PromptSource):
    """An engine that renews its weights late: from the second step on it answers with what the weights before the last step would have drawn."""

    def draw(self, policy: Any, batch: int, *, version: int | None = None, **rest: Any) -> Rollout:
        now = batch - 1 if version is None else version
        return super().draw(policy, batch, version=max(0, now - 1), **rest)


def lagging(config: Any) -> PromptSource:
    source = read_prompts(config)
    return Lagging(**{name: getattr(source, name) for name in PromptSource.__dataclass_fields__})


def rollout(*versions: int) -> Rollout:
    drawn = [Sampled(tokens=[5], logprobs=[0.0], ended=True)]
    one = make_rollout([Prompt(content="q")], [[1]], [drawn], lambda ids: "")
    parts = [replace(one, versions=[[[version]]]) for version in versions]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.join(part)
    return whole


def versions_of(rollout: Rollout) -> set[int]:
    return {version for row in rollout.versions for tokens in row for version in tokens}


def test_versions_go_with_their_completions() -> None:
    three = rollout(4, 2, 3)
    assert three.versions == [[[4]], [[2]], [[3]]]
    assert three.take([2, 0]).versions == [[[3]], [[4]]]
    assert rollout(1).beside(rollout(7)).versions == [[[1], [7]]]
    assert rollout(1).take([]).join(three).versions == three.versions


def test_staleness_is_the_mean_of_what_is_behind() -> None:
    assert staleness(rollout(4, 4), 4, ALONE) == {}
    assert staleness(rollout(4, 2, 3), 4, ALONE) == {"staleness": pytest.approx(1.0)}


def test_the_sampler_draws_with_the_weights_as_they_are(project: Path) -> None:
    config = settings("expert", project, out="versions")
    source: RolloutSource = read_prompts(config)
    from prefloop.models.load import load_policy

    policy = load_policy(config.model, config.compute)
    first, third = source.draw(policy, 1, k=2), source.draw(policy, 3, k=2)
    assert versions_of(first) == {0}
    assert versions_of(third) == {2}
    assert [list(map(len, row)) for row in first.versions] == [
        list(map(len, group.completions)) for group in first.groups
    ]
    again = source.draw(policy, 3, k=2, version=7)
    assert again.texts == third.texts
    assert versions_of(again) == {7}


def test_a_source_that_lags_is_seen_in_the_metrics(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert, "read_prompts", lagging)
    config = settings("expert", project, out="lagging")
    expert.train(config)
    rows = metrics_of(Path(config.run.out))
    assert "staleness" not in rows[0]
    assert [row["staleness"] for row in rows[1:]] == [1.0] * (len(rows) - 1)
    assert len(rows) > 1
