"""Stages read the store by the same settings that exports have, and dataset versions by name; what they read is written down."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli import main
from prefloop.configs.common import Data, RunSettings, Selecting
from prefloop.configs.sft import SFTConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.datasets import save
from prefloop.loop import inputs
from prefloop.loop.reading import Reader
from prefloop.records import Comparison, Demonstration, Label, Ranking, Score
from prefloop.runtime.world import start_world
from prefloop.studio import exchange
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings, Scale
from prefloop.text import load_tokenizer
from tests.algorithms.small import CPU, train
from tests.algorithms.tiny import WORDS

ROWS = [{"prompt": word, "chosen": f"{word} b", "rejected": "c"} for word in WORDS[:5]]
KINDS: dict[str, tuple[str, Sequence[Answer]]] = {
    "pairs": (
        "pair",
        [Answer(choice="first"), Answer(choice="second", edited="better", edited_from="second")],
    ),
    "lists": ("rank", [Answer(choice="ranking", ranking=((1,), (0,)))]),
    "marks": ("binary", [Answer(choice="good"), Answer(choice="bad")]),
    "levels": (
        "rate",
        [Answer(choice="rated", ratings={"helpful": 4}), Answer(choice="rated", ratings={"helpful": 1})],
    ),
}
"""Project -> its kind, and what is answered in turn."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in which everything was asked of the same texts. `ann` and `bea` answered in turn."""
    folder = tmp_path_factory.mktemp("stores")
    where = folder / "prefloop.db"
    with Store.open(where) as opened:
        studio = Studio(opened)
        people = [opened.add_annotator(name) for name in ("ann", "bea")]
        for name, (kind, answers) in KINDS.items():
            settings = ProjectSettings(name=name, kind=kind, overlap=2, scales=(Scale(name="helpful"),))  # type: ignore[arg-type]
            project = studio.create_project(settings).id
            # What is marked and what is rated are single replies: of other prompts, for nobody judges an item twice.
            rows = folder / f"{name}.jsonl"
            rows.write_text(
                "".join(json.dumps({**row, "prompt": f"{row['prompt']} {kind}"}) + "\n" for row in ROWS)
            )
            exchange.import_file(studio, project, rows)
            for person in people:
                at = 0
                while (got := studio.lease(project, person)) is not None:
                    studio.submit(got.token, person, answers[at % len(answers)], key="12345678")
                    at += 1
    return str(where)


@pytest.fixture(scope="module")
def read(project: Path, store: str) -> Callable[..., inputs.Inputs[Any]]:
    """Reads records of a kind as a stage would."""
    tokenizer, world = load_tokenizer(str(project / "start")), start_world("cpu")

    def work(kind: str, source: str = "store", **changes: Any) -> inputs.Inputs[Any]:
        data = Data(source=source, heldout=0.0, **changes)
        if kind == "demonstrations":
            return inputs.demonstrations(data, tokenizer, store, world)
        if kind == "prompts":
            train, _, found = inputs.prompts(data, tokenizer, store)
            return inputs.Inputs(train=train, heldout=train, read=found)  # type: ignore[arg-type]
        reader = Reader(tokenizer=tokenizer, store=store, world=world)
        return inputs.examples(kind, data, reader)  # type: ignore[arg-type]

    return work


@pytest.mark.parametrize(
    ("kind", "record", "count", "of_ann"),
    [
        ("comparisons", Comparison, 14, 7),
        ("rankings", Ranking, 10, 5),
        ("labels", Label, 20, 10),
        ("scores", Score, 20, 10),
        ("demonstrations", Demonstration, 4, 2),
    ],
)
def test_every_kind_is_read_of_the_store_by_the_settings(
    read: Callable[..., inputs.Inputs[Any]], kind: str, record: type, count: int, of_ann: int
) -> None:
    everything = read(kind)
    assert len(everything.train) == len(everything.train.groups) == count
    assert {type(each) for each in everything.train.records} == {record}
    (export,) = everything.read.exports
    assert f"{count} {kind} (export {export}, sha256 " in everything.read.summary
    ann = read(kind, select=Selecting(annotators=("ann",)))
    assert len(ann.train) == of_ann
    assert len(read(kind, select=Selecting(annotators=("ann",)), limit=2).train) == 2
    with pytest.raises(InputError, match=f"no {kind} to export"):
        read(kind, select=Selecting(judged_by="ai"))


