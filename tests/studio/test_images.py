"""Images in prompts and answers: shown to those who may see the item, to nobody else, and never from elsewhere."""

import json
import re
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prefloop.cli import people as commands
from prefloop.configs.label import ImageEraseConfig
from prefloop.data import Images, load_records
from prefloop.data.store import Filters, Store
from prefloop.errors import InputError
from prefloop.marks import ImageMark, images_in
from prefloop.records import Comparison
from prefloop.studio import adjudicate, exchange, importing, members
from prefloop.studio.backup import back_up, restore
from prefloop.studio.question_exports import answer_rows
from prefloop.studio.questions import Question
from prefloop.studio.render import to_html
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.images import data_url, encoded, pixels, png
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.web import Person

CAT, DOG = png(width=300, height=200), encoded(pixels(200, 300, shade=200), "JPEG")
NONE = "0" * 64


def rows(count: int = 1) -> list[dict[str, Any]]:
    """Which picture answers better? Each prompt shows one, and so does each answer."""

    def says(text: str, content: bytes, alt: str = "") -> list[dict[str, Any]]:
        image = {"type": "image", "image": data_url(content), "alt": alt}
        return [{"role": "assistant", "content": [{"type": "text", "text": text}, image]}]

    return [
        {
            "prompt": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": data_url(CAT), "alt": 'A <b>"cat"</b> \u202eon a mat'},
                        {"type": "text", "text": f"Draw it again, {number}."},
                    ],
                }
            ],
            "chosen": says("Here it is: ", DOG, "A dog"),
            "rejected": says("Here: ", png(shade=number)),
        }
        for number in range(count)
    ]


def content(*given: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in given).encode()


def project_of(studio: Studio, *, count: int = 1, **settings: Any) -> int:
    asked = ProjectSettings(name="pictures", **settings)
    made = importing.import_as_project(
        studio, content(*rows(count)), "pairs.jsonl", asked, by=_somebody(studio)
    )
    return made.project


def _somebody(studio: Studio) -> int:
    return studio.store.add_annotator("importer")


def sources(html: str) -> list[str]:
    return re.findall(r'<img src="([^"]+)"', html)


@pytest.fixture
def empty(store: Store, clock: Any) -> Studio:  # on each database
    return Studio(store, clock=clock, random=Random(0))


