"""`prefloop run rounds` at its smallest: every round's stages, the table, the arena, the lineage, going on, and each way of comparing."""

import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prefloop.configs.common import Compute
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.pretrain import Architecture
from prefloop.configs.recipes import RoundsConfig
from prefloop.data.split import part_of
from prefloop.data.store import Filters, Store
from prefloop.data.store.lineage import lineage
from prefloop.data.toy_world import ToyWorld
from prefloop.errors import InputError
from prefloop.evaluation import read_summary
from prefloop.evaluation.intervals import exactly
from prefloop.feedback.judges import verdicts
from prefloop.models.load import new_language_model, save_policy
from prefloop.recipes import rounds, rounds_feedback, rounds_results, toy
from prefloop.recipes.people import wait_for_people
from prefloop.recipes.rounds_results import RoundRow, _gain, _rounds, rounds_table
from prefloop.recipes.run import run_recipe
from prefloop.records import Completion, Prompt
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer
from tests.feedback.judges.server import Server, answer, server, shown
from tests.recipes.minimal import shrink
from tests.tiny_project import make_prompts, tokenizer

__all__ = ["server"]
CPU = Compute(device="cpu")


def small(out: Path, **changes: Any) -> RoundsConfig:
    basic = RoundsConfig(
        out=str(out),
        texts=120,
        demonstrations=60,
        prompts=40,
        pairs=24,
        eval_prompts=6,
        rounds=2,
        completion_tokens=12,
        compute=CPU,
    )
    return replace(basic, **changes)


