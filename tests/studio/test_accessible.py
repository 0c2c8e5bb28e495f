"""WCAG 2.2 AA on every page, light and dark, wide and 320 pixels narrow, by mouse and by Tab; and that the checks find what is planted."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from prefloop.configs.common import Selecting
from prefloop.data.store import Store
from prefloop.feedback.datasets import save
from prefloop.studio import accounts, invitations, items, studies
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.items import Wanted
from prefloop.studio.run_folders import RunFolders
from prefloop.studio.service import Studio
from tests.studio.accessible import keyboard_problems, moves, problems
from tests.studio.films import write_films
from tests.studio.live import Watch, new_page, served, sign_in, why_no_browser
from tests.studio.screenshots import FILMS, fill
from tests.studio.talker import Talker

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
WIDE: Any = {"width": 1280, "height": 800}
NARROW: Any = {"width": 320, "height": 720}


@dataclass
class World:
    """A server with everything in it, and an admin's page."""

    base: str
    page: Any
    watch: Watch
    paths: dict[str, str]


@pytest.fixture(scope="module")
def world(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with Store.open(folder / "prefloop.db") as store:
        studio = Studio(store)
        projects = fill(studio)
        shared = studio.project(projects["shared"]).settings.name
        save(studio.store, "shared", "comparisons", Selecting(projects=(shared,)))
        write_films(browser, folder, FILMS)
        trained = folder / "runs/dpo"
        trained.mkdir(parents=True)
        (trained / "config.yaml").write_text("model: tiny\n")
        (trained / "log.txt").write_text(
            "2026-01-01 00:00:00 dpo: begins\n2026-01-01 00:00:01 stopped: full\n"
        )
        (trained / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n')
        runs = RunFolders(folder / "runs")
        with served(studio, media=folder, runs=runs, chat=ChatWork(studio, [Talker()])) as base:
            page, watch = new_page(browser, base)
            page.emulate_media(reduced_motion="reduce")
            sign_in(page, studio, base, "boss", "admin")
            task = items.find(studio, projects["shared"], Wanted(divided=True))[0].task
            first_steps = studio.project(projects["practice"]).settings
            studio.change_project(projects["practice"], replace(first_steps, guidelines="# Be *fair*"))
            paths = {kind: f"/label/{id}" for kind, id in projects.items()}
            best = studio.project(projects["best_worst"]).settings
            studio.change_project(projects["best_worst"], replace(best, quota=20))
            studies.create(studio, projects["best_worst"], "prolific", places=50, by=None)
            bea = next(each.pseudonym for each in accounts.people(studio) if each.login == "bea")
            paths |= {
                "help": paths["pair"],
                "project": f"/admin/projects/{projects['shared']}",
                "edit project": f"/admin/projects/{projects['shared']}/edit",
                "join as": f"/join/{invitations.invite(studio, 'annotator', to=[projects['shared']], uses=9, note='all')}",
                "members": f"/admin/projects/{projects['shared']}/members",
                "recruiting": f"/admin/projects/{projects['best_worst']}/recruiting",
                "annotator": f"/admin/annotators/{bea}",
                "people at work": f"/admin/projects/{projects['shared']}/people",
                "read": f"/label/{projects['practice']}",
                "items": f"/admin/projects/{projects['shared']}/items?divided=1",
                "item": f"/admin/projects/{projects['shared']}/items/{task}",
                "case": f"/adjudicate?project={projects['shared']}",
                "run": "/admin/runs/one?run=dpo",
                "versions": f"/admin/datasets?project={projects['shared']}",
            }
            paths |= {
                path: path
                for path in (
                    "/",
                    "/history",
                    "/settings",
                    "/settings/two-factor",
                    "/adjudicate",
                    "/admin",
                    "/admin/new",
                    "/admin/quality",
                    "/admin/people",
                    "/admin/audit",
                    "/admin/webhooks",
                    "/admin/runs",
                    "/api-docs",
                    "/admin/inbox",
                    "/nowhere",
                )
            }
            page.goto(base + paths["pair"])
            page.wait_for_selector(".response")
            page.keyboard.press("1")
            page.keyboard.press("Enter")  # so that the history is not empty
            page.wait_for_selector("#toast:not([hidden])")
            page.context.set_default_timeout(60_000)
            yield World(base, page, watch, paths)
            page.context.close()


STATES: dict[str, tuple[str, ...]] = {
    "pair": ("2", "f", "1", "r", "Escape", "e", "Escape", "d"),
    "rank": ("ArrowDown", "2", "ArrowDown", "1"),
    "rate": ("4", "3"),
    "binary": ("1",),
    "images": ("1",),
    "edit": (),
    "clip": ("2",),
    "help": ("?",),
    "chat": (),
}
PAGES = [
    *STATES,
    "project",
    "edit project",
    "members",
    "recruiting",
    "join as",
    "annotator",
    "people at work",
    "read",
    "items",
    "item",
    "/admin/inbox",
    "case",
    "/",
    "/history",
    "/settings",
    "/adjudicate",
]
PAGES += [
    "/settings/two-factor",
    "versions",
    "run",
    "/admin/runs",
    "/admin",
    "/admin/new",
    "/admin/quality",
    "/admin/people",
    "/admin/audit",
    "/admin/webhooks",
    "/api-docs",
    "/nowhere",
]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_read_and_worked_by_everybody(world: World, name: str) -> None:
    page = world.page
    page.set_viewport_size(WIDE)
    page.goto(world.base + world.paths[name])
    if name in STATES:
        page.wait_for_selector("#composer:not([hidden])" if name == "chat" else ".response")
    for key in STATES.get(name, ()):
        page.keyboard.press(key)
    wrong: list[str] = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        wrong += [f"{scheme}: {each}" for each in problems(page)]
    wrong += [f"moves: {each}" for each in moves(page)]
    page.set_viewport_size(NARROW)
    wrong += [f"narrow: {each}" for each in problems(page)]
    page.set_viewport_size(WIDE)
    wrong += [f"Tab: {each}" for each in keyboard_problems(page)]
    assert wrong == []
    assert world.watch.wrong == []


def test_the_doors_can_be_read_and_worked_by_everybody(world: World, browser: Any) -> None:
    page, watch = new_page(browser, world.base)
    page.goto(world.base + world.paths["join as"])
    assert problems(page) == []
    assert keyboard_problems(page) == []
    page.goto(f"{world.base}/login")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert problems(page) == []
    page.set_viewport_size(NARROW)
    assert problems(page) == []
    assert keyboard_problems(page) == []
    page.fill("input[name=login]", "nobody")
    page.fill("input[name=password]", "three small words")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    assert problems(page) == []
    assert watch.wrong == []
    page.context.close()


def test_two_answers_of_a_chat_can_be_read_and_worked_by_everybody(world: World) -> None:
    page = world.page
    page.set_viewport_size(WIDE)
    page.goto(world.base + world.paths["chat"])
    page.wait_for_selector("#composer:not([hidden])")
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    page.wait_for_selector(".response")
    assert problems(page) == []
    page.keyboard.press("1")
    assert keyboard_problems(page) == []
    page.set_viewport_size(NARROW)
    assert problems(page) == []


PLANTED: dict[str, tuple[str, str]] = {
    "1.4.3": ("contrast", "document.querySelector('h1').style.color = '#bbb'"),
    "4.1.2": ("no name", "document.querySelector('#appearance button').textContent = ''"),
    "1.3.1": (
        "heading jumps",
        "document.querySelector('h2').outerHTML = '<h4>' + document.querySelector('h2').textContent + '</h4>'",
    ),
    "3.1.1": ("no language", "document.documentElement.lang = ''"),
    "2.4.2": ("no title", "document.title = ''"),
    "2.5.8": (
        "target",
        "for (const link of document.querySelectorAll('.top nav a')) Object.assign(link.style, { padding: 0, fontSize: '6px', lineHeight: '6px' }); document.querySelector('.top nav').style.gap = 0",
    ),
    "1.4.10": ("wide", "document.querySelector('h1').style.width = '4000px'"),
    "1.4.11": ("edge", "document.querySelector('select').style.borderColor = '#f0f0ee'"),
    "1.1.1": ("picture", "document.querySelector('img').removeAttribute('alt')"),
    "4.1.3": ("live region", "document.getElementById('told').removeAttribute('role')"),
    "2.4.1": ("navigation", "document.querySelector('.jump').remove()"),
    "2.5.3": ("lacks", "document.querySelector('#appearance button').setAttribute('aria-label', 'Go')"),
}


@pytest.mark.parametrize("rule", PLANTED)
def test_what_is_planted_is_found(world: World, rule: str) -> None:
    told, plant = PLANTED[rule]
    page = world.page
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)
    page.goto(f"{world.base}/settings")
    assert problems(page) == []
    page.evaluate(f"() => {{ {plant} }}")
    found = problems(page)
    assert any(each.startswith(rule) and re.search(told, each) for each in found), found


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("2.4.7", "document.querySelector('#appearance button').addEventListener('focus', (e) => { e.target.style.outline = 'none'; })"),
        ("2.1.2", "document.querySelector('select').addEventListener('keydown', (e) => { if (e.key === 'Tab') e.preventDefault(); })"),
        ("2.1.1", "document.querySelector('select').addEventListener('focus', (e) => { e.target.blur(); })"),
        ("2.4.11", "const bar = document.querySelector('.top'); Object.assign(bar.style, { position: 'fixed', inset: 0, zIndex: 99 })"),
    ],
)  # fmt: skip
def test_what_is_planted_against_the_keyboard_is_found(world: World, rule: str, plant: str) -> None:
    page = world.page
    page.set_viewport_size(WIDE)
    page.goto(f"{world.base}/settings")
    page.evaluate(f"() => {{ {plant} }}")
    assert any(each.startswith(rule) for each in keyboard_problems(page, most=60))


def test_what_glides_although_less_motion_is_asked_for_is_found(world: World) -> None:
    page = world.page
    page.goto(f"{world.base}/settings")
    assert moves(page) == []
    page.evaluate(
        "() => { document.querySelector('h1').style.setProperty('transition', 'color 1s', 'important'); }"
    )
    assert moves(page) != []
