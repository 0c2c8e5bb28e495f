"""The pictures of docs/studio.md, each made by the real pages in Chromium:

python -m tests.studio.screenshots --out docs/studio
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import select, update

from prefloop.data.store import Judgement, Store
from prefloop.data.toy_world import gold_utility
from prefloop.records import Prompt
from prefloop.studio import accounts, at_work, demo, disputes, importing, invitations
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.items import Wanted, find
from prefloop.studio.questions import read_yaml
from prefloop.studio.run_folders import RunFolders
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectKind, ProjectSettings
from tests.images import data_url, house
from tests.studio.films import write_films
from tests.studio.live import MINUTES, opened, read_all, served, sign_in
from tests.studio.made import completion
from tests.studio.made import fill as fill_prompts
from tests.studio.talker import Talker

WIDE: Any = {"width": 1360, "height": 850}
CRITERIA = """
- {name: correct, kind: rating, ask: "How correct is it?", of: reply, required: true}
- {name: wrong, kind: spans, ask: Mark what is wrong, options: [untrue, unclear]}
- {name: tone, kind: choice, ask: "What is the tone of the better one?", options: [kind, neutral, rude]}
- {name: why, kind: text, ask: "What would be better?"}
"""
FILMS = ("swing", "fall")
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
        from prefloop.data.store import models

        groups: dict[int, list[int]] = {}
        for prompt, completion in session.execute(
            select(models.CompletionRow.prompt_id, models.CompletionRow.id).order_by(models.CompletionRow.id)
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
    judge = store.add_annotator("judge", kind="ai")
    for item in ids[50:]:
        store.add_judgement(Judgement(item=item, annotator=judge, choice="a", order_shown=(0, 1)))
    criteria = ProjectSettings(
        name="By criteria", questions=read_yaml(CRITERIA), suggest_from="judge", suggest_share=1.0
    )
    made["criteria"] = studio.create_project(criteria).id
    studio.add_tasks(made["criteria"], ids[50:])
    several = fill_prompts(store, 2, k=4, mark="s")
    made["best_worst"] = studio.create_project(ProjectSettings(name="Best and worst", kind="best_worst")).id
    studio.add_tasks(made["best_worst"], store.add_items([several[:4], several[4:]], kind="rank"))
    settings = ProjectSettings(name="Two of us", overlap=3, guidelines=demo.GUIDELINES)
    shared = studio.create_project(settings).id
    studio.add_tasks(shared, ids[:25])
    made["shared"] = shared
    random = Random(1)
    for login, right in (("bea", 0.9), ("cid", 0.8), ("dora", 0.6)):
        who = accounts.add_person(studio, login, "three small words", "annotator")
        read_all(studio, who)
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
    first_steps = ProjectSettings(
        name="First steps", guidelines=demo.GUIDELINES, gold_floor=0.7, qualify_items=3
    )
    made["practice"] = studio.create_project(first_steps).id
    studio.add_tasks(made["practice"], ids[40:43], gold=dict.fromkeys(ids[40:43], "a"), stage="practice")
    studio.add_tasks(made["practice"], ids[43:46], gold=dict.fromkeys(ids[43:46], "a"), stage="qualification")
    studio.add_tasks(made["practice"], ids[46:])
    with studio.write() as session:
        from prefloop.data.store.studio_models import TaskRow

        note = "It says what to do, in steps; the other one breaks off."
        session.execute(update(TaskRow).where(TaskRow.stage == "practice").values(gold_note=note))
    at_work.set_standing(
        studio,
        shared,
        next(each.pseudonym for each in accounts.people(studio) if each.login == "dora"),
        "paused",
        why="Your answers come very fast. Let us talk about them.",
        by=None,
    )
    cid = next(each.annotator for each in accounts.people(studio) if each.login == "cid")
    token = studio.history(cid, project=shared)[0].token
    disputes.dispute(studio, token, cid, "Both replies are about another question; is this one broken?")
    made["chat"] = studio.create_project(
        ProjectSettings(name="Talk", kind="chat", guidelines=demo.GUIDELINES)
    ).id
    made["clip"] = _clips(studio)
    made["images"] = _drawings(studio)
    annotator = store.add_annotator("simulated", kind="simulated")
    for item in ids[25:40]:
        store.add_judgement(Judgement(item=item, annotator=annotator, choice="a", order_shown=(0, 1)))
    return made


def _clips(studio: Studio) -> int:
    """A project that compares films."""
    prompt = Prompt(content="Bring the pole upright.")
    checkpoint = studio.store.add_checkpoint("swing-up")
    films = studio.store.add_completions(
        [completion(prompt, f"{name}.webm", index, "swing-up") for index, name in enumerate(FILMS)],
        checkpoint,
    )
    project = studio.create_project(ProjectSettings(name="Which swing?", kind="clip")).id
    studio.add_tasks(project, studio.store.add_items([films], kind="pair"))
    return project


def _drawings(studio: Studio) -> int:
    """A project that compares two drawings."""

    def drawn(alt: str, *, door: bool) -> list[dict[str, Any]]:
        image = {"type": "image", "image": data_url(house(door=door)), "alt": alt}
        return [{"role": "assistant", "content": [{"type": "text", "text": "Here it is."}, image]}]

    row = {
        "prompt": [{"role": "user", "content": "Draw a house with a red door."}],
        "chosen": drawn("A house with a red door", door=True),
        "rejected": drawn("A house without a door", door=False),
    }
    settings = ProjectSettings(name="Which drawing?", guidelines=demo.GUIDELINES)
    content, by = json.dumps(row).encode(), studio.store.add_annotator("importer")
    return importing.import_as_project(studio, content, "drawings.jsonl", settings, by=by).project


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/studio"))
    parser.add_argument(
        "--runs", type=Path, default=Path("studio-demo/runs"), help="run folders, as `make studio` makes them"
    )
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--looks", action="store_true", help="every screen in dark and on a phone too")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "prefloop.db") as store:
        studio = Studio(store)
        projects = fill(studio)
        with opened() as browser:
            films = Path(folder) / "films"
            films.mkdir()
            write_films(browser, films, FILMS)
            _shoot(studio, projects, browser, films, given)


def _shoot(
    studio: Studio, projects: dict[str, int], browser: Any, films: Path, given: argparse.Namespace
) -> None:
    chat = ChatWork(studio, [Talker()])
    runs = RunFolders(given.runs) if given.runs.is_dir() else None
    with served(studio, media=films, chat=chat, runs=runs) as base:
        boss = browser.new_context(viewport=WIDE)
        page = boss.new_page()
        page.set_default_timeout(MINUTES)
        who = sign_in(page, studio, base, "ann", "admin")
        Shots(page, base, projects, studio, given.out, given, who).all()


class Shots:
    """One picture after another, in one page."""

    def __init__(
        self,
        page: Any,
        base: str,
        projects: dict[str, int],
        studio: Studio,
        out: Path,
        given: argparse.Namespace,
        who: accounts.Who,
    ) -> None:
        self.page, self.base, self.projects, self.studio, self.out, self.who = (
            page,
            base,
            projects,
            studio,
            out,
            who,
        )
        self.only: list[str] = given.only
        self.looks: bool = given.looks
        self.runs: Path = given.runs

    def shot(
        self,
        name: str,
        path: str,
        work: Callable[[], object] = lambda: None,
        *,
        ready: str = "main",
        size: Any = WIDE,
        theme: str = "light",
        language: str = "en",
    ) -> None:
        if self.only and name not in self.only:
            return
        self._take(name, path, work, ready, size, theme, language)
        if self.looks:
            self._take(f"{name}-in-dark", path, work, ready, WIDE, "dark")
            self._take(f"{name}-on-phone", path, work, ready, PHONE, "light")

    def _take(
        self,
        name: str,
        path: str,
        work: Callable[[], object],
        ready: str,
        size: Any,
        theme: str,
        language: str = "en",
    ) -> None:
        accounts.save_settings(self.studio, self.who, {"theme": theme, "language": language})
        self.page.emulate_media(color_scheme=theme)
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

    def talk(self, path: str) -> None:
        """A conversation: two answers to the second message."""
        if self.only and not {"chat", "chat-write", "chat-phone"} & set(self.only):
            return
        accounts.save_settings(self.studio, self.who, {"theme": "light"})
        page = self.page
        page.goto(self.base + path)
        page.wait_for_selector("#composer:not([hidden])")
        page.fill("#message", "Hello! Can you help me with my bicycle?")
        page.keyboard.press("Enter")
        page.wait_for_selector(".response")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#composer:not([hidden])")
        self.shot("chat-write", path, ready="#composer:not([hidden])")
        page.fill("#message", "The chain comes off when I change down.")
        page.keyboard.press("Enter")
        page.wait_for_selector(".response")
        self.shot("chat", path, self.keys("2"), ready=".response")
        self.shot("chat-phone", path, self.keys("2"), ready=".response", size=PHONE, theme="dark")

    def practice(self, project: int) -> None:
        """Guidelines that have changed, and what follows a practice item."""
        settings = self.studio.project(project).settings
        text = settings.guidelines + "\nIf a reply gives **no steps**, the other one is better.\n"
        version = self.studio.change_project(project, replace(settings, guidelines=text)).guideline_version
        self.shot("read", f"/label/{project}", ready="#read:not([hidden])")
        self.studio.acknowledge(project, self.who.annotator, version)
        self.shot("practice", f"/label/{project}", self.answered, ready=".response")

    def answered(self) -> None:
        """Give an answer to a practice item, and wait for what is said of it."""
        for key in "2", "Enter":
            self.page.keyboard.press(key)
        self.page.wait_for_selector("#feedback:not([hidden])")

    def choose_file(self) -> None:
        """Look at a file whose columns have names of their own."""
        rows = "Question,better,worse\n" + "".join(
            f"How do I keep {name} fresh?,Keep it cool and dry.,I do not know.\n"
            for name in ("bread", "tea", "rice")
        )
        file: Any = {"name": "kitchen.csv", "mimeType": "text/csv", "buffer": rows.encode()}
        self.page.set_input_files("input[type=file]", file)
        self.page.wait_for_selector("#first .response")

    def all(self) -> None:
        """Every screen."""
        label = {kind: f"/label/{id}" for kind, id in self.projects.items()}
        card = ".response"
        self.shot("compare", label["pair"], self.keys("2"), ready=card)
        self.shot("compare-dark", label["pair"], self.keys("1", "d"), ready=card, theme="dark")
        self.shot("compare-phone", label["pair"], self.keys("2"), ready=card, size=PHONE)
        self.shot("arabic", label["pair"], self.keys("1"), ready=card, language="ar")
        self.shot("keys", label["pair"], self.keys("?"), ready=card)
        self.shot("guidelines", label["pair"], self.keys("g"), ready=card, theme="dark")
        self.shot("improve", label["pair"], self.keys("2", "f", "1", "e"), ready=card)
        self.shot("rank", label["rank"], self.keys("ArrowDown", "2", "ArrowDown", "1"), ready=card)
        marking = self.keys("2", "m", "ArrowRight", "Shift+ArrowRight", "Enter")
        self.shot("questions", label["criteria"], marking, ready=card)
        self.shot("best-worst", label["best_worst"], self.keys("2", "Shift+Digit3"), ready=card)
        self.shot("rate", label["rate"], self.keys("4", "3"), ready=card)
        self.shot("binary", label["binary"], self.keys("1"), ready=card)
        self.shot("edit", label["edit"], ready=card)
        self.shot("clip", label["clip"], self.keys("2"), ready="video")
        self.shot("images", label["images"], self.keys("2"), ready=".response img")
        self.talk(label["chat"])
        self.shot("queue", "/")
        self.shot("history", "/history")
        self.shot("adjudicate", "/adjudicate")
        shared = self.projects["shared"]
        self.shot("decide", f"/adjudicate?project={shared}", self.keys("1"))
        self.practice(self.projects["practice"])
        self.shot("import", "/admin/import", self.choose_file, ready="#drop")
        self.shot(
            "compose", f"/admin/projects/{self.projects['criteria']}/questions", ready="#preview .response"
        )
        self.shot("people-at-work", f"/admin/projects/{shared}/people")
        self.shot("items", f"/admin/projects/{shared}/items?divided=1")
        task = find(self.studio, shared, Wanted(divided=True))[0].task
        self.shot("item", f"/admin/projects/{shared}/items/{task}")
        self.shot("inbox", "/admin/inbox")
        pseudonym = next(each.pseudonym for each in accounts.people(self.studio) if each.login == "bea")
        self.shot("annotator", f"/admin/annotators/{pseudonym}")
        self.shot("settings", "/settings")
        self.shot("admin", "/admin")
        self.shot("project", f"/admin/projects/{self.projects['shared']}")
        self.shot("quality", "/admin/quality")
        self.shot("project-form", "/admin/new")
        self.shot("people", "/admin/people")
        self.shot("audit", "/admin/audit", theme="dark")
        if (self.runs / "dpo").is_dir():
            self.shot("runs", "/admin/runs")
            self.shot("run", "/admin/runs/one?run=dpo", size={"width": 1360, "height": 640})
        self.page.context.clear_cookies()
        self.shot("login", "/login")
        secret = invitations.invite(self.studio, "annotator")
        self.shot("join", f"/join/{secret}", theme="light")
        self.shot("not-here", "/join/nothing")


if __name__ == "__main__":
    main()
