"""`prefloop run imdb` at its smallest, on made-up reviews and, where they are, on a few hundred real ones."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from prefloop.configs.common import Compute
from prefloop.configs.recipes import IMDBConfig
from prefloop.errors import InputError
from prefloop.feedback.gold import SentimentJudge
from prefloop.recipes import imdb
from prefloop.recipes.run import run_recipe
from prefloop.records import Prompt
from tests.recipes.minimal import made, shrink
from tests.tiny_project import make_model

pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
pytest.importorskip("sklearn", reason="the extra `imdb` is not installed")

GOOD = (
    "a wonderful and moving film",
    "the acting was superb",
    "I loved every minute",
    "a great and clever story",
)
BAD = ("a dull and stupid film", "the acting was awful", "I hated every minute", "a boring and silly story")
PLAIN = ("we saw it at home", "it is set in the north", "two hours passed", "my sister came along with me")


def reviews(folder: Path, count: int) -> Path:
    """A Parquet file of reviews whose words go with their stars."""
    import pyarrow.parquet

    rng = random.Random(0)
    texts, ratings = [], []
    for i in range(count):
        good = i % 2 == 0
        sentences = [*rng.choices(PLAIN, k=4), *rng.choices(GOOD if good else BAD, k=5)]
        rng.shuffle(sentences)
        texts.append(f"Review {i}: " + ". ".join(sentences) + ".")
        ratings.append(rng.choice((8, 9, 10)) if good else rng.choice((1, 2, 3)))
    file = folder / "reviews.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "rating": ratings}), file)
    return file


def config(out: Path, data: Path, *, resume: bool = False) -> IMDBConfig:
    return IMDBConfig(
        out=str(out),
        data=str(data),
        prompts=60,
        pairs=40,
        completion_tokens=12,
        eval_prompts=4,
        compute=Compute(device="cpu"),
        resume=resume,
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    real = imdb.plan
    monkeypatch.setattr(imdb, "plan", lambda config, project: shrink(real(config, project)))


@pytest.mark.usefixtures("small")
def test_the_whole_loop_on_made_up_reviews(tmp_path: Path) -> None:
    project = tmp_path / "imdb"
    settings = config(project, reviews(tmp_path, 300))
    report = run_recipe(settings)
    summary = json.loads((project / "summary.json").read_text())
    assert summary["recipe"] == "imdb"
    assert [policy["name"] for policy in summary["policies"]] == ["sft", "ppo", "dpo"]
    for policy in summary["policies"]:
        assert {"value", "low", "high", "n"} <= set(policy["positive_share"])
        assert 0 <= policy["positive_share"]["value"] <= 1
        assert policy["perplexity_under_sft"]["value"] > 1
    assert "gold judge" in summary["notes"][0]
    assert summary["notes"][0][:40] in report.read_text()
    judge = SentimentJudge.load(project / "judge")
    assert judge.utility(Prompt(content=""), "the acting was superb, I loved it") > 0
    assert judge.utility(Prompt(content=""), "the acting was awful, I hated it") < 0

    before = made(project)
    run_recipe(config(project, Path(settings.data), resume=True))
    assert made(project) == before
    again = json.loads((project / "summary.json").read_text())
    assert again["policies"] == summary["policies"]


@pytest.mark.usefixtures("small")
def test_a_given_model_gets_adapters_and_grpo_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PPO, GRPO and DPO from a published model: sentiment, KL and perplexity of each, with intervals."""
    project = tmp_path / "imdb"
    monkeypatch.setattr(imdb, "SMALL", 1_000)  # weights; the model has a few thousand
    model = make_model(tmp_path / "model")
    settings = replace(
        config(project, reviews(tmp_path, 300)), model=str(model), demonstrations=20, grpo=True, best_of=0
    )
    run_recipe(settings)
    assert not (project / "pretrain").exists()
    summary = json.loads((project / "summary.json").read_text())
    assert [policy["name"] for policy in summary["policies"]] == ["sft", "ppo", "grpo", "dpo"]
    for policy in summary["policies"]:
        assert policy["positive_share"]["n"] == policy["perplexity_under_sft"]["n"] == policy["kl"]["n"] == 4
    for stage in ("sft", "reward", "ppo", "grpo", "dpo"):
        assert yaml.safe_load((project / stage / "config.yaml").read_text())["lora"]["rank"] == 16
    assert len((project / "data/demonstrations.jsonl").read_text().splitlines()) == 20
    assert not json.loads((project / "evaluation.json").read_text())["best_of_n"]


def test_batches_that_make_no_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_completions is 10; GRPO's groups have 4"):
        replace(config(tmp_path / "imdb", tmp_path), batch_completions=10)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("numbered", [False, True])
def test_the_judges_reviews_are_seen_by_nothing_else(tmp_path: Path, numbered: bool) -> None:
    """Nor is a neighbour, which may be of the same film: by the numbers of ids, or else by the place in the file."""
    import pyarrow.parquet

    project, file = tmp_path / "imdb", reviews(tmp_path, 120)
    table = pyarrow.parquet.read_table(file)
    texts: list[str] = table["text"].to_pylist()
    blocks = {text: place // 3 for place, text in enumerate(texts)}
    if numbered:  # 1, 10, 100, 101: as a file system lists them
        order = sorted(range(120), key=lambda place: f"train/pos/{place}_9.txt")
        table = table.take(order).append_column("id", [[f"train/pos/{place}_9.txt" for place in order]])
        pyarrow.parquet.write_table(table, file)
    made_plan = imdb.plan(config(project, file), project)
    used = {json.loads(line)["text"] for line in (project / "data/texts.jsonl").read_text().splitlines()}
    assert 0 < len(used) < len(texts)
    open_blocks = {blocks[text] for text in used}
    assert used == {text for text in texts if blocks[text] in open_blocks}
    judge = made_plan.gold
    assert isinstance(judge, SentimentJudge)
    assert judge.accuracy.n == judge.accuracy_short.n == len(used)  # all that it has not seen
    assert f"n = {len(used)}, intervals by block" in made_plan.notes[0]
    rows = [json.loads(line) for line in (project / "data/demonstrations.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        assert any(text.startswith(row["prompt"] + row["completion"]) for text in used)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("rating", 11, "`rating` is 11"), ("rating", None, "`rating` is None"), ("text", " ", "`text` is ' '")],
)
def test_a_review_that_is_none_is_named(column: str, value: object, words: str, tmp_path: Path) -> None:
    file = tmp_path / "reviews.jsonl"
    rows: list[dict[str, object]] = [
        {"text": "fine", "rating": 7},
        {"text": "fine", "rating": 7, column: value},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=words) as caught:
        run_recipe(config(tmp_path / "out", file))
    assert "reviews.jsonl:2" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small")
def test_the_whole_loop_on_real_reviews(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "imdb"
    if not source.is_dir():
        pytest.skip(f"no reviews in {source}")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(next(source.glob("*.parquet")))
    few = tmp_path / "few.parquet"
    pyarrow.parquet.write_table(table.take(list(range(0, len(table), len(table) // 500))), few)
    run_recipe(config(tmp_path / "imdb", few))
    summary = json.loads((tmp_path / "imdb/summary.json").read_text())
    assert {"positive_share", "perplexity_under_sft"} <= set(summary["policies"][1])
    rows = (tmp_path / "imdb/data/texts.jsonl").read_text()
    assert "<br" not in rows
