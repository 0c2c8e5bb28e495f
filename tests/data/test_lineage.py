"""The line from a label to the checkpoint it changed."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from prefloop.data.store import Filters, Judgement, Node, Source, Store, lineage, models
from prefloop.errors import InputError
from prefloop.records import Completion, Prompt


def drawn(prompt: str, index: int, policy: str) -> Completion:
    return Completion(
        prompt=Prompt(content=prompt),
        text=f"answer {index} of {policy}",
        policy=policy,
        logprob=-1.0,
        tokens=2,
        ended=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=index,
    )


def sha(letter: str) -> str:
    return letter * 64


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def loop(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> Iterator[Store]:
    """The store of a whole loop, for tests that only read."""
    with Store.open(new_url(request.param)) as store:
        run_loop(store)
        yield store


def run_loop(store: Store) -> int:
    """base -> sft -> completions -> labels of two annotators -> reward model -> ppo, which reads all of these; ppo's id."""
    run = store.begin_training_run(
        "pretrain", config={}, sources=[Source(name="texts.jsonl", sha256=sha("9"), rows=50)]
    )
    base = store.finish_training_run(run, "runs/base/final", weights_sha256=sha("a"))
    run = store.begin_training_run(
        "sft", config={}, start=base, sources=[Source(name="demos", sha256=sha("8"), rows=5)]
    )
    sft = store.finish_training_run(run, "runs/sft/final", weights_sha256=sha("b"), step=10)
    store.add_completions(
        [drawn(f"p{number}", index, "runs/sft/final") for number in range(4) for index in range(2)], sft
    )
    items = store.add_pairs(checkpoints=[sft]).ids
    ann, bob = (
        store.add_annotator("ann"),
        store.add_annotator("bob", kind="simulated", settings={"flip": 0.1}),
    )
    for annotator, choices, order in ((ann, "aab", (0, 1)), (bob, ["b", "b", "a", "tie"], (1, 0))):
        for item, choice in zip(items, choices, strict=False):
            store.add_judgement(Judgement(item=item, annotator=annotator, choice=choice, order_shown=order))  # type: ignore[arg-type]
    export = store.export("comparisons", Filters(part="all")).id
    run = store.begin_training_run("reward", config={}, start=sft, exports=[export])
    reward = store.finish_training_run(run, "runs/reward/final", weights_sha256=sha("c"), kind="reward_model")
    prompts = store.export("prompts").id
    run = store.begin_training_run(
        "ppo", config={}, start=sft, models_read={"reward_model": reward, "reference": sft, "critic": reward}, exports=[prompts]
    )  # fmt: skip
    ppo = store.finish_training_run(run, "runs/ppo/final", weights_sha256=sha("d"), step=20)
    return ppo


def find(node: Node, kind: str, name: str = "") -> Node:
    return next(at for at in node.walk() if at.kind == kind and at.name.startswith(name))


def shape(node: Node) -> Any:
    return (f"{node.role}|{node.kind}|{node.name}", [shape(child) for child in node.children])


def test_the_whole_chain(loop: Store) -> None:
    tree = lineage(loop, "runs/ppo/final")
    sft = (
        "start|checkpoint|runs/sft/final",
        [
            (
                "|training_run|2: sft",
                [
                    (
                        "start|checkpoint|runs/base/final",
                        [("|training_run|1: pretrain", [("train|source|texts.jsonl", [])])],
                    ),
                    ("train|source|demos", []),
                ],
            )
        ],
    )
    reward = (
        "critic|checkpoint|runs/reward/final",
        [
            (
                "|training_run|3: reward",
                [
                    ("start|checkpoint|runs/sft/final", []),
                    (
                        "|export|1: comparisons",
                        [
                            ("judged by|annotator|ann", []),
                            ("judged by|annotator|bob", []),
                            ("|completions|6", [("policy|checkpoint|runs/sft/final", [])]),
                        ],
                    ),
                ],
            )
        ],
    )
    assert shape(tree) == (
        "|checkpoint|runs/ppo/final",
        [
            (
                "|training_run|4: ppo",
                [
                    sft,
                    reward,
                    ("reference|checkpoint|runs/sft/final", []),
                    ("reward_model|checkpoint|runs/reward/final", []),
                    ("|export|2: prompts", []),
                ],
            )
        ],
    )


def test_what_is_known_of_each(loop: Store) -> None:
    tree = lineage(loop, 4)
    assert tree.facts == {"kind": "policy", "stage": "ppo", "step": 20, "weights_sha256": sha("d")}
    assert find(tree, "annotator", "ann").facts == {
        "kind": "human",
        "judgements": 3,
        "choices": {"a": 2, "b": 1},
        "settings": {},
        "chose_first_shown": 0.6667,  # shown as (a, b): the two `a`
    }
    assert find(tree, "annotator", "bob").facts == {
        "kind": "simulated",
        "judgements": 3,  # the tie is not in the export
        "choices": {"a": 1, "b": 2},
        "settings": {"flip": 0.1},
        "chose_first_shown": 0.6667,  # shown as (b, a): the two `b`
    }
    export = find(tree, "export", "1")
    assert export.facts["left_out"] == {"tie": 1}
    assert export.facts["rows"] == 6
    assert len(export.facts["sha256"]) == 64
    assert find(tree, "source", "demos").facts == {"rows": 5, "sha256": sha("8")}


