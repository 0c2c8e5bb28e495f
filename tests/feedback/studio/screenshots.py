"""The pictures of docs/studio.md, each made by the real pages in Chromium:

python -m tests.feedback.studio.screenshots --out docs/studio
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from prefloop.data.store import Judgement, Store
from prefloop.data.toy_world import gold_utility
from prefloop.feedback.studio import accounts, demo
from prefloop.feedback.studio.service import Studio
from prefloop.feedback.studio.values import Answer, ProjectKind, ProjectSettings
from tests.feedback.studio.live import chromium, served, sign_in

WIDE: Any = {"width": 1360, "height": 850}
PHONE: Any = {"width": 390, "height": 844}


def fill(studio: Studio) -> dict[str, int]:
    """Projects of every kind over the toy world's replies, some of them answered by three people; kind -> project."""
    store = studio.store
    demo.fill(store, 60)
    made: dict[str, int] = {}
    first = demo.first_project(studio)
    assert first is not None
    made["pair"] = first.id
    ids = [item.id for item in store.items()]
    with store.database.read() as session:
        from sqlalchemy import select

        from prefloop.data.store import models

        groups: dict[int, list[int]] = {}
        for prompt, completion in session.execute(
            select(models.Completion.prompt_id, models.Completion.id).order_by(models.Completion.id)
        ):
            groups.setdefault(prompt, []).append(completion)
    ranks = store.add_items(list(groups.values()), kind="rank")
    singles = store.add_items([[group[0]] for group in groups.values()], kind="single")
    kinds: list[tuple[str, ProjectKind, list[int]]] = [
        ("Which order?", "rank", ranks),
        ("How good is it?", "rate", singles),
        ("Good or bad?", "binary", singles),
        ("Make it better", "edit", singles),
    ]
    for name, kind, items in kinds:
        project = studio.create_project(ProjectSettings(name=name, kind=kind, guidelines=demo.GUIDELINES))
        studio.add_tasks(project.id, items)
        made[kind] = project.id
    settings = ProjectSettings(name="Two of us", overlap=3, guidelines=demo.GUIDELINES)
    shared = studio.create_project(settings).id
    studio.add_tasks(shared, ids[:25])
    made["shared"] = shared
    random = Random(1)
    for login, right in (("bea", 0.9), ("cid", 0.8), ("dora", 0.6)):
        who = accounts.add_person(studio, login, "three small words", "annotator")
        while (got := studio.lease(shared, who.annotator)) is not None:
            first, second = got.completions
            better: Any = (
                "first" if gold_utility(got.prompt, first) > gold_utility(got.prompt, second) else "second"
            )
            other: Any = random.choice(["first", "second", "tie"])
            answer = Answer(
                choice=better if random.random() < right else other,
                duration_ms=random.randrange(4000, 30000),
                rationale="It names the subject." if random.random() < 0.2 else "",
            )
            studio.submit(got.token, who.annotator, answer, key=f"key {got.token}")
    annotator = store.add_annotator("simulated", kind="simulated")
    for item in ids[25:40]:
        store.judge(Judgement(item=item, annotator=annotator, choice="a", order_shown=(0, 1)))
    return made


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/studio"))
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "prefloop.db") as store:
        studio = Studio(store)
        projects = fill(studio)
        with served(studio) as base, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
            )
            boss = browser.new_context(viewport=WIDE)
            page = boss.new_page()
            page.set_default_timeout(180_000)
            who = sign_in(page, studio, base, "ann", "admin")
            Shots(page, base, projects, studio, given.out, given.only, who).all()
            browser.close()


class Shots:
    """One picture after another, in one page."""

    def __init__(
        self,
        page: Any,
        base: str,
        projects: dict[str, int],
        studio: Studio,
        out: Path,
        only: list[str],
        who: accounts.Who,
    ) -> None:
        self.page, self.base, self.projects, self.studio, self.out, self.only, self.who = (
            page,
            base,
            projects,
            studio,
            out,
            only,
            who,
        )

    def shot(
        self,
        name: str,
        path: str,
        work: Callable[[], object] = lambda: None,
        *,
        ready: str = "main",
        size: Any = WIDE,
        theme: str = "light",
    ) -> None:
        if self.only and name not in self.only:
            return
        accounts.save_settings(self.studio, self.who, {"theme": theme})
        self.page.set_viewport_size(size)
        self.page.goto(self.base + path)
        self.page.wait_for_selector(ready)
        work()
        self.page.wait_for_timeout(250)
        self.page.screenshot(path=self.out / f"{name}.png")
        print(name, flush=True)

    def keys(self, *keys: str) -> Callable[[], None]:
        def press() -> None:
            for key in keys:
                self.page.keyboard.press(key)

        return press

    def all(self) -> None:
        """Every screen."""
        label = {kind: f"/label/{id}" for kind, id in self.projects.items()}
        card = ".response"
        self.shot("compare", label["pair"], self.keys("2"), ready=card)
        self.shot("compare-dark", label["pair"], self.keys("1", "d"), ready=card, theme="dark")
        self.shot("compare-phone", label["pair"], self.keys("2"), ready=card, size=PHONE)
        self.shot("keys", label["pair"], self.keys("?"), ready=card)
        self.shot("guidelines", label["pair"], self.keys("g"), ready=card, theme="dark")
        self.shot("improve", label["pair"], self.keys("2", "f", "1", "e"), ready=card)
        self.shot("rank", label["rank"], self.keys("ArrowDown", "2", "ArrowDown", "1"), ready=card)
        self.shot("rate", label["rate"], self.keys("4", "3"), ready=card)
        self.shot("binary", label["binary"], self.keys("1"), ready=card)
        self.shot("edit", label["edit"], ready=card)
        self.shot("queue", "/")
        self.shot("history", "/history")
        self.shot("settings", "/settings")
        self.shot("admin", "/admin")
        self.shot("project", f"/admin/projects/{self.projects['shared']}")
        self.shot("quality", "/admin/quality")
        self.shot("project-form", "/admin/new")
        self.shot("people", "/admin/people")
        self.shot("audit", "/admin/audit", theme="dark")
        self.page.context.clear_cookies()
        self.shot("login", "/login")
        secret = accounts.invite(self.studio, "annotator")
        self.shot("join", f"/join/{secret}", theme="light")
        self.shot("not-here", "/join/nothing")


if __name__ == "__main__":
    main()
