"""The study of random walks: its tokenizer, what it measures, and every method at a size that takes a second."""

import json
from pathlib import Path

import pytest
import torch

from prefloop.configs.study import StudyConfig
from prefloop.data.random_walks import make_graph, optimality, spell
from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.studies.run import study
from prefloop.studies.walk_policies import METHODS, make_tokenizer, shorter_wins
from prefloop.studies.walks import WalksSettings, cells, summary
from prefloop.text import decode_completion, encode_completion, encode_prompt, stop_token_ids


def test_a_tokenizer_of_letters_writes_them_back() -> None:
    tokenizer, prompt = make_tokenizer(), Prompt(content="b")
    assert len(encode_prompt(tokenizer, prompt)) == 2
    ids = encode_completion(tokenizer, prompt, "cda")
    assert len(ids) == 4
    assert ids[-1:] == list(stop_token_ids(tokenizer))
    assert decode_completion(tokenizer, ids) == "cda"


def test_the_better_walk_wins_and_only_shortest_paths_count_as_such() -> None:
    graph = make_graph()
    start = max(graph.starts, key=lambda node: graph.shortest[node])
    path = [start]
    while path[-1] != 0:
        path.append(min(graph.following[path[-1]], key=lambda node: graph.shortest[node]))
    prompt, best = Prompt(content=spell([start])), spell(path[1:])
    assert shorter_wins([prompt] * 3, [best, "?", best], ["?", best, best]) == [1.0, 0.0, 0.5]
    assert summary(optimality([prompt] * 2, [best, "?"])) == {"optimality": 0.5, "shortest": 50.0}


def test_every_method_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    out = tmp_path / "walks"
    methods = f"methods=[{', '.join(METHODS)}]"
    given = StudyConfig(
        name="walks", size="smallest", jobs=1, seeds=1, settings=(methods, "length=0.02"), out=str(out)
    )
    assert study(given) == 0
    found = json.loads((out / "study.json").read_text())
    assert len(found["findings"]) == 3
    rows = {row["policy"]: row["optimality"] for row in found["tables"][0]}
    assert {*METHODS, "the data", "ilql, beta 0", "ilql, beta 100"} - {"ilql"} == set(rows)
    assert (out / "figure.svg").read_text().startswith("<svg")


def test_a_method_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="methods has 'pro', which is no method; there are sft, ppo"):
        cells(WalksSettings(methods=("pro",)))
