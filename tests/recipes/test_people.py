"""A recipe that waits for people: whom it asks, what is enough, and that training reads what they said and nothing else."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from prefloop.configs.common import Compute
from prefloop.configs.recipes import ToyConfig
from prefloop.data.split import part_of
from prefloop.data.store import Filters, Store
from prefloop.feedback.simulate import SimulatedAnnotator, label_items
from prefloop.recipes import people, run, toy
from prefloop.recipes.people import AskedPeople, prepare, wait_for_people
from prefloop.studio import demo
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer
from tests.recipes.minimal import shrink

HELDOUT = 0.2


def asked(labels: int) -> AskedPeople:
    return AskedPeople(project="toy", pairs=60, labels=labels, heldout=HELDOUT, seed=0)


def answer(where: str, count: int) -> int:
    """Somebody compares so many."""
    with Store.open(where) as store:
        studio = Studio(store)
        ann = store.add_annotator("person-1")
        for done in range(count):
            got = studio.lease(studio.projects()[0].id, ann)
            if got is None:
                return done
            studio.submit(got.token, ann, Answer(choice="first"), key="12345678")
    return count


@pytest.fixture
def where(tmp_path: Path) -> str:
    place = str(tmp_path / "prefloop.db")
    with Store.open(place) as store:
        demo.fill(store, 80)
    return place


def test_the_first_questions_have_their_share_of_held_out_prompts(where: str) -> None:
    with Store.open(where) as store:
        studio = Studio(store)
        project = prepare(studio, asked(20))
        assert prepare(studio, asked(20)) == project
        assert studio.progress([project])[project].items == 60
    answer(where, 20)
    with Store.open(where) as store:
        held = [part_of(each.prompt, heldout=HELDOUT) for each in store.comparisons().records]
    assert held.count("heldout") == 4


def test_it_waits_until_enough_is_compared_and_says_what_to_type(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    naps = []

    def sleep(_: float) -> None:
        naps.append(answer(where, 4))

    count = wait_for_people(where, asked(10), sleep=sleep)
    assert (count, naps) == (12, [4, 4, 4])
    said = capsys.readouterr().out
    assert f"prefloop label serve --store {where}" in said
    assert "0 of 10" in said
    assert "12 comparisons by people" in said
    # Done again, it goes on at once.
    assert wait_for_people(where, asked(10), sleep=sleep) == 12
    assert len(naps) == 3


def test_simulated_labels_do_not_count(where: str) -> None:
    with Store.open(where) as store:
        store.add_pairs(strategy="random")
        label_items(store, SimulatedAnnotator(name="sim", utility=lambda _, text: len(text)), store.items())
        assert people.enough(store, labels=4, heldout=HELDOUT) == (False, 0, 0)


def test_the_recipe_trains_on_what_people_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    real = toy.plan
    monkeypatch.setattr(toy, "plan", lambda config, project: shrink(real(config, project)))
    out = tmp_path / "toy"
    store = str(out / "prefloop.db")
    waiting = partial(wait_for_people, sleep=lambda _: answer(store, 4))
    monkeypatch.setattr(run, "wait_for_people", waiting)
    settings = ToyConfig(
        out=str(out),
        texts=120,
        demonstrations=60,
        prompts=40,
        pairs=24,
        eval_prompts=6,
        annotator="studio",
        labels=12,
        compute=Compute(device="cpu"),
    )
    assert run.run_recipe(settings).is_file()
    with Store.open(store, create=False) as opened:
        by_people = opened.comparisons(Filters(kinds=("human",))).records
        assert len(by_people) == 12
        assert len(opened.comparisons().records) == 12
    assert "12 comparisons" in (out / "reward" / "log.txt").read_text()
    assert "studio" in (out / "summary.json").read_text()
    # Finished, it is not asked and not trained again.
    run.run_recipe(replace(settings, resume=True))
