"""Scores of stored completions, written down for the selection of pairs."""

import sys
from pathlib import Path

import pytest

from prefloop.algorithms.sample import sample_completions
from prefloop.algorithms.score import score_completions
from prefloop.cli import main
from prefloop.configs.common import Data, Sampling
from prefloop.configs.sample import SampleConfig
from prefloop.configs.select import ScoreConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.select import read_scores
from prefloop.feedback.select.stored import by_disagreement, by_margin, candidates
from prefloop.models.load import load_reward_model
from prefloop.rollout.scoring import score_groups
from prefloop.runtime import start_world
from prefloop.text import completions_group, load_tokenizer
from tests.algorithms.tiny import CPU


def test_every_completion_is_scored_by_every_scorer(project: Path, tmp_path: Path) -> None:
    store, out = str(tmp_path / "prefloop.db"), str(tmp_path / "scores.jsonl")
    with pytest.raises(InputError, match="prefloop"):
        score_completions(ScoreConfig(store=store, reward_model="x", out=out, compute=CPU))
    sample_completions(
        SampleConfig(
            model=str(project / "start"),
            data=Data(source=str(project / "prompts.jsonl"), heldout=0.0),
            store=store,
            completions_per_prompt=3,
            sampling=Sampling(max_new_tokens=4),
            compute=CPU,
        )
    )
    reward, start = str(project / "reward/final"), str(project / "start")
    score_completions(
        ScoreConfig(store=store, reward_model=f"{reward},{start}@{start}", out=out, beta=0.1, compute=CPU)
    )
    scores = read_scores(out)
    with Store.open(store) as opened:
        completions, offered = opened.completions(), candidates(opened)
    assert len(scores) == len({(one.prompt, one.text) for one in completions})
    assert {each[1] for each in scores.values()} == {0.0}  # a model's log-ratio to itself
    tokenizer = load_tokenizer(reward)
    pair = offered[0]
    texts = {one.prompt.sha256: one.prompt for one in completions}
    from prefloop.feedback.select.stored import text_sha256

    said = [next(one.text for one in completions if text_sha256(one.text) == text) for text in pair.texts]
    group = completions_group(tokenizer, texts[pair.prompt], said)
    ours = score_groups(load_reward_model(reward, CPU), [group], tokens=64, world=start_world("cpu"))
    assert [scores[key][0] for key in pair.scored] == pytest.approx(ours.tolist(), abs=1e-5)
    # The numbers alone are enough from here on.
    margins = {key: each[:1] for key, each in scores.items()}
    nearest = offered[by_margin(offered, margins)[0]]
    gaps = [abs(scores[a][0] - scores[b][0]) for a, b in (each.scored for each in offered)]
    assert abs(scores[nearest.scored[0]][0] - scores[nearest.scored[1]][0]) == pytest.approx(min(gaps))
    assert sorted(by_disagreement(offered, scores)) == list(range(len(offered)))


def test_a_function_scores_too(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lengths.py").write_text(
        "def words(prompts, texts):\n    return [float(len(t)) for t in texts]\n"
    )
    sys.modules.pop("lengths", None)
    from tests.studio.made import fill

    with Store.open("s.db") as opened:
        fill(opened, 2, k=3)
    assert (
        main(
            [
                "data",
                "score",
                "--store",
                "s.db",
                "--reward_model",
                "lengths:words",
                "--out",
                "s.jsonl",
                "--compute.device",
                "cpu",
            ]
        )
        == 0
    )
    assert "s.jsonl: 6 completions of 2 prompts, 1 scores each" in capsys.readouterr().out
    assert set(read_scores("s.jsonl").values()) == {(10.0,)}