def test_an_image_is_served_to_whom_the_item_was_given_and_kept_by_the_browser(empty: Studio) -> None:
    project = project_of(empty)
    ann = Person(empty)
    item = ann.next(project)
    (in_prompt,) = sources(item["prompt"][0]["html"])
    assert in_prompt.startswith(f"{item['images']}/")
    assert item["images"] == f"/images/{item['token']}"
    got = ann.client.get(in_prompt)
    assert (got.status_code, got.content, got.headers["content-type"]) == (200, CAT, "image/png")
    assert got.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert got.headers["cross-origin-resource-policy"] == "same-origin"
    again = ann.client.get(in_prompt, headers={"If-None-Match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    shown = [ann.client.get(source) for html in item["responses"] for source in sources(html)]
    assert {each.headers["content-type"] for each in shown} == {"image/png", "image/jpeg"}
    assert ann.submit(item["token"], {"choice": "first"}).status_code == 200
    (past,) = ann.send("GET", "/me/history").json()
    assert ann.client.get(sources(past["prompt"][0]["html"])[0]).content == CAT  # one's own answers, too


def test_nobody_else_sees_it_and_nothing_else_is_seen_there(empty: Studio) -> None:
    project = project_of(empty, access="members")
    ann, bea, boss = Person(empty), Person(empty, "bea"), Person(empty, "boss", "admin")
    members.change(empty, project, add=["ann", "bea"], by=None)
    item = ann.next(project)
    (source,) = sources(item["prompt"][0]["html"])
    assert ann.client.get(source).status_code == 200
    other = project_of_another(empty)
    for who in (bea, boss):
        assert who.client.get(source).status_code == 404  # it is an address of ann's
    stranger = other["sha256"]
    for strange in (NONE, stranger, "../" + NONE, NONE.upper(), NONE[1:]):
        assert ann.client.get(f"{item['images']}/{strange}").status_code in (404, 422)
    (task,) = _tasks(empty, project)
    on_page = f"/admin/projects/{project}/items/{task}/images/{source.rpartition('/')[2]}"
    assert boss.client.get(on_page).content == CAT
    assert ann.client.get(on_page).status_code == 403
    assert boss.client.get(f"/admin/projects/{project}/items/{task}/images/{stranger}").status_code == 404
    assert boss.client.get(f"/admin/projects/{project + 1}/items/{task}/images/{stranger}").status_code == 404
    members.remove(empty, project, ann.who.account, by=None)
    assert ann.client.get(source).status_code == 404
    ann.client.cookies.clear()
    assert ann.client.get(source).status_code in (303, 401)


def project_of_another(studio: Studio) -> dict[str, str]:
    """A second project, and the hash of an image that only it shows."""
    photo = png(shade=99)
    row = {"prompt": "Whose?", "images": [data_url(photo)], "chosen": "mine", "rejected": "yours"}
    made = importing.import_as_project(
        studio, content(row), "other.jsonl", ProjectSettings(name="other"), by=_somebody(studio)
    )
    (item,) = [item for item in studio.store.items() if "Whose?" in str(item.prompt)]
    (mark,) = images_in(item.prompt)
    return {"sha256": mark.sha256, "project": str(made.project)}


def _tasks(studio: Studio, project: int) -> list[int]:
    from prefloop.studio.items import Wanted, find

    return [found.task for found in find(studio, project, Wanted())]


def test_admins_and_adjudicators_see_the_images_on_their_pages(empty: Studio) -> None:
    project = project_of(empty, overlap=2)
    for name in ("one", "two"):
        who = empty.store.add_annotator(name)
        got = empty.lease(project, who)
        assert got is not None
        first_is_dog = "A dog" in got.completions[0]
        answer = "first" if first_is_dog == (name == "one") else "second"
        empty.submit(got.token, who, Answer(choice=answer), key="12345678")
    boss, judge = Person(empty, "boss", "admin"), Person(empty, "judge", "adjudicator")
    (task,) = _tasks(empty, project)
    (item,) = adjudicate.queue(empty, empty.project(project), judge.who.annotator)
    for who, path, count in (
        (boss, f"/admin/projects/{project}/items", 3),
        (boss, f"/admin/projects/{project}/items/{task}", 3),
        (judge, f"/adjudicate/{project}/{item}", 3),
    ):
        page = who.client.get(path).text
        shown = [source for source in sources(page) if "/images/" in source]
        assert len(shown) == count, path
        assert all(who.client.get(source).status_code == 200 for source in shown)
        assert "prefloop-image" not in page
    assert boss.client.get(f"/adjudicate/{project}/{item}/images/{NONE}").status_code == 404


def test_what_describes_an_image_is_escaped_and_shown() -> None:
    mark = ImageMark(alt='A <b>"cat"</b> \u202eon a mat', width=6400, height=100, sha256="ab" * 32)
    for render in ("plain", "markdown"):
        html = to_html(f"Look: {mark} **there**", render, "/images/x")
        assert "<b>" not in html.replace("<strong>", "")
        assert "&lt;b&gt;&quot;cat&quot;&lt;/b&gt; ⟨U+202E⟩on a mat" in html
        assert f'src="/images/x/{"ab" * 32}"' in html
        assert 'width="640" height="10"' in html
        assert to_html(f"Look: {mark}", render).count("<img") == 0  # where none can be shown it is told
    # What a model or a person writes as Markdown is no image of ours.
    assert "<img" not in to_html("![x](https://example.org/x.png) ![y](/images/x/y)", "markdown", "/images/x")


def test_a_mark_that_is_typed_shows_nothing(empty: Studio) -> None:
    project = project_of(empty, kind="edit")
    stolen = ImageMark(alt="", width=1, height=1, sha256=project_of_another(empty)["sha256"])
    ann = Person(empty)
    item = ann.next(project)
    refused = ann.submit(item["token"], {"choice": "edited", "edited": f"Better: {stolen}"})
    assert refused.status_code == 422
    assert "the mark of an image that this item does not show" in refused.text
    own = next(images_in(item["sources"][0]))
    assert ann.submit(item["token"], {"choice": "edited", "edited": f"Better: {own}"}).status_code == 200
    with pytest.raises(InputError, match="it spells the mark of an image"):
        importing.import_as_project(
            empty,
            content({"prompt": f"See {stolen}", "chosen": "a", "rejected": "b"}),
            "typed.jsonl",
            ProjectSettings(name="typed"),
            by=_somebody(empty),
        )


def test_an_upload_is_looked_at_before_it_is_imported(empty: Studio) -> None:
    boss = Person(empty, "boss", "admin")
    named = {"prompt": "x", "images": ["/etc/passwd.png"], "chosen": "a", "rejected": "b"}
    large = rows()
    large[0]["prompt"][0]["content"][0]["image"] = data_url(
        encoded(pixels(700, 700), "PNG", compress_level=0)
    )
    body = content(*large, named)
    assert len(body) > 1.5 * 2**20  # more than other requests may have
    seen = boss.client.post(
        "/api/v1/import/preview?name=pairs.jsonl&kind=pair", content=body, headers={"X-CSRF-Token": boss.csrf}
    ).json()
    assert (seen["items"], seen["bad"], seen["problem"]) == (1, 1, "")
    assert seen["first"][0]["prompt"].startswith("[image: A <b>")
    assert empty.store.counts()["image"] == 0  # nothing was stored


def test_exports_downloads_and_backups_carry_the_images(empty: Studio, tmp_path: Path) -> None:
    project = project_of(empty, count=2)
    who = empty.store.add_annotator("ann")
    while (got := empty.lease(project, who)) is not None:
        empty.submit(got.token, who, Answer(choice="first"), key=got.token)
    (manifest,) = exchange.export_files(empty, "comparisons", tmp_path / "out.jsonl")
    assert exchange.verify(tmp_path / "out.jsonl") == manifest
    assert len(list((tmp_path / "out-images").iterdir())) == empty.store.counts()["image"] == 4
    inline, _ = exchange.export_download(
        empty, project, "comparisons", tempfile.mkdtemp(dir=tmp_path), by=None
    )
    with Images(files=False) as images:
        back = load_records(inline, images=images)
        assert len(images) == 4
    assert back.records == empty.store.comparisons().records
    # Into the same store again it adds nothing, not even an image.
    before = empty.store.counts()
    exchange.import_file(empty, project, inline)
    after = empty.store.counts()
    assert {
        table: after[table] - before[table] for table in after if table != "audit_event"
    } == dict.fromkeys(set(after) - {"audit_event"}, 0)
    if empty.store.database.dialect == "sqlite":
        back_up(empty.store.address, tmp_path / "backup.db")
        restore(tmp_path / "backup.db", str(tmp_path / "restored.db"))
        with Store.open(tmp_path / "restored.db", create=False) as restored:
            (mark, *_) = images_in(restored.comparisons().records[0])
            assert restored.image(mark.sha256).content == CAT


def test_marks_around_images_keep_their_places_and_are_no_steps_of_text(studio: Studio) -> None:
    question = Question(name="wrong", kind="spans", of="reply", options=("error",))
    project = project_of(studio, questions=(question,))
    ann = Person(studio)
    item = ann.next(project)
    place = next(at for at, text in enumerate(item["sources"]) if "A dog" in text)
    length = len(item["sources"][place])
    span = {"question": "wrong", "label": "error", "place": place, "start": 0, "end": length}
    assert ann.submit(item["token"], {"choice": "first", "spans": [span]}).status_code == 200
    rows = answer_rows(studio, "spans", Filters(projects=("pictures",))).rows
    (marked,) = [row["spans"] for row in rows if row["spans"]]
    assert (marked[0]["start"], marked[0]["end"]) == (0, length)
    with pytest.raises(InputError, match=r"no steps to export .*image 2"):
        answer_rows(studio, "steps", Filters(projects=("pictures",)))


def test_an_erased_image_is_gone_from_every_page_and_from_the_file(
    empty: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = project_of(empty, count=2)
    ann, boss = Person(empty), Person(empty, "boss", "admin")
    item = ann.next(project)
    (source,) = sources(item["prompt"][0]["html"])
    sha256 = source.rpartition("/")[2]
    for wrong in ("f" * 12, NONE):
        with pytest.raises(InputError, match="no image of the store"):
            commands.erase_image(ImageEraseConfig(image=wrong, store=empty.store.address))
    with pytest.raises(InputError, match="nothing was erased: add --yes true"):
        commands.erase_image(ImageEraseConfig(image=sha256[:12], store=empty.store.address))
    assert ann.client.get(source).status_code == 200
    commands.erase_image(ImageEraseConfig(image=sha256[:12].upper(), store=empty.store.address, yes=True))
    assert "2 texts keep its place" in capsys.readouterr().out
    assert ann.client.get(source).status_code == 404
    again = ann.next(project)
    assert "on a mat</figcaption>" in again["prompt"][0]["html"]  # what it showed is told still
    assert all(ann.client.get(src).status_code == 200 for html in again["responses"] for src in sources(html))
    assert ann.submit(item["token"], {"choice": "first"}).status_code == 200
    with pytest.raises(InputError, match="it was erased"):
        exchange.export_files(empty, "comparisons", tmp_path / "out.jsonl")
    assert "erase image" in boss.client.get("/admin/audit").text
    if empty.store.database.dialect == "sqlite":
        assert CAT[60:260] not in Path(empty.store.label).read_bytes()
        assert DOG[60:260] in Path(empty.store.label).read_bytes()  # as bytes of images are found there


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_images_are_seen_enlarged_and_judged_by_keyboard(studio: Studio, browser: Any) -> None:
    project = project_of(studio, count=2)
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        loaded = "() => document.querySelectorAll('.picture img').length === 3 && [...document.querySelectorAll('.picture img')].every((img) => img.complete && img.naturalWidth)"
        page.wait_for_function(loaded)
        assert page.evaluate(
            "[...document.querySelectorAll('.picture img')].every((img) => new URL(img.src).origin === location.origin)"
        )
        first = page.locator("#prompt .picture")
        assert first.locator("figcaption").inner_text() == 'A <b>"cat"</b> ⟨U+202E⟩on a mat'
        assert first.locator("img").evaluate("(img) => [img.width, img.height]") == [300, 200]
        nameless = page.get_by_role("button", name="Enlarge the image: Image without a description")
        assert nameless.count() == 1
        # By keyboard: open, larger, whole again, closed; the page's own keys answer nothing meanwhile.
        button = page.get_by_role("button", name='Enlarge the image: A <b>"cat"</b>')
        button.focus()
        page.keyboard.press("Enter")
        zoom = page.locator("#zoom")
        zoom.wait_for()
        assert zoom.locator("output").inner_text() == "whole image"
        page.keyboard.press("+")
        wide = zoom.locator("img").evaluate("(img) => img.clientWidth")
        page.keyboard.press("+")
        assert zoom.locator("img").evaluate("(img) => img.clientWidth") > wide
        page.keyboard.press("0")
        page.keyboard.press("1")
        assert page.locator(".response.chosen").count() == 0
        page.keyboard.press("Escape")
        page.wait_for_function("() => !document.getElementById('zoom').open")
        assert button.evaluate("(node) => node === document.activeElement")
        # By mouse.
        first.locator("img").click()
        zoom.locator("img").click()
        assert zoom.locator("output").inner_text().endswith("%")
        zoom.get_by_role("button", name="Close").click()
        # Shown as it was written, and with what differs marked, they are images still.
        page.keyboard.press("d")
        assert page.locator(".picture img").count() == 3
        page.keyboard.press("d")
        dog = page.locator(".response", has=page.locator("img[alt='A dog']"))
        place = dog.get_attribute("data-place")
        page.keyboard.press("1" if place == "0" else "2")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('stage').dataset.shown === '2'")
        page.wait_for_function("() => document.getElementById('saved').textContent === 'saved'")
        # On a phone nothing is wider than the screen.
        page.set_viewport_size({"width": 375, "height": 700})
        page.wait_for_function(loaded)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert watch.wrong == []
    (record,) = studio.store.comparisons().records
    assert isinstance(record, Comparison)
    assert "A dog" in record.chosen


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is a browser")
def test_a_part_with_an_image_in_it_is_marked_in_a_browser(studio: Studio, browser: Any) -> None:
    question = Question(name="wrong", kind="spans", of="reply", options=("error",))
    project = project_of(studio, questions=(question,))
    with served(studio) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "ann")
        page.goto(f"{base}/label/{project}")
        page.wait_for_function("() => document.querySelectorAll('.markable .picture img').length === 2")
        card = page.locator(".response", has=page.locator("img[alt='A dog']"))
        card.locator(".markable").evaluate(
            "(node) => { const all = new Range(); all.selectNodeContents(node); getSelection().removeAllRanges(); getSelection().addRange(all); }"
        )
        card.locator(".markable").dispatch_event("pointerup")
        card.locator(".marker button").first.click()
        card.locator("mark.shows img").wait_for()
        assert "Here it is: [A dog]" in card.inner_text()
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#nothing:not([hidden])")
        page.wait_for_function("() => document.getElementById('saved').textContent === 'saved'")
        assert watch.wrong == []
    (row,) = [
        row for row in answer_rows(studio, "spans", Filters(projects=("pictures",))).rows if row["spans"]
    ]
    assert row["spans"][0]["end"] == len(row["completion"])
    assert "A dog" in row["completion"]
