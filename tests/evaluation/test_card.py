"""What a model's card tells, and what it does not."""

from prefloop.data.store import Node
from prefloop.evaluation.card import Card, is_hub_name, public, write_card


def _run(number: int, stage: str, *children: Node) -> Node:
    facts = {"started": "2026-03-01T10:00:00", "version": "0.1.0", "status": "finished"}
    return Node(kind="training_run", role="", name=f"{number}: {stage}", facts=facts, children=children)


def _judge(name: str, kind: str, judgements: int, **settings: str) -> Node:
    facts = {"kind": kind, "judgements": judgements, "settings": settings}
    return Node(kind="annotator", role="judged by", name=name, facts=facts)


def _card() -> str:
    base = Node(kind="checkpoint", role="start", name="team/base@v2")
    demos = Node(kind="source", role="train", name="team/demos", facts={"rows": 900, "sha256": "d" * 64})
    sft = Node(kind="checkpoint", role="start", name="sft/final", children=(_run(1, "sft", base, demos),))
    judges = (
        _judge("ann@example.org", "human", 40),
        _judge("bob@example.org", "human", 2),
        _judge("strict", "ai", 300, model="judge-7b", base_url="http://10.0.0.7/v1"),
    )
    export = Node(
        kind="export",
        role="",
        name="3: comparisons",
        facts={"rows": 342, "sha256": "e" * 64},
        children=judges,
    )
    scorer = Node(kind="checkpoint", role="reward_model", name="/home/ann/secret/rm/final")
    tree = Node(kind="checkpoint", role="", name="dpo/final", children=(_run(2, "dpo", sft, scorer, export),))
    settings = {"beta": 0.3, "data": {"source": "/home/ann/secret/my file.jsonl"}}
    return write_card(
        Card(
            name="team/helpful", kind="policy", encoder=False, base="", version="0.1.0", tree=tree, settings=settings,
            measured=None, files={},
        )
    )  # fmt: skip


def test_a_card_tells_base_data_and_judges() -> None:
    card = _card()
    assert card.startswith(
        "---\nbase_model: team/base\nbase_model_relation: finetune\ndatasets:\n- team/demos\n"
    )
    assert "trained from `team/base@v2` by sft → dpo, with prefloop 0.1.0." in card
    assert (
        "1. **sft** (2026-03-01, prefloop 0.1.0); from `team/base@v2`; data: `team/demos` (900 rows" in card
    )
    assert (
        "2. **dpo** (2026-03-01, prefloop 0.1.0); from `sft/final`, reward model `final`; data: 342 comparisons"
        in card
    )
    assert "- 2 people: 42 judgements\n- an AI judge, `strict`, model `judge-7b`: 300 judgements" in card
    assert "beta: 0.3" in card
    assert "Not measured: no prefloop evaluation includes this model." in card


def test_a_card_names_no_person_and_no_folder_of_this_machine() -> None:
    card = _card()
    for secret in ("example.org", "/home", "secret", "10.0.0.7"):
        assert secret not in card


def test_names_without_their_folders() -> None:
    assert public("/home/ann/runs/dpo/final") == "final"
    assert (
        public("12 rows in ~/a/b.jsonl, /c/d.csv and runs/x.jsonl")
        == "12 rows in b.jsonl, d.csv and runs/x.jsonl"
    )
    assert public("../a/p@/b/q") == "p@q"
    assert public("see https://host.example/path/page") == "see https://host.example/path/page"
    assert public("postgresql://ann:pw@host/db") == "postgresql://ann:***@host/db"


def test_what_is_on_the_hub() -> None:
    assert is_hub_name("team/model")
    assert is_hub_name("team/model@v2")
    assert not is_hub_name("data/demos.jsonl")
    assert not is_hub_name("/team/model")
    assert not is_hub_name("tests/evaluation")
