"""Pairs in a store, compared by a scorer."""

from pathlib import Path

import pytest

from prefloop.algorithms.annotate import score_pairs, verdict
from prefloop.algorithms.filter import filter_comparisons, unambiguous
from prefloop.configs.annotate import ScorePairsConfig
from prefloop.configs.common import Data
from prefloop.configs.filter import FilterConfig
from prefloop.data import load_comparisons, write_jsonl
from prefloop.data.store import Filters, Store
from prefloop.errors import InputError
from prefloop.records import Comparison, Completion, Prompt
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world
from tests.algorithms.tiny import CPU


def store_with(file: Path) -> str:
    with Store.open(str(file)) as store:
        checkpoint = store.add_checkpoint("policy", weights_sha256="0" * 64)
        for prompt in ("sun", "tea"):
            completions = [
                Completion(
                    prompt=Prompt(content=prompt), text=text, policy="policy", logprob=0.0, tokens=2, ended=True,
                    temperature=1.0, top_p=1.0, top_k=0, seed=0, index=i,
                )
                for i, text in enumerate(("b!", "s", "oak"))
            ]  # fmt: skip
            store.add_completions(completions, checkpoint)
    return str(file)


def test_verdicts_by_hand() -> None:
    assert (verdict(1.0, 3.0, tie_width=0.5).choice, verdict(1.0, 3.0, tie_width=0.5).margin) == ("b", 2.0)
    assert verdict(3.0, 1.0, tie_width=2.0).choice == "a"
    assert verdict(3.0, 1.0, tie_width=2.1).choice == "tie"
    assert verdict(1.0, 1.0, tie_width=0.0).choice == "tie"


def test_a_density_ratio_annotates(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every pair is ordered by log π_strong - log π_weak, with the difference as margin; done again it adds nothing."""
    name = store_with(tmp_path / "a.db")
    ratio = f"{project / 'stopping/final'}@{project / 'start'}"
    config = ScorePairsConfig(store=name, reward_model=ratio, annotator="ratio", compute=CPU)
    score_pairs(config)
    with Store.open(name) as store:
        found = store.comparisons(Filters(annotators=("ratio",))).records
    assert len(found) == 6
    scorer = EnsembleScorer.load(ratio, CPU, start_world("cpu"))
    for pair in found:
        better, worse = scorer([pair.prompt] * 2, [pair.chosen, pair.rejected])
        assert pair.margin == pytest.approx(better - worse, abs=1e-4)
        assert pair.margin > 0
    assert "new judgements by ratio: 6" in capsys.readouterr().out
    score_pairs(config)
    assert "new judgements by ratio: 0" in capsys.readouterr().out


def test_ambiguous_pairs_are_ties_and_counted(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = store_with(tmp_path / "a.db")
    score_pairs(
        ScorePairsConfig(
            store=name, reward_model="tests.algorithms.small:short_is_good", tie_width=1.5, compute=CPU
        )
    )
    # of b! (-0.2), s (-0.1) and oak (1.7) only oak is far from another
    assert "a 0" not in (said := capsys.readouterr().out)
    assert "tie 2" in said
    with pytest.raises(InputError, match="label judge"):
        score_pairs(ScorePairsConfig(store=name, reward_model="judge:x.yaml", compute=CPU))


def comparison(p_soft: float, margin: float) -> Comparison:
    return Comparison(
        prompt=Prompt(content=f"{p_soft} {margin}"), chosen="a", rejected="b", p_soft=p_soft, margin=margin
    )


def test_labels_near_a_half_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [comparison(*each) for each in ((1.0, 0.0), (0.55, 0.0), (0.8, 0.1), (0.7, 2.0), (0.3, -2.0))]
    assert unambiguous(records, least_certainty=0.1, least_margin=0.0) == tuple(
        records[i] for i in (0, 2, 3, 4)
    )
    assert unambiguous(records, least_certainty=0.0, least_margin=1.0) == tuple(
        records[i] for i in (0, 1, 3, 4)
    )
    source, out = tmp_path / "soft.jsonl", tmp_path / "kept.jsonl"
    write_jsonl(records, source)
    data = Data(source=str(source))
    filter_comparisons(FilterConfig(data=data, out=str(out), least_certainty=0.1, least_said_margin=1.0))
    assert load_comparisons(out).records == tuple(records[i] for i in (0, 3, 4))
    assert "3 of 5 comparisons; ambiguous by their own label 2 (left out)" in capsys.readouterr().out
    with pytest.raises(InputError, match="no rule says what to leave out"):
        FilterConfig(data=data, out=str(out))
    with pytest.raises(InputError, match="but none is named"):
        FilterConfig(data=data, out=str(out), least_certainty=0.1, least_margin=0.5)
    write_jsonl(records[1:], source)
    with pytest.raises(InputError, match="nothing is left: 0 of 4"):
        filter_comparisons(FilterConfig(data=data, out=str(out), least_certainty=0.5))
