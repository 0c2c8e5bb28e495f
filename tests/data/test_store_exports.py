"""Exports fix a data set for good; training runs say what they read and made."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from prefloop import __version__
from prefloop.data.hashing import content_hash
from prefloop.data.load import load_comparisons, load_prompts, load_rankings
from prefloop.data.store import Conflict, Filters, Judgement, Source, Store, models
from prefloop.errors import InputError
from prefloop.records import Completion, Message, Prompt


def sample(prompt: Prompt, said: str, index: int) -> Completion:
    return Completion(
        prompt=prompt,
        text=said,
        policy="sft",
        logprob=-1.0,
        tokens=2,
        ended=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=index,
    )


def judge_pairs(
    store: Store, prompts: list[Prompt], choices: str, completions: tuple[str, str] = ("one", "two")
) -> list[int]:
    """A pair for each prompt and what `ann` says of it; ids of the judgements."""
    policy, ann = store.add_checkpoint("sft"), store.add_annotator("ann")
    ids = store.add_completions(
        [sample(prompt, said, index) for prompt in prompts for index, said in enumerate(completions)], policy
    )
    items = store.add_items(list(zip(ids[::2], ids[1::2], strict=True)))
    return store.add_judgements(
        [
            Judgement(item=item, annotator=ann, choice=choice, order_shown=(0, 1), margin=0.5)  # type: ignore[arg-type]
            for item, choice in zip(items, choices, strict=True)
        ]
    )


TEXTS = [Prompt(content=f"p{number}\0\u2028") for number in range(4)]
CHATS = [
    Prompt(content=(Message(role="system", content="s"), Message(role="user", content=f"u{n}")))
    for n in range(2)
]


def test_an_export_is_its_records_hash(store: Store, tmp_path: Path) -> None:
    judge_pairs(store, TEXTS, ["a", "b", "tie", "b"])  # type: ignore[arg-type]
    export = store.export("comparisons", path=tmp_path / "out" / "c.jsonl")
    records = store.comparisons().records
    assert (export.rows, export.left_out, export.sha256) == (3, {"tie": 1}, content_hash(records))
    assert store.exported(export.id) == records
    loaded = load_comparisons(str(tmp_path / "out" / "c.jsonl"))
    assert loaded.records == records
    assert content_hash(loaded.records) == export.sha256


def test_the_same_export_twice_is_one(store: Store) -> None:
    judge_pairs(store, TEXTS, "abab")  # type: ignore[arg-type]
    first = store.export("comparisons")
    assert store.export("comparisons") == first
    other = store.export("comparisons", Filters(annotators=("ann",)))
    assert other.id != first.id
    assert other.sha256 == first.sha256
    assert store.counts()["export"] == 2


def test_an_export_stays_what_it_was(store: Store) -> None:
    first, *_ = judge_pairs(store, TEXTS, "abab")  # type: ignore[arg-type]
    export = store.export("comparisons")
    records = store.exported(export.id)
    ann = store.add_annotator("ann")
    store.add_judgement(Judgement(item=1, annotator=ann, choice="b", order_shown=(1, 0), supersedes=first))
    store.add_completions([sample(TEXTS[0], "three", 5)], store.add_checkpoint("sft"))
    later = store.export("comparisons")
    assert later.sha256 != export.sha256
    assert later.left_out == {"superseded": 1}
    assert store.exported(export.id) == records
    assert store.exported(later.id) == store.comparisons().records


def test_an_export_that_was_tampered_with_is_told(store: Store) -> None:
    judge_pairs(store, TEXTS, "abab")  # type: ignore[arg-type]
    export = store.export("comparisons")
    with store.database.write() as session:
        on = "" if store.database.dialect == "sqlite" else " ON completion"
        session.execute(text(f"DROP TRIGGER refuse_update_of_completion{on}"))
        session.execute(text("UPDATE completion SET text = 'rewritten' WHERE id = 1"))
    with pytest.raises(
        InputError, match=rf"export {export.id} hashes to .*, not {export.sha256[:12]} as when it was"
    ):
        store.exported(export.id)


def test_chats_rankings_and_prompts_are_files_that_read_back(sqlite_store: Store, tmp_path: Path) -> None:
    store = sqlite_store
    judge_pairs(store, CHATS, "ab")  # type: ignore[arg-type]
    policy, ann = store.add_checkpoint("sft"), store.add_annotator("ann")
    triple = store.add_completions(
        [sample(CHATS[0], said, index) for index, said in enumerate("xyz")], policy
    )
    (item,) = store.add_items([triple], kind="rank")
    store.add_judgement(
        Judgement(
            item=item, annotator=ann, choice="ranking", order_shown=(0, 1, 2), ranking=((2,), (0,), (1,))
        )
    )
    exports = {
        kind: store.export(kind, path=tmp_path / f"{kind}.jsonl")
        for kind in ("comparisons", "rankings", "prompts")
    }
    assert load_comparisons(str(tmp_path / "comparisons.jsonl")).records == store.comparisons().records
    assert load_rankings(str(tmp_path / "rankings.jsonl")).records == store.rankings().records
    assert load_prompts(str(tmp_path / "prompts.jsonl")).records == tuple(CHATS)
    for kind, export in exports.items():
        assert export.kind == kind
        assert content_hash(store.exported(export.id)) == export.sha256
    line = json.loads((tmp_path / "comparisons.jsonl").read_text().splitlines()[0])
    assert line["chosen"] == [{"role": "assistant", "content": "one"}]


def test_prompts_are_exported_by_part(sqlite_store: Store) -> None:
    store = sqlite_store
    store.add_prompts([Prompt(content=f"prompt {number}") for number in range(50)])
    train = store.export("prompts", Filters(part="train", heldout=0.3))
    held = store.export("prompts", Filters(part="heldout", heldout=0.3))
    assert train.rows + held.rows == 50
    assert not set(store.exported(train.id)) & set(store.exported(held.id))
    with pytest.raises(InputError, match=r"cannot be filtered by rounds 1; only part applies"):
        store.export("prompts", Filters(rounds=(1,)))


def test_nothing_to_export_is_an_error_that_says_why(sqlite_store: Store, tmp_path: Path) -> None:
    store = sqlite_store
    judge_pairs(store, TEXTS, ["tie", "skip", "tie", "both_bad"])  # type: ignore[arg-type]
    with pytest.raises(
        InputError,
        match=r"no comparisons to export \(left out: tie 2, skip 1, both_bad 1\); label first$",
    ):
        store.export("comparisons", path=tmp_path / "c.jsonl")
    assert list(tmp_path.glob("*.jsonl")) == []
    with pytest.raises(
        InputError,
        match=r"no rankings .*; it has judgements of comparisons, which `prefer` trains on; label first$",
    ):
        store.export("rankings")
    with pytest.raises(
        InputError,
        match="'preferences'; it must be one of comparisons, rankings, labels, scores, demonstrations, prompts",
    ):
        store.export("preferences")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no export 7"):
        store.exported(7)


def test_a_file_that_cannot_be_written_leaves_no_export(sqlite_store: Store, tmp_path: Path) -> None:
    store = sqlite_store
    judge_pairs(store, TEXTS, "abab")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        store.export("comparisons", path=tmp_path / "file" / "c.jsonl")
    assert store.counts()["export"] == store.counts()["export_judgement"] == 0


def test_empty_completions_can_be_left_out_and_counted(sqlite_store: Store, tmp_path: Path) -> None:
    store = sqlite_store
    judge_pairs(store, TEXTS[:2], "ab")  # type: ignore[arg-type]
    judge_pairs(store, TEXTS[2:], "ab", completions=("said", " "))  # type: ignore[arg-type]
    assert store.export("comparisons").rows == 4
    with pytest.raises(InputError, match="2 of 4 records cannot be written"):
        store.export("comparisons", path=tmp_path / "c.jsonl")
    export = store.export("comparisons", path=tmp_path / "c.jsonl", skip_bad=True)
    assert (export.rows, export.left_out) == (2, {"empty": 2})
    assert load_comparisons(str(tmp_path / "c.jsonl")).records == store.exported(export.id)


# Training runs


def row(store: Store, run: int) -> models.TrainingRunRow:
    with store.database.read() as session:
        found = session.get_one(models.TrainingRunRow, run)
        session.expunge(found)
        return found


def test_a_run_from_its_beginning_to_its_end(store: Store) -> None:
    judge_pairs(store, TEXTS, "abab")  # type: ignore[arg-type]
    export = store.export("comparisons")
    sft = store.add_checkpoint("sft")
    run = store.begin_training_run(
        "dpo",
        config={"beta": 0.1, "optim": {"lr": 5e-7}, "targets": ("q", "v")},
        start=sft,
        models_read={"reference": sft},
        exports=[export.id, export.id],
        sources=[Source(name="extra.jsonl", sha256="e" * 64, rows=7)],
        folder="runs/dpo",
    )
    begun = row(store, run)
    assert (begun.status, begun.finished_at, begun.version) == ("running", None, __version__)
    assert begun.config == {"beta": 0.1, "optim": {"lr": 5e-7}, "targets": ["q", "v"]}
    halfway = store.add_run_checkpoint(run, "runs/dpo/50", weights_sha256="1" * 64, step=50)
    last = store.finish_training_run(
        run, "runs/dpo/final", weights_sha256="2" * 64, step=100, metrics={"loss": 0.5, "bad": math.nan}
    )
    ended = row(store, run)
    assert (ended.status, ended.metrics) == ("finished", {"loss": 0.5, "bad": "nan"})
    assert ended.finished_at is not None
    assert ended.started_at <= ended.finished_at
    with store.database.read() as session:
        for id, step in ((halfway, 50), (last, 100)):
            made = session.get_one(models.CheckpointRow, id)
            assert (made.training_run_id, made.parent_id, made.stage, made.step) == (run, sft, "dpo", step)
    assert store.counts()["training_run_export"] == 1
    with pytest.raises(Conflict, match="has finished already"):
        store.finish_training_run(run, "runs/dpo/final", weights_sha256="2" * 64)
    with pytest.raises(Conflict, match="has finished; it cannot be marked failed"):
        store.stop_training_run(run, "failed", "late")


def test_a_resumed_run_is_the_same_run(sqlite_store: Store) -> None:
    store = sqlite_store
    settings: dict[str, Any] = {"config": {}, "folder": "runs/sft"}
    run = store.begin_training_run("sft", **settings)
    store.stop_training_run(run, "interrupted", "Ctrl-C")
    assert (row(store, run).status, row(store, run).reason) == ("interrupted", "Ctrl-C")
    assert store.begin_training_run("sft", resume=True, **settings) == run
    assert (row(store, run).status, row(store, run).reason) == ("running", "")
    assert store.begin_training_run("sft", **settings) != run  # not resumed: another run
    assert store.begin_training_run("reward", resume=True, **settings) not in (run, run + 1)
    store.finish_training_run(run, "runs/sft/final", weights_sha256="")
    assert store.begin_training_run("sft", config={}, folder="new", resume=True) > run + 2


def test_runs_read_and_write_only_what_is_there(sqlite_store: Store) -> None:
    store = sqlite_store
    with pytest.raises(InputError, match="checkpoint 5 is not in the store"):
        store.begin_training_run("dpo", config={}, start=5)
    with pytest.raises(InputError, match="export 5 is not in the store"):
        store.begin_training_run("dpo", config={}, exports=[5])
    with pytest.raises(InputError, match="training run 5 is not in the store"):
        store.finish_training_run(5, "x", weights_sha256="")
    assert store.counts()["training_run"] == 0
