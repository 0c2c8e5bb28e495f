"""The studio's server, agreement, ratings and selection start and run where torch cannot be imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from prefloop.data.store import Store
from prefloop.data.store.values import Judgement
from prefloop.feedback.select import write_scores
from prefloop.feedback.select.stored import candidates
from prefloop.records import Prompt
from tests.studio.made import completion

BLOCK = '''
import sys

class Block:
    """Nothing here may need what trains models."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "sklearn", "jaxtyping"):
            raise ImportError(f"{name} is blocked by the test")

sys.meta_path.insert(0, Block())
'''
SERVER = """
from fastapi.testclient import TestClient
from prefloop.data.store import Store
from prefloop.studio.app import make_app
from prefloop.studio.service import Studio

from prefloop.studio.quality import quality
from prefloop.studio.values import Answer, ProjectSettings

with Store.open("s.db") as store, TestClient(make_app(Studio(store))) as client:
    for page in ("/healthz", "/readyz", "/openapi.json"):
        assert client.get(page).status_code == 200, client.get(page).text
    assert client.get("/", follow_redirects=True).status_code == 200
    studio = Studio(store)
    project = studio.create_project(ProjectSettings(name="p")).id
    studio.add_tasks(project, [item.id for item in store.items()])
    annotator = store.add_annotator("cem")
    got = studio.lease(project, annotator)
    assert studio.submit(got.token, annotator, Answer(choice="first"), key="12345678").state == "submitted"
    assert quality(studio).board is not None
"""
COMMAND = """
from prefloop.cli import main

for line in sys.argv[1:]:
    assert main(line.split()) == 0, line
"""
LINES = {
    "agreement": ["label agreement --store s.db --labels labels.jsonl --out agreement.json"],
    "ratings": [
        "arena --store s.db --each_round --style --out out",
        "arena --store s.db --method plackett_luce",
    ],
    "selection": [
        "label select --store s.db --strategy disagreement --scores scores.jsonl --count 3 --round 1 --project Ask",
        "label select --store s.db --strategy margin --scores scores.jsonl --count 3 --round 1",
        "label select --store s.db --strategy information --count 3 --round 1",
        "label select --store s.db --strategy conflict --count 3 --round 2",
        "label select --store s.db --count 3 --round 3",
    ],
    "files": [
        "label import pairs.jsonl --store s.db --project New",
        "label export --store s.db --out out.jsonl --aggregate dawid_skene",
        "label export --store s.db --out each.jsonl",
        "label backup --store s.db --out backup.db",
        "label restore backup.db --store restored.db",
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store in which two people and a judge compared two models' completions, and more to ask about."""
    with Store.open(tmp_path / "s.db") as store:
        prompts = [Prompt(content=f"question {at}") for at in range(27)]
        for policy in "xyz":
            id = store.add_checkpoint(policy, weights_sha256=policy * 64)
            store.add_completions(
                [completion(prompt, f"{policy} says {prompt.content}", 0, policy) for prompt in prompts], id
            )
        offered = candidates(store)
        asked = store.add_items([each.completions for each in offered if each.models == ("x", "y")])
        for who, kind in (("ann", "human"), ("bea", "human"), ("judge", "ai")):
            annotator = store.add_annotator(who, kind=kind)  # type: ignore[arg-type]
            for at, item in enumerate(asked):
                choice = "a" if at % 3 or who == "judge" else "b"
                store.add_judgement(
                    Judgement(item=item, annotator=annotator, choice=choice, order_shown=(at % 2, 1 - at % 2))
                )
    scores = {key: (float(at % 5), 0.5) for at, each in enumerate(offered) for key in each.scored}
    write_scores(tmp_path / "scores.jsonl", scores.items())
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    return tmp_path


def run(folder: Path, program: str, *lines: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + program, *lines], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", list(LINES))
def test_commands(what: str, folder: Path) -> None:
    run(folder, COMMAND, *LINES[what])


def test_the_server(folder: Path) -> None:
    run(folder, SERVER)


def test_the_block_blocks(folder: Path) -> None:
    with pytest.raises(AssertionError, match="torch is blocked by the test"):
        run(folder, "import torch")