def test_labels_of_comparisons_come_from_the_store_too(project: Path, store: str) -> None:
    tokenizer, world = load_tokenizer(str(project / "start")), start_world("cpu")
    data = Data(source="store", heldout=0.0, select=Selecting(annotators=("ann",)))
    reader = Reader(tokenizer=tokenizer, store=store, world=world)
    found = inputs.examples("labels", data, reader, from_comparisons=True)
    assert [each.good for each in found.train.records] == [True, False] * 7


def test_aggregated_comparisons_are_read_with_their_certainty(
    read: Callable[..., inputs.Inputs[Any]],
) -> None:
    found = read("comparisons", select=Selecting(projects=("pairs",), aggregate="majority"))
    assert {each.p_soft for each in found.train.records} <= {1.0}
    votes = Counter(
        (each.prompt, each.chosen, each.rejected)
        for each in read("comparisons", select=Selecting(projects=("pairs",))).train.records
    )
    # Who saw what first is drawn, so the two may have chosen different replies.
    won = {(prompt, a, b) for (prompt, a, b), count in votes.items() if count > votes[prompt, b, a]}
    assert {(each.prompt, each.chosen, each.rejected) for each in found.train.records} == won


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (
            "rankings",
            {"select": Selecting(min_agreement=0.5)},
            "data.select.min_agreement is 0.5, but kind is rankings",
        ),
        (
            "prompts",
            {"select": Selecting(rounds=(0,))},
            "data.select.rounds is 0, but prompts are not judged",
        ),
        ("steps", {}, "data.source is `store`, but a store holds no such records"),
        ("comparisons", {"source": "store:nothing"}, "dataset 'nothing' is not in the store"),
    ],
)
def test_what_the_store_cannot_give_is_refused(
    read: Callable[..., inputs.Inputs[Any]], kind: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read(kind, **changes)


def test_a_file_is_not_selected_from(read: Callable[..., inputs.Inputs[Any]], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n")
    for name, value in {
        "projects": ("p",),
        "since": "2026-01-01",
        "aggregate": "majority",
        "gold_passed": 0.8,
    }.items():
        with pytest.raises(InputError, match=rf"data.select.{name} is .*, but .*rows.jsonl is not the store"):
            read("comparisons", source=str(file), select=Selecting(**{name: value}))  # type: ignore[arg-type]


def test_a_version_is_read_by_name(read: Callable[..., inputs.Inputs[Any]], store: str) -> None:
    with Store.open(store) as opened:
        one, _ = save(opened, "mine", "comparisons", Selecting(annotators=("ann",)))
        two, _ = save(opened, "mine", "comparisons", Selecting(annotators=("bea",)))
    first, newest = read("comparisons", source="store:mine@1"), read("comparisons", source="store:mine")
    assert (first.read.exports, newest.read.exports) == ((one.export.id,), (two.export.id,))
    assert (first.read.version, newest.read.version) == ("mine@1", "mine@2")
    assert {each.annotator for each in first.train.records} == {"ann"}
    assert "dataset mine@2, export" in newest.read.summary
    prompts = read("prompts", source="store:mine@1")
    assert len(prompts.train) == 5
    assert prompts.read.version == "mine@1"
    with pytest.raises(
        InputError, match=r"dataset mine@2 holds comparisons, and labels are needed here; .*--kind labels"
    ):
        read("labels", source="store:mine")
    with pytest.raises(
        InputError, match=r"data.select.rounds is set, but data.source is store:mine@1, which was"
    ):
        read("comparisons", source="store:mine@1", select=Selecting(rounds=(0,)))


def test_a_run_writes_down_which_version_it_read(
    project: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named in config.yaml though only the newest was asked for, and in lineage; a newer version later is not silently taken."""
    with Store.open(store) as opened:
        saved, _ = save(opened, "rewrites", "demonstrations", Selecting())
    config = SFTConfig(
        run=RunSettings(out=str(tmp_path / "sft"), store=store, save_every=1),
        data=Data(source="store:rewrites", heldout=0.0),
        model=str(project / "start"),
        batch_size=4,
        epochs=0.0,
        max_steps=1,
        compute=CPU,
    )
    train(config)
    assert "source: store:rewrites@1" in (tmp_path / "sft" / "config.yaml").read_text()
    assert main(["lineage", str(tmp_path / "sft" / "final"), "--store", store]) == 0
    assert (
        f"export {saved.export.id}: demonstrations (dataset rewrites@1; rows 4; " in capsys.readouterr().out
    )
    with Store.open(store) as opened:
        save(opened, "rewrites", "demonstrations", Selecting(annotators=("ann",)))
    with pytest.raises(InputError, match=r"store:rewrites@1"):
        train(replace(config, run=replace(config.run, resume=True)))