def shrunk(patch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    real = toy.stages
    patch.setattr(toy, "stages", lambda config, project, files: shrink(real(config, project, files)))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shrunk(monkeypatch)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of DPO, made once."""
    with pytest.MonkeyPatch.context() as patch:
        shrunk(patch)
        out = tmp_path_factory.mktemp("rounds") / "rounds"
        assert run_recipe(small(out)) == out / "report.html"
    return out


def test_every_round_is_in_the_table(project: Path) -> None:
    table = json.loads((project / "rounds.json").read_text())
    assert [row["number"] for row in table["rounds"]] == [0, 1, 2]
    first, *later = table["rounds"]
    assert first["wins_first"] is None
    assert first["kl"]["value"] == 0
    for row in later:
        assert 0 < row["labels"] <= 24
        for name in ("kl", "gold", "wins_first", "wins_previous", "proxy_gain", "gold_gain", "gap", "length"):
            found = row[name]  # where all prompts show one value, there is no interval
            assert found.get("no_spread") or found["low"] <= found["value"] <= found["high"], name
        assert row["gap"]["value"] == pytest.approx(
            row["proxy_gain"]["value"] - row["gold_gain"]["value"], abs=1e-6
        )
    assert later[0]["wins_first"] == later[0]["wins_previous"]
    (board,) = table["arena"]
    (at_start,) = (row for row in board["ratings"] if row["name"] == "sft/final")
    assert at_start["rating"]["value"] == pytest.approx(1000)
    assert {row["name"] for row in board["ratings"]} == {
        "sft/final",
        "round-1/policy/final",
        "round-2/policy/final",
    }
    summary = read_summary(project / "summary.json")
    assert [policy.name for policy in summary.policies] == ["round 0", "round 1", "round 2"]
    assert any(note.startswith("Round 2:") for note in summary.notes)
    assert "run rounds" in summary.commands[0]


def test_each_round_compares_its_own_samples_and_starts_from_the_round_before(project: Path) -> None:
    with Store.open(project / "prefloop.db", create=False) as store:
        tree = str(lineage(store, str(project / "round-2/policy/final")))
        names = ("sft/final", "round-1/policy/final")
        for number, policy in enumerate(names, 1):
            judged = store.comparisons(Filters(rounds=(number,), annotators=("simulated",))).records
            drawn = {(one.prompt, one.text) for one in store.completions([store.find_checkpoint(policy)])}
            assert judged
            for each in judged:
                assert (each.prompt, each.chosen) in drawn
                assert (each.prompt, each.rejected) in drawn
    for name in ("round-1/policy/final", "sft/final", "simulated", "demonstrations.jsonl"):
        assert name in tree
    # the second reward model reads both rounds
    counts = [
        (project / f"round-{number}/reward/log.txt").read_text().split(" comparisons")[0].split()[-1]
        for number in (1, 2)
    ]
    table = json.loads((project / "rounds.json").read_text())["rounds"]
    assert int(counts[0]) == table[1]["labels"]
    assert int(counts[1]) == table[1]["labels"] + table[2]["labels"]


def test_a_finished_project_is_not_made_again(project: Path, tiny: None) -> None:
    def times() -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in project.rglob("model.safetensors")}

    before, table = times(), json.loads((project / "rounds.json").read_text())
    with Store.open(project / "prefloop.db", create=False) as store:
        counts = store.counts()
    run_recipe(small(project, resume=True))
    assert times() == before
    after = json.loads((project / "rounds.json").read_text())
    assert after["rounds"] == table["rounds"]
    with Store.open(project / "prefloop.db", create=False) as store:
        now = store.counts()
    for name in ("completion", "item", "judgement"):
        assert now[name] == counts[name]
    with pytest.raises(InputError, match=r"rounds: 2 -> 3"):
        run_recipe(small(project, resume=True, rounds=3))


def test_rounds_of_ppo(tmp_path: Path, tiny: None) -> None:
    run_recipe(small(tmp_path / "r", policy="ppo", rounds=1, lr=1e-3))
    config = small(tmp_path / "r", policy="ppo", lr=1e-3)
    plan = rounds.plan(config, tmp_path / "r")
    one, two = rounds.turns(config, plan)
    assert isinstance(two.policy, PPOConfig)
    assert two.policy.model == one.made
    assert two.policy.reward_model == str(tmp_path / "r/round-2/reward/final")
    assert two.policy.optim.lr == 1e-3
    assert two.sample.seed != one.sample.seed
    assert (tmp_path / "r/report.html").is_file()


def test_an_ai_judge_compares(tmp_path: Path, tiny: None, server: Server) -> None:
    def longer(request: dict[str, Any]) -> dict[str, Any]:
        first, second = shown(request)
        p = 0.9 if len(first) > len(second) else 0.1
        return answer("1", {"1": p, "2": 1 - p})

    server.judge = longer
    file = tmp_path / "judge.yaml"
    file.write_text(f"base_url: {server.url}\nmodel: m\n")
    run_recipe(small(tmp_path / "r", rounds=1, judge=str(file)))
    with Store.open(tmp_path / "r/prefloop.db", create=False) as store:
        judged = store.comparisons().records
    assert judged
    assert {each.annotator for each in judged} == {"judge:m"}
    longer_chosen = [len(each.chosen) >= len(each.rejected) for each in judged]
    assert sum(longer_chosen) / len(longer_chosen) > 0.9  # equal lengths go by the place


def given_model(folder: Path) -> Path:
    """A fresh model with room for a judge's questions."""
    size = Architecture(hidden_size=16, layers=1, heads=2, ffn_size=24, vocab_size=300, max_positions=1024)
    ours = tokenizer()
    save_policy(new_language_model(size, ours, CPU, seed=0), ours, folder)
    return folder


def test_a_policy_judges_itself(tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-rewarding from a given model: of each prompt the sample that it scores best over the one that it scores worst."""
    model, prompts = given_model(tmp_path / "m"), make_prompts(tmp_path / "p.jsonl", 30)
    config = small(
        tmp_path / "r",
        rounds=2,
        model=str(model),
        data=str(prompts),
        judge="self",
        utility="tests.recipes.test_rounds:letters",
        completions_per_prompt=3,
    )
    with pytest.raises(InputError, match=r"gives no readable score .* so it cannot judge itself"):
        run_recipe(config)
    monkeypatch.setattr(verdicts, "LEAST_MASS", 0.0)  # a fresh model puts little on numbers
    seen: list[Any] = []
    real = rounds_feedback.DirectScorer.try_each

    def watched(self: Any, asked: Any, texts: Any) -> Any:
        found, failures = real(self, asked, texts)
        seen.extend((text, score) for text, score in zip(texts, found, strict=True))
        return found, failures

    monkeypatch.setattr(rounds_feedback.DirectScorer, "try_each", watched)
    run_recipe(replace(config, resume=True))
    scores = dict(seen)
    with Store.open(tmp_path / "r/prefloop.db", create=False) as store:
        first = store.comparisons(Filters(annotators=("self:round 1",))).records
        second = store.comparisons(Filters(annotators=("self:round 2",))).records
        assert first
        assert second
        tree = str(lineage(store, str(tmp_path / "r/round-2/policy/final")))
    assert all(scores[each.chosen] >= scores[each.rejected] for each in first)
    assert "self:round 1" in tree
    (_, one, two) = json.loads((tmp_path / "r/rounds.json").read_text())["rounds"]
    assert one["gold"]
    assert two["rating"]  # by the simulated annotator, who knows the utility


def test_the_arena_compares_all_policies_on_first_samples_of_heldout_prompts(tmp_path: Path) -> None:
    """Every two of three, each prompt's first sample; nothing of training prompts, nothing twice."""
    policies = ("a", "b", "c")
    prompts = [Prompt(content=f"question {at}") for at in range(20)]
    seen: list[tuple[Prompt, tuple[str, ...]]] = []
    who = rounds_feedback.PairAnnotator(
        register=lambda store: store.add_annotator("x", kind="simulated", settings={}),
        label=lambda store, id, items: seen.extend((each.prompt, each.completions) for each in items),
    )
    with Store.open(tmp_path / "s.db") as store:
        for name in policies:
            checkpoint = store.add_checkpoint(name, weights_sha256=name * 64)
            made = [
                Completion(
                    prompt=prompt, text=f"{name}{index}", policy=name, logprob=-1.0, tokens=3, ended=True,
                    temperature=1.0, top_p=1.0, top_k=0, seed=0, index=index,
                )
                for prompt in prompts
                for index in range(2)
            ]  # fmt: skip
            store.add_completions(made, checkpoint)
        for _ in range(2):
            seen.clear()
            rounds_feedback.judge_arena(store, who, policies, round=3, heldout=0.5, prompts=4)
        items = store.items([item.id for item in store.open_items(who.register(store), rounds=(3,))])
    assert len(items) == len(seen) == 4 * 3
    assert len({prompt for prompt, _ in seen}) == 4
    assert all(part_of(prompt, heldout=0.5) == "heldout" for prompt, _ in seen)
    assert {frozenset(texts) for _, texts in seen} == {
        frozenset(pair) for pair in (("a0", "b0"), ("a0", "c0"), ("b0", "c0"))
    }


def letters(prompt: Any, completion: str) -> float:
    return float(len(set(completion)))


def test_people_compare_each_round(tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "r"

    def answers(_: float) -> None:
        with Store.open(out / "prefloop.db") as store:
            studio, person = Studio(store), store.add_annotator("person-1")
            for listed in studio.projects():
                while (got := studio.lease(listed.id, person)) is not None:
                    studio.submit(got.token, person, Answer(choice="first"), key="12345678")

    monkeypatch.setattr(rounds_feedback, "wait_for_people", partial(wait_for_people, sleep=answers))
    run_recipe(small(out, annotator="studio", labels=8))
    with Store.open(out / "prefloop.db", create=False) as store:
        for number in (1, 2):
            assert len(store.comparisons(Filters(kinds=("human",), rounds=(number,))).records) >= 8


def test_gains_by_hand() -> None:
    scores = {0: np.array([0.0, 2.0]), 1: np.array([1.0, 3.0]), 2: np.array([1.0, 5.0])}
    assert _gain(scores, 2).tolist() == [0.0, 2.0]  # the deviation of round 0 is 1, by both prompts alike
    scores = {0: np.array([0.0, 0.0, 0.0, 4.0]), 1: np.zeros(4), 2: np.full(4, 3.0)}
    gains = _gain(
        scores, 2
    )  # mean 1 and deviation √3 of round 0, so a gain of √3; the last prompt makes that deviation
    assert gains.mean() == pytest.approx(3**0.5)
    assert gains == pytest.approx(3**0.5 * np.array([4 / 3, 4 / 3, 4 / 3, 0]))
    assert _gain({0: np.ones(2), 1: np.zeros(2)}, 1).tolist() == [-1.0, -1.0]


def test_gains_are_covered(monkeypatch: pytest.MonkeyPatch) -> None:  # E3
    """As the recipe makes them, of 30 prompts: by the reward model and in truth the policy gains two deviations, and nothing is exploited."""
    prompts, times, gain = 30, 200, 2.0
    without_labels = SimpleNamespace(comparisons=lambda filters: SimpleNamespace(records=()))
    monkeypatch.setattr(rounds_results.Store, "open", lambda path: nullcontext(without_labels))
    plan: Any = SimpleNamespace(sample=SimpleNamespace(store=""))
    random = np.random.default_rng(0)
    feedback: Any = SimpleNamespace(filters=Filters())
    summary = SimpleNamespace(name="p", kl=exactly(0.0, prompts), length=exactly(1.0, prompts), gold=None)
    inside = Counter[str]()
    for _ in range(times):
        hard = random.normal(size=prompts)
        of_proxy, of_gold = (
            [hard + 0.5 * random.normal(size=prompts) + gain * n * 1.25**0.5 for n in range(2)]
            for _ in range(2)
        )
        evaluated = [
            SimpleNamespace(completions=[[SimpleNamespace(gold=each)] for each in values])
            for values in of_gold
        ]
        measured: Any = SimpleNamespace(policies=[summary] * 2, evaluated=evaluated)
        _, row = _rounds(
            plan, {"a": "", "b": ""}, measured, [dict(enumerate(of_proxy))], [None], (), feedback
        )
        truths = {"proxy_gain": gain, "gold_gain": gain, "gap": 0.0}
        for name, truth in truths.items():
            found = getattr(row, name)
            inside[name] += found.low <= truth <= found.high
    shares = {name: inside[name] / times for name in ("proxy_gain", "gold_gain", "gap")}
    assert min(shares.values()) > 0.89, shares


def test_the_table_leaves_out_what_was_not_measured() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("accuracy", "gold", "wins_first", "wins_previous", "proxy_gain", "gold_gain", "gap", "rating")
    )
    rows = [
        RoundRow(number=n, labels=5 * n, kl=exactly(0.5 * n, 4), length=exactly(3.0, 4), **nothing)
        for n in range(2)
    ]
    assert rounds_table(rows).splitlines()[0].split() == ["round", "labels", "KL", "(nats)", "tokens"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"model": "m"}, "give both"),
        ({"judge": "self"}, "toy world's model cannot judge"),
        ({"utility": "a:b"}, "the toy world has its own"),
        ({"model": "m", "data": "d"}, "nobody compares"),
        ({"judge": "x", "annotator": "studio"}, "give one of them"),
        ({"completions_per_prompt": 1}, "a comparison needs 2"),
        ({"lr": -1.0}, "lr is -1.0"),
    ],
)
def test_settings_that_are_wrong(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        small(tmp_path, **changes)


def test_the_world_is_the_toy_recipes(tmp_path: Path, tiny: None) -> None:
    config = small(tmp_path)
    plan = rounds.plan(config, tmp_path)
    assert plan.recipe == "rounds"
    questions = [
        json.loads(line)["prompt"] for line in (tmp_path / "data/prompts.jsonl").read_text().splitlines()
    ]
    assert questions == [prompt.to_json() for prompt in ToyWorld(0).prompts(40)]
