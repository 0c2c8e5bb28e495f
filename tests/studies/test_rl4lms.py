"""The study of RL4LMs' table: what policies are asked and measured by, the ordering task, and its smallest size on made-up reviews."""

import json
import math
from pathlib import Path

import pytest
import torch

from prefloop.configs.study import StudyConfig
from prefloop.data import load_prompts
from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.studies.films import Films, read_demonstrations, write_reviews
from prefloop.studies.rl4lms import cells
from prefloop.studies.rl4lms_films import entropy, some_words
from prefloop.studies.rl4lms_sentences import Bleu, RougeL, in_alphabet, make_model, plain_sentences
from prefloop.studies.rl4lms_settings import RL4LMsSettings
from prefloop.studies.run import study
from prefloop.studies.study import Place
from prefloop.text import decode_completion, encode_completion, encode_prompt, load_tokenizer, stop_token_ids

pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
pytest.importorskip("sklearn", reason="the extra `imdb` is not installed")
pytest.importorskip("sacrebleu", reason="the extra `metrics` is not installed")
pytest.importorskip("rouge_score", reason="the extra `metrics` is not installed")

from tests.recipes.test_imdb import reviews  # it skips its own tests where pyarrow is missing


def test_plain_sentences_are_short_ones_of_words_alone() -> None:
    texts = [
        "I loved it so much! It cost $3 at most. Was it good<br />or bad? Don't see it twice. Too short."
    ]
    assert plain_sentences(texts) == ["i loved it so much", "don't see it twice"]
    assert in_alphabet("i loved it so much") == "i it loved much so"


def test_a_tokenizer_of_words_writes_them_back(tmp_path: Path) -> None:
    settings = RL4LMsSettings(ordering_width=8, ordering_layers=1)
    make_model(tmp_path / "model", ["don't", "it", "see", "twice"], settings, 0)
    tokenizer, prompt = load_tokenizer(str(tmp_path / "model")), Prompt(content="don't it see twice")
    assert len(encode_prompt(tokenizer, prompt)) == 5
    ids = encode_completion(tokenizer, prompt, "don't see it twice")
    assert ids[-1:] == list(stop_token_ids(tokenizer))
    assert decode_completion(tokenizer, ids) == "don't see it twice"


def test_the_metrics_as_rewards_prefer_the_reference_and_read_its_own() -> None:
    prompts = [Prompt(content="a b c d e"), Prompt(content="v w x y z")]
    references = {prompts[0].sha256: "e d c b a", prompts[1].sha256: "v w x y z"}
    for metric in (Bleu(references), RougeL(references)):
        assert metric(prompts, ["e d c b a", "v w x y z"]) == pytest.approx([1, 1])
        first, second = metric(prompts, ["e d c a b", "e d c b a"])
        assert 0.3 < first < 1
        assert second < 0.01


def test_ngrams_are_counted_in_equally_many_words() -> None:
    texts = some_words(["one two three", "four five", "six"], 4)
    assert texts == [("one", "two", "three"), ("four",)]
    assert entropy(texts, n=1) == pytest.approx(math.log(4))
    assert entropy([("a", "a", "b", "b")], n=1) == pytest.approx(math.log(2))
    assert entropy([("a", "a", "b", "b")], n=2) == pytest.approx(math.log(3))


def test_demonstrations_are_positive_and_openings_that_measure_are_asked_of_nobody(tmp_path: Path) -> None:
    settings = RL4LMsSettings(reviews=200, opening=3, tokens=12, drawn=1000)
    data = reviews(tmp_path, 400)
    films = Films(settings=settings, place=Place(seed=1, folder=tmp_path, prepared=tmp_path, data=str(data)))
    write_reviews(films)
    shown = read_demonstrations(films.file("shown"))
    people = read_demonstrations(films.file("people"))
    asked = {prompt.sha256 for prompt in load_prompts(films.file("openings")).records}
    assert len(shown) > 20
    assert len(people) > 8
    assert {one.prompt.sha256 for one in shown} <= asked
    assert not {one.prompt.sha256 for one in people} & asked
    for one in (*shown, *people):
        number = int(str(one.prompt.content).split()[1].strip(":"))
        assert len(one.completion.split()) == settings.tokens
        assert one in people or number % 2 == 0  # every second review is positive
    assert len({int(str(one.prompt.content).split()[1].strip(":")) % 2 for one in people}) == 2


def test_the_smallest_size_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    out = tmp_path / "out"
    data = reviews(tmp_path, 300).parent  # a folder, as a study wants it
    given = StudyConfig(name="rl4lms", size="smallest", jobs=1, seeds=1, out=str(out), data=str(data))
    assert study(given) == 0
    found = json.loads((out / "study.json").read_text())
    policies, labels, ordering = found["tables"]
    names = [row["policy"] for row in policies]
    assert names == [
        "zero-shot",
        "supervised",
        "ppo",
        "trpo",
        "supervised + ppo",
        "supervised + trpo",
        "ppo, no KL",
        "8 demonstrations",
        "8 comparisons, ppo",
    ]
    assert policies[0]["KL"]["value"] == 0
    for row in policies:
        assert 0 < row["sentiment, %"]["value"] < 100, row
        assert row["its perplexity of people's text"]["value"] > 1, row
    assert [row["labels"] for row in labels] == [8]
    assert len(ordering) == 5
    assert len(found["findings"]) == 10
    assert (out / "figure.svg").read_text().startswith("<svg")


def test_a_method_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="methods has 'grpo', which is no method; there are ppo, nlpo"):
        cells(RL4LMsSettings(methods=("grpo",)))
