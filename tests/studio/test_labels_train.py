"""From the browser to the two models: ten comparisons by keyboard, then the commands of the studio's page as they stand there."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli import main
from prefloop.data.store import Filters, Store
from prefloop.studio import demo, projects
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.test_browser import answer, wait_stored
from tests.tiny_project import make_model

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
COMMANDS = (
    "prefloop reward --model runs/first/sft/final --data store --data.select.judged_by human --batch_size 4 --out runs/first/reward-mine",
    "prefloop dpo --model runs/first/sft/final --data store --data.select.judged_by human --batch_size 4 --out runs/first/dpo-mine",
)


def test_ten_comparisons_from_the_browser_train_a_reward_model_and_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Any
) -> None:
    page_of_docs = (Path(projects.__file__).parents[2] / "docs" / "studio.md").read_text()
    monkeypatch.chdir(tmp_path)
    first = Path("runs/first")
    make_model(first / "sft" / "final")
    with Store.open(first / "prefloop.db") as store:
        demo.fill(store, 12)
        studio = Studio(store)
        project = studio.create_project(ProjectSettings(name="mine")).id
        items = store.add_pairs().ids
        studio.add_tasks(project, items[:10])
        with served(studio) as base:
            page, watch = new_page(browser, base)
            sign_in(page, studio, base, "me")
            page.goto(f"{base}/label/{project}")
            for number in range(10):
                answer(page, "12"[number % 2], "Enter")
            wait_stored(page, studio, project, 10)
            assert watch.wrong == []
        said = store.comparisons(Filters(kinds=("human",))).records
        assert len(said) == 10
    for command in COMMANDS:
        assert command in page_of_docs
        assert main([*command.split()[1:], "--compute.device", "cpu"]) == 0
    for made in ("reward-mine", "dpo-mine"):
        steps = [json.loads(line) for line in (first / made / "metrics.jsonl").read_text().splitlines()]
        assert steps
        assert (first / made / "final" / "config.json").is_file()
    with Store.open(first / "prefloop.db", create=False) as store:
        counts = store.counts()
    assert counts["training_run"] == 2