def test_the_text_and_the_json_say_the_same(loop: Store) -> None:
    tree = lineage(loop, "runs/reward/final")
    rendered = tree.render()
    assert len(rendered.splitlines()) == sum(1 for _ in tree.walk())
    assert (
        rendered.splitlines()[0]
        == "checkpoint runs/reward/final (kind reward_model; stage reward; step 0; weights cccccccccccc)"
    )
    assert re.search(
        r"^   ├─ start: checkpoint runs/sft/final \(.*weights bbbbbbbbbbbb\)$", rendered, re.MULTILINE
    )
    assert re.search(r"^      └─ completions 6$", rendered, re.MULTILINE)
    assert (
        "judged by: annotator bob (kind simulated; judgements 3; choices a=1 b=2; settings flip=0.1;"
        in rendered
    )
    assert "see above" in rendered
    assert json.loads(json.dumps(tree.to_json())) == tree.to_json()
    assert tree.to_json()["children"][0]["children"][0]["name"] == "runs/sft/final"


def test_models_made_from_each_other_in_a_circle_end(sqlite_store: Store) -> None:
    store = sqlite_store
    first, second = store.add_checkpoint("first"), store.add_checkpoint("second")
    run = store.begin_training_run("sft", config={}, start=first, models_read={"reference": second})
    with store.database.write() as session:
        session.execute(update(models.CheckpointRow).values(training_run_id=run))
    tree = lineage(store, "first")
    assert [(at.role, at.name, "repeated" in at.facts) for at in tree.walk() if at.kind == "checkpoint"] == [
        ("", "first", False),
        ("start", "first", True),
        ("reference", "second", False),
        ("start", "first", True),
        ("reference", "second", True),
    ]
    parent = store.add_checkpoint("child", parent=first)
    with store.database.write() as session:
        session.execute(update(models.CheckpointRow).values(training_run_id=None, parent_id=parent))
    assert [at.name for at in lineage(store, "child").walk()] == ["child", "child"]


def test_a_copy_of_the_weights_has_their_lineage(sqlite_store: Store) -> None:
    store = sqlite_store
    run_loop(store)
    store.add_checkpoint("/elsewhere/my-best", weights_sha256=sha("c"), kind="reward_model")
    tree = lineage(store, "/elsewhere/my-best")
    assert tree.facts["same_weights_as"] == "runs/reward/final"
    assert find(tree, "annotator", "ann").facts["judgements"] == 3


def test_a_model_that_nobody_here_trained_is_a_leaf(sqlite_store: Store) -> None:
    store = sqlite_store
    store.add_checkpoint("org/base-model")
    assert lineage(store, "org/base-model").render() == "checkpoint org/base-model (kind policy)"


def test_ways_to_name_a_checkpoint(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = sqlite_store
    monkeypatch.chdir(tmp_path)
    ppo = run_loop(store)
    for given in (
        ppo,
        str(ppo),
        "runs/ppo/final",
        "./runs/ppo/final/",
        tmp_path / "runs/ppo/final",
        "dddddddd",
        sha("D"),
    ):
        named = given if isinstance(given, int) else str(given)
        assert store.find_checkpoint(named) == ppo, given
    newer = store.add_checkpoint("runs/ppo/final", weights_sha256=sha("e"))
    assert store.find_checkpoint("runs/ppo/final") == newer
    assert store.find_checkpoint("dddddddd") == ppo


def test_a_checkpoint_beside_the_store_is_found_from_anywhere(tmp_path: Path) -> None:
    with Store.open(tmp_path / "project" / "prefloop.db") as store:
        id = store.add_checkpoint("runs/sft")
        assert store.find_checkpoint(str(tmp_path / "project" / "runs" / "sft")) == id


def test_an_unknown_checkpoint_lists_near_names(loop: Store) -> None:
    with pytest.raises(
        InputError, match=r"checkpoint 'runs/pppo/final' is not in the store; the nearest are runs/ppo/final"
    ):
        lineage(loop, "runs/pppo/final")
    with pytest.raises(
        InputError, match=r"checkpoint '99' is not in the store; the nearest are runs/ppo/final, runs/reward"
    ):
        lineage(loop, 99)


def test_an_empty_store_says_so(sqlite_store: Store) -> None:
    store = sqlite_store
    with pytest.raises(InputError, match="which has none yet; train or sample first"):
        lineage(store, "x")
