"""The page: complete, self-contained, and safe against what models say."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prefloop.errors import InputError
from prefloop.evaluation.metrics_log import read_metrics
from prefloop.evaluation.report import build_report, collect, write_report
from prefloop.evaluation.summary import EvaluatedCompletion
from prefloop.evaluation.visible_text import shown, shown_html
from tests.evaluation.made_up import HOSTILE

VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """Elements of a page, its text, and whether they nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def test_everything_is_on_the_page(project: Path):
    path = write_report(project)
    assert path == project / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for said in (
        *(
            "Results",
            "Win rate vs SFT",
            "KL to SFT",
            "nats per completion",
            "Repetition",
            "Perplexity under SFT",
        ),
        *("Before and after", "How do I keep bread fresh?", "My tea is cold. What now?", "(nothing)"),
        *("Calibration", "ceiling 90\u00a0%", "Accuracy by length difference", "Best of n", "Head to head"),
        *(
            "Margin of implicit rewards",
            "KL to the reference",
            "Lineage",
            "10 % flipped",
            "Time of each stage",
        ),
        *(
            "prefloop run toy --out runs/toy --seed 0",
            "estimator: k1",
            "4 min 34 s",
            "1,843 MiB",
            "mode collapse",
        ),
        *("Gold is the generator", "18 more prompts", "Clipping", "grad_norm"),
    ):
        assert said in page.text, said
    assert "Not in this report" not in page.text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for tag, a in page.elements if tag == "a"}
    assert {f"#{name}" for name in ids} >= targets


def test_the_same_data_give_the_same_page(project: Path):
    assert build_report(collect(project)) == build_report(collect(project))


def test_nothing_is_loaded_and_nothing_runs(project: Path):
    html = write_report(project).read_text(encoding="utf-8")
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in {
            "script",
            "link",
            "iframe",
            "object",
            "embed",
            "img",
            "form",
            "base",
            "video",
            "audio",
        }
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_hostile_completions_are_shown_as_text(project: Path):
    html = write_report(project).read_text(encoding="utf-8")
    page = Page(html)
    assert "<script" not in html
    assert "\u202e" not in html
    assert "\u200b" not in html
    assert "\x00" not in html
    for said in HOSTILE:
        assert shown(said) in page.text
    assert not any(tag == "h1" for tag, _ in page.elements[page.elements.index(("main", {})) :])


def test_hostile_names_and_summaries_are_shown_as_text(project: Path):
    data = collect(project)
    assert data.summary is not None
    assert data.evaluation is not None
    evil = '"><script>x</script>\u202e{{ 1 }}'
    first, second, third = data.summary.policies
    one, two, three = data.evaluation.policies
    summary = replace(
        data.summary,
        recipe=evil,
        alarms=(evil,),
        notes=(evil,),
        commands=(evil,),
        settings={evil: evil},
        versions={evil: evil},
        units={"kl": evil},
        policies=(first, replace(second, name=evil, checkpoint=evil, further={evil: second.kl}), third),
    )
    evaluation = replace(data.evaluation, lineage=evil, policies=(one, replace(two, name=evil), three))
    html = build_report(replace(data, project=evil, summary=summary, evaluation=evaluation, missing=(evil,)))
    page = Page(html)
    assert "<script" not in html
    assert "\u202e" not in html
    assert not any(
        "x" in name for _, attributes in page.elements for name in attributes if name.startswith('"')
    )


def test_every_drawing_is_well_formed(project: Path):
    html = write_report(project).read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) > 20
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_light_and_dark(project: Path):
    html = write_report(project).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in html
    assert ":root:has(#theme-dark:checked)" in html
    assert ":root:has(#theme-light:checked)" in html
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", html))
    light = set(re.findall(r"(--[a-z0-9-]+):", html.split("@media (prefers-color-scheme: dark)")[0]))
    assert used <= light


def test_missing_pieces_are_named_not_fatal(project: Path):
    (project / "summary.json").unlink()
    shutil.rmtree(project / "dpo")
    page = Page(write_report(project).read_text(encoding="utf-8"))
    assert "There is no summary.json" in page.text
    assert "There is no dpo/metrics.jsonl, so the curves of DPO are left out." in page.text
    assert "Before and after" in page.text
    (project / "evaluation.json").unlink()
    page = Page(write_report(project).read_text(encoding="utf-8"))
    assert "Before and after" not in page.text
    assert "KL to the reference" in page.text


def test_a_summary_alone_makes_a_page(project: Path):
    for name in ("pretrain", "sft", "reward", "ppo", "dpo"):
        shutil.rmtree(project / name)
    (project / "evaluation.json").unlink()
    page = Page(write_report(project).read_text(encoding="utf-8"))
    assert "How the texts changed" in page.text
    assert "Win rate against SFT" in page.text


def test_folders_that_are_no_project(tmp_path: Path, project: Path):
    with pytest.raises(InputError, match="does not exist"):
        collect(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        collect(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no summary\.json"):
        collect(tmp_path / "empty")
    (project / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary\.json:1: not JSON"):
        write_report(project)
    assert not (project / "report.html").exists()


def test_a_score_of_zero_is_a_score(project: Path):  # C7
    data = collect(project)
    assert data.evaluation is not None
    zero = EvaluatedCompletion(text="x", gold=0.0, proxy=0.0, tokens=0, ended=False)
    policies = tuple(replace(p, completions=((zero,), *p.completions[1:])) for p in data.evaluation.policies)
    html = build_report(replace(data, evaluation=replace(data.evaluation, policies=policies)))
    assert "<span>gold 0</span><span>reward model 0</span><span>0 tokens</span>" in html


def test_metrics_log(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 1, "time": 5.0, "loss": 2.0, "a/b": 1},
        {"step": 2, "loss": None, "note": "text", "flag": True, "list": [1]},
        {"step": 2, "accuracy": 0.5},
        {"loss": 3.0},
        {"step": 1, "loss": 1.5},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + '\n\n{"step": 3, "lo')
    log = read_metrics(path)
    assert log.steps == (1, 2)
    assert log.values["loss"][0] == 1.5  # a resumed run wrote this step again
    assert log.values["loss"][1] != log.values["loss"][1]
    assert log.values["accuracy"][1] == 0.5
    assert set(log.values) == {"loss", "a/b", "accuracy"}
    assert log.unreadable == (4, 7)
    assert log.has("a/b")
    assert not log.has("nothing")


def test_a_half_written_line_is_said(project: Path):
    with (project / "ppo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "sco')
    page = Page(write_report(project).read_text(encoding="utf-8"))
    assert "In ppo/metrics.jsonl line 61 is not readable and left out." in page.text


def test_hidden_characters_are_spelt_out():
    assert (
        shown("a\u202eb\u200bc\x00\r\n\td\ufffe\ud800") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+0000⟩\n\td⟨U+FFFE⟩⟨U+D800⟩"
    )
    assert "RIGHT-TO-LEFT OVERRIDE" in shown_html("\u202e")
    assert shown_html("<b>\"'&") == "&lt;b&gt;&quot;&#x27;&amp;"
    assert shown("naïve 中文 🙂") == "naïve 中文 🙂"


def test_report_starts_without_torch():
    code = "import sys, prefloop.evaluation; print(sorted({'torch', 'transformers', 'scipy.stats'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_browser_sees_no_injection(project: Path, tmp_path: Path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    path = write_report(project)
    switches = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    done = subprocess.run(
        [browser, *switches.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    page = Page(done.stdout)
    assert "<title>prefloop report: toy</title>" in done.stdout
    assert not any(tag in {"script", "img", "iframe"} for tag, _ in page.elements)
    assert "broken out" in page.text
