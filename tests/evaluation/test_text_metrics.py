"""BLEU, ROUGE and a user's metrics: equal to the libraries, with intervals over prompts."""

from pathlib import Path

import numpy as np
import pytest

from prefloop.cli import main
from prefloop.errors import InputError
from prefloop.evaluation.intervals import mean_interval
from prefloop.evaluation.summary import read_summary
from prefloop.evaluation.text_metrics import check_metrics, measure_texts, references_of
from prefloop.feedback.shares import tail_of
from prefloop.records import Prompt
from tests.tiny_project import make_demonstrations, make_model, make_prompts

sacrebleu = pytest.importorskip("sacrebleu", reason="the extra metrics")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="the extra metrics")

TEXTS = [
    "The cat sat on the mat, didn't it?",
    "there is a cat on the mat",
    "",
    "It is raining again; bring an umbrella to the station.",
    "It rains again in the evening, they say.",
    "A completely different sentence about jumping foxes.",
]
REFERENCES = [
    ["The cat sat on the mat, did it not?", "A cat was sitting on the mat."],
    ["The cat sat on the mat, did it not?", "A cat was sitting on the mat."],
    ["Nothing."],
    ["It is raining again; take an umbrella to the station."],
    ["It is raining again; take an umbrella to the station."],
    ["The quick brown fox jumped over the lazy dog."],
]
PROMPTS = [Prompt(content=f"prompt {number}") for number in (0, 0, 1, 2, 2, 3)]
CLUSTERS = [0, 0, 1, 2, 2, 3]


def longer(prompts: list[Prompt], texts: list[str], references: list[list[str]]) -> list[float]:
    return [float(len(text) > len(its[0])) for text, its in zip(texts, references, strict=True)]


def test_bleu_is_sacrebleus() -> None:
    texts, references = TEXTS * 3, REFERENCES * 3
    clusters = [each + 4 * time for time in range(3) for each in CLUSTERS]
    found = measure_texts(["bleu"], PROMPTS * 3, texts, references, clusters=clusters)["bleu"]
    streams = [[(its + its)[place] for its in references] for place in (0, 1)]
    assert found.value == sacrebleu.corpus_bleu(texts, streams).score
    assert found.n == 18
    # A resample of prompts has sacrebleu's score of it.
    scores, generator = [], np.random.default_rng(0)
    for drawn in generator.integers(12, size=(300, 12)):
        rows = [row for prompt in drawn for row in range(18) if clusters[row] == prompt]
        drawn_streams = [[stream[row] for row in rows] for stream in streams]
        scores.append(sacrebleu.corpus_bleu([texts[row] for row in rows], drawn_streams).score)
    tail = tail_of(12, 0.95)
    low, high = np.quantile(scores, [tail, 1 - tail])
    assert (found.low, found.high) == (pytest.approx(low, abs=4), pytest.approx(high, abs=4))
    assert found.high - found.low > 10
    again = measure_texts(["bleu"], PROMPTS * 3, texts, references, clusters=clusters)["bleu"]
    assert again == found
    apart = measure_texts(["bleu"], PROMPTS[5:], TEXTS[5:], REFERENCES[5:], clusters=[0])["bleu"]
    assert apart.value == sacrebleu.corpus_bleu(TEXTS[5:], [REFERENCES[5]]).score > 0  # no 4-gram in common
    assert np.isnan(apart.low)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_rouge_scores(name: str) -> None:
    found = measure_texts([name], PROMPTS, TEXTS, REFERENCES, clusters=CLUSTERS)[name]
    scorer = rouge_scorer.RougeScorer([name], use_stemmer=True)
    best = [
        max(scorer.score(one, text)[name].fmeasure for one in its)
        for text, its in zip(TEXTS, REFERENCES, strict=True)
    ]
    assert found == mean_interval(best, clusters=CLUSTERS)
    assert 0 < found.value < 1


def test_a_metric_of_ones_own_by_value_and_by_name(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "def words(prompts, texts, references):\n    return [len(text.split()) for text in texts]\n"
    )
    check_metrics([f"{file}:words"])
    found = measure_texts([longer, f"{file}:words"], PROMPTS, TEXTS, REFERENCES, clusters=CLUSTERS)
    assert found["longer"] == mean_interval([0, 0, 0, 1, 0, 1], clusters=CLUSTERS)
    assert found["words"] == mean_interval([len(text.split()) for text in TEXTS], clusters=CLUSTERS)
    file = tmp_path / "short.py"
    file.write_text("def words(prompts, texts, references):\n    return [1.0]\n")
    with pytest.raises(InputError, match=r"words returned 1 values for 6 completions"):
        measure_texts([f"{file}:words"], PROMPTS, TEXTS, REFERENCES, clusters=CLUSTERS)


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(InputError, match=r"metrics has 'rouge'; it must be one of bleu, rouge1"):
        check_metrics(["rouge"])
    asked = [Prompt(content="a"), Prompt(content="b")]
    known = {asked[0].sha256: ["x"]}
    with pytest.raises(InputError, match=r"1 of 2 prompts in d\.jsonl have none; give demonstrations"):
        references_of(known, asked, ["bleu"], "d.jsonl")
    assert references_of(known, asked, ["own:metric"], "d.jsonl") == [["x"], []]


def test_eval_measures_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(tmp_path / "sft")
    demos = make_demonstrations(tmp_path / "demos.jsonl")
    line = (
        f"eval --policies sft={model} --metrics bleu rougeL --sampling.max_new_tokens 4 --completions_per_prompt 2 "
        f"--compute.device cpu --out {tmp_path} --data "
    )
    assert main([*line.split(), str(demos)]) == 0
    out = capsys.readouterr().out
    assert " bleu " in out
    assert "rougeL" in out
    (policy,) = read_summary(tmp_path / "summary.json").policies
    assert policy.further["bleu"].n == policy.length.n == 24
    assert 0 <= policy.further["rougeL"].value <= 1
    prompts = make_prompts(tmp_path / "prompts.jsonl")
    assert main([*line.replace(f"--out {tmp_path}", f"--out {tmp_path}/no").split(), str(prompts)]) == 2
    assert "prompts.jsonl have none; give demonstrations" in capsys.readouterr().err
