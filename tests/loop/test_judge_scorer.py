"""A judge's own score as the reward of online training: what is asked, what is refused, that it is learned from, and that processes share one budget."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.configs.common import RunSettings
from prefloop.configs.critic_free import RLOOConfig
from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.data.store import Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.feedback.judges.prompts import RUBRIC, score_messages
from prefloop.feedback.judges.verdicts import expected_score
from prefloop.loop.judge_scorer import JudgeScorer, judge_content
from prefloop.loop.local_judge import LocalChat
from prefloop.loop.scoring import models_of
from prefloop.models.load import new_language_model, save_policy
from prefloop.records import Prompt
from prefloop.runtime import World
from tests.algorithms import tiny
from tests.algorithms.test_own_samples import shared
from tests.algorithms.tiny import logged
from tests.feedback.judges.server import Server, answer, server
from tests.tiny_project import SIZE, tokenizer

__all__ = ["server"]
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
PROMPT = Prompt(content="ba")


def settings(folder: Path, text: str) -> str:
    file = folder / "judge.yaml"
    file.write_text(text)
    return f"judge:{file}"


def judge_model(folder: Path) -> Path:
    """A fresh model with room for a judge's questions."""
    ours = tokenizer()
    size = replace(SIZE, max_positions=1024)
    save_policy(new_language_model(size, ours, tiny.CPU, seed=0), ours, folder)
    return folder


def likes_small_letters(request: dict[str, Any]) -> dict[str, Any]:
    """A score of 1 to 10 by how many of the first letters of the alphabet the answer has."""
    found = re.search(r"<answer \w+>\n(.*?)\n</answer", request["messages"][1]["content"], re.DOTALL)
    assert found is not None
    score = min(10, 1 + sum(c in "abcdefghijklm" for c in found.group(1)))
    return answer(str(score), {str(score): 1.0})


@pytest.mark.parametrize(
    ("config", "more"), [(OnlineDPOConfig, {"steps": 20, "minibatches": 2}), (RLOOConfig, {"steps": 12})]
)
def test_a_judges_score_is_learned_from(
    config: Any,
    more: dict[str, Any],
    project: Path,
    tmp_path: Path,
    server: Server,
    capsys: pytest.CaptureFixture[str],
):
    server.judge = likes_small_letters
    name = settings(tmp_path, f"base_url: {server.url}\nmodel: m\nlimits: {{workers: 4}}\n")
    rows = logged(config(**shared(project, tmp_path / "run", reward_model=name, **more)))
    assert sum(row["score"] for row in rows[-3:]) / 3 > rows[0]["score"] + 0.2
    assert all(-1 <= row["score"] <= 1 for row in rows)
    assert (tmp_path / "judge_cache.db").exists()


def test_ppo_takes_it_like_a_function(project: Path, tmp_path: Path, server: Server):
    server.judge = likes_small_letters
    name = settings(tmp_path, f"base_url: {server.url}\nmodel: m\n")
    (row,) = logged(tiny.ppo(project, tmp_path / "run", reward_model=name))
    assert -1 <= row["score"] <= 1
    assert {len(request["messages"]) for request in server.requests} == {2}


def test_a_checkpoint_scores_by_its_answers_probabilities(tmp_path: Path):
    folder = judge_model(tmp_path / "m")
    name = settings(tmp_path, f"checkpoint: {folder}\nunreadable: lowest\ncompute: {{device: cpu}}\n")
    local = LocalChat(str(folder), tiny.CPU)
    asked = [score_messages(PROMPT, text, rubric=RUBRIC) for text in ("a", "something else")]
    masses = local.probabilities(asked, [str(score) for score in range(1, 11)])
    # A fresh model puts little on numbers: the lowest score, and counted.
    scorer = JudgeScorer(name, ALONE)
    assert all(sum(row) < 0.1 for row in masses)
    assert scorer([PROMPT] * 2, ["a", "something else"]) == [-1.0, -1.0]
    assert scorer.report() == "0 scores, 2 unreadable"
    sure = [[50 * mass for mass in row] for row in masses]
    assert -1 < expected_score(sure[0]) < 1


def test_the_judge_is_in_the_fingerprint_and_the_lineage(project: Path, tmp_path: Path, server: Server):
    folder = judge_model(tmp_path / "m")
    local = settings(tmp_path, f"checkpoint: {folder}\nunreadable: lowest\ncompute: {{device: cpu}}\n")
    config = OnlineDPOConfig(**shared(project, tmp_path / "p" / "run", reward_model=local, batch_prompts=4))
    # Equal scores teach nothing, which is said and is no fault.
    logged(config)
    with Store.open(tmp_path / "p" / "prefloop.db") as store:
        assert "judge" in str(lineage(store, str(tmp_path / "p" / "run" / "final")))
    contents = models_of(ALONE, model=config.model, reward_model=config.reward_model).contents
    assert {"weights.model", "weights.judge", "judge"} <= set(contents)
    before = judge_content(local)
    settings(tmp_path, f"checkpoint: {folder}\nunreadable: lowest\nrubric: other\ncompute: {{device: cpu}}\n")
    assert judge_content(local).sha256 != before.sha256
    more = replace(config, steps=2, run=RunSettings(out=config.run.out, seed=1, resume=True))
    with pytest.raises(InputError, match=r"settings|judge"):
        logged(more)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base_url: http://x\n", "or checkpoint alone"),
        ("base_url: http://x\nmodel: m\nbest: 11\n", "best is 11"),
        ("base_url: http://x\nmodel: m\nrubrick: y\n", "rubrick"),
    ],
)
def test_settings_that_are_wrong(text: str, said: str, tmp_path: Path):
    with pytest.raises(InputError, match=said):
        JudgeScorer(settings(tmp_path, text), ALONE)
    with pytest.raises(InputError, match="there is no file"):
        JudgeScorer("judge:nowhere.yaml", ALONE)


def test_a_spent_budget_stops_the_run(project: Path, tmp_path: Path, server: Server):
    server.judge = likes_small_letters
    name = settings(tmp_path, f"base_url: {server.url}\nmodel: m\nlimits: {{max_calls: 5, workers: 1}}\n")
    with pytest.raises(InputError, match="max_calls is 5"):
        logged(OnlineDPOConfig(**shared(project, tmp_path / "run", reward_model=name)))


def test_processes_ask_together(tmp_path: Path, server: Server):
    """Two processes' completions go out from one of them, and each gets its own scores back."""
    server.judge = likes_small_letters
    name = settings(tmp_path, f"base_url: {server.url}\nmodel: m\nlimits: {{workers: 1}}\n")

    class Second(World):
        """The second of two, whose first one has one completion; what runs on the first runs here."""

        def gather_objects(self, item: Any) -> list[Any]:
            return [([PROMPT], ["aaa"]), item]

        def on_main(self, work: Any) -> Any:
            return work()

    second = Second(rank=1, size=2, device=torch.device("cpu"))
    assert JudgeScorer(name, second)([PROMPT, PROMPT], ["a", "zz"]) == pytest.approx([2 / 9 - 1, -1.0])
    assert JudgeScorer(name, second)([], []) == []
