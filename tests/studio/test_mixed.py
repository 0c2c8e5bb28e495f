"""Whatever is imported can be exported: chats and plain texts in a file each; a download that fails says why."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.data import load_comparisons
from prefloop.data.store import Judgement, Store
from prefloop.studio import exchange
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.web import Person

CHAT = {"prompt": [{"role": "user", "content": "hi"}], "chosen": "well", "rejected": "badly"}
TEXT = {"prompt": "once", "chosen": " upon", "rejected": " no"}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    file = tmp_path / "mixed.jsonl"
    file.write_text(f"{json.dumps(CHAT)}\n{json.dumps(TEXT)}\n")
    return file


def judged(store: Store, mixed: Path) -> int:
    """A project with both kinds of prompts, all judged."""
    studio = Studio(store)
    project = studio.create_project(ProjectSettings(name="P")).id
    exchange.import_file(studio, project, mixed)
    ann = store.add_annotator("ann")
    store.add_judgements(
        [Judgement(item=item.id, annotator=ann, choice="a", order_shown=(0, 1)) for item in store.items()]
    )
    return project


def test_chats_and_texts_are_exported_to_a_file_each(
    store_url: str, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(store_url) as store:
        judged(store, mixed)
    for command, out in (("label", tmp_path / "l.jsonl"), ("data", tmp_path / "d.jsonl.gz")):
        assert main([command, "export", "--store", store_url, "--out", str(out)]) == 0
        said = capsys.readouterr().out
        stem, _, ending = out.name.partition(".jsonl")
        files = [tmp_path / f"{stem}-{form}.jsonl{ending}" for form in ("chat", "text")]
        for file, plain in zip(files, (False, True), strict=True):
            assert str(file) in said
            (record,) = load_comparisons(file).records
            assert isinstance(record.prompt.content, str) == plain
            if command == "label":
                assert exchange.verify(file)["rows"] == 1
        assert not out.exists()


def test_a_download_of_both_is_an_archive_and_one_that_fails_says_why(store: Store, mixed: Path) -> None:
    studio = Studio(store)
    boss = Person(studio, "boss", "admin")
    empty = studio.create_project(ProjectSettings(name="empty")).id
    page = boss.client.get(
        f"/admin/projects/{empty}/export?kind=comparisons", headers={"accept": "text/html"}
    )
    assert page.status_code == 422
    assert page.headers["content-type"].startswith("text/html")
    assert "no comparisons to export" in page.text
    assert "content-disposition" not in page.headers
    project = judged(store, mixed)
    shown = boss.client.get(f"/admin/projects/{project}").text
    assert f'href="/admin/projects/{project}/export?kind=comparisons"' in shown
    assert " download" not in shown
    for address in (f"/admin/projects/{project}/export", f"/api/v1/projects/{project}/export"):
        answer = boss.client.get(address)
        assert answer.headers["content-disposition"] == f'attachment; filename="comparisons-{project}.zip"'
        with zipfile.ZipFile(io.BytesIO(answer.content)) as files:
            stem = f"comparisons-{project}"
            assert files.namelist() == [
                f"{stem}-{form}.jsonl{end}" for form in ("chat", "text") for end in ("", ".manifest.json")
            ]
            assert json.loads(files.read(f"{stem}-chat.jsonl"))["prompt"] == CHAT["prompt"]
