"""Images of rows, from every form in which the field writes them to a store and out of it again; and refused where text alone is read."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop import data
from prefloop.data import (
    Images,
    load_comparisons,
    load_demonstrations,
    load_prompts,
    load_records,
    write_jsonl,
)
from prefloop.data.importing import import_records
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.judges.prompts import conversation
from prefloop.marks import ImageMark, images_in, in_words, split
from prefloop.records import Comparison, Message, Prompt
from tests.images import data_url, encoded, pixels, png, with_place

PNG = png()
B64 = base64.b64encode(PNG).decode()
TEXT = {"type": "text", "text": "What is it?"}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def pair(prompt: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": "a cat", "rejected": "a dog", **more}


def read(path: Path, **reading: Any) -> tuple[Any, list[bytes]]:
    """The one record of a file, and the bytes of its images in their order."""
    with Images() as images:
        loaded = load_records(path, images=images, **reading)
        contents = {image.sha256: image.content for image in images}
    (record,) = loaded.records
    return record, [contents[mark.sha256] for mark in images_in(record)]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": data_url(PNG)},
        {"type": "image", "image": "cat.png"},
        {"type": "image", "path": "cat.png", "text": None},
        {"type": "image", "url": data_url(PNG)},
        {"type": "image", "base64": B64},
        {"type": "image_url", "image_url": {"url": data_url(PNG)}},
        {"type": "image_url", "image_url": data_url(PNG)},
        {"type": "input_image", "image_url": data_url(PNG)},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}},
    ],
)
def test_a_part_of_a_message_holds_an_image(tmp_path: Path, part: dict[str, Any]) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    record, contents = read(written(tmp_path, pair(user({**part, "alt": "A [grey]\ncat"}, TEXT))))
    assert contents == [PNG]
    mark, text = split(record.prompt.content[0].content)
    assert isinstance(mark, ImageMark)
    assert (mark.alt, mark.width, mark.height, text) == ("A [grey] cat", 8, 6, "What is it?")
    assert in_words(record.prompt.content[0].content) == "[image: A [grey] cat] What is it?"


ONE, TWO = png(shade=1), png(shade=2)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (user({"type": "image"}, TEXT, {"type": "image"}), "[image] What is it? [image]"),
        (user(TEXT), "[image] [image] What is it?"),
        ([{"role": "user", "content": "Which?"}], "[image] [image] Which?"),
        ("Which?", "[image] [image] Which?"),
        ("First <image>, then <image>.", "First [image], then [image]."),
        ("One <image> only", "[image] [image] One <image> only"),
    ],
)
def test_a_column_of_images_fills_the_places_in_the_texts(tmp_path: Path, prompt: Any, expected: str) -> None:
    (tmp_path / "two.png").write_bytes(TWO)
    record, contents = read(written(tmp_path, pair(prompt, images=[data_url(ONE), "two.png"])))
    assert contents == [ONE, TWO]
    assert in_words(record.prompt.content[-1].content) == expected


def test_the_column_goes_on_in_the_completions(tmp_path: Path) -> None:
    answers = {
        name: [{"role": "assistant", "content": [{"type": "image"}]}] for name in ("chosen", "rejected")
    }
    three = png(shade=3)
    row = {
        "prompt": user({"type": "image"}, TEXT),
        **answers,
        "images": [data_url(each) for each in (ONE, TWO, three)],
    }
    record, contents = read(written(tmp_path, row))
    assert contents == [ONE, TWO, three]
    assert in_words(record.chosen) == in_words(record.rejected) == "[image]"


def test_two_dialogues_both_begin_with_the_image(tmp_path: Path) -> None:
    def dialogue(answer: str) -> list[dict[str, Any]]:
        return [*user({"type": "image"}, TEXT), {"role": "assistant", "content": answer}]

    for row in (
        {"chosen": dialogue("cat"), "rejected": dialogue("dog"), "images": [data_url(ONE)]},
        {
            "chosen": [*user(TEXT), dialogue("cat")[-1]],
            "rejected": [*user(TEXT), dialogue("dog")[-1]],
            "image": data_url(ONE),
        },
    ):
        record, contents = read(written(tmp_path, row))
        assert (record.chosen, record.rejected, contents) == ("cat", "dog", [ONE])


def test_bytes_in_parquet_as_data_sets_have_them(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    rows = [
        {
            "question": "What is it?",
            "better": "cat",
            "worse": "dog",
            "image": {"bytes": with_place(), "path": "IMG_1.jpg"},
        }
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    columns = ("prompt=question", "chosen=better", "rejected=worse")
    record, (content,) = read(tmp_path / "pairs.parquet", columns=columns)
    assert in_words(record.prompt.content[0].content) == "[image] What is it?"
    assert b"Secretcam" not in content


def test_images_of_a_saved_data_set_are_not_decoded_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "images": datasets.Sequence(datasets.Image())
            if not hasattr(datasets, "List")
            else datasets.List(datasets.Image()),
            "prompt": datasets.Value("string"),
            "chosen": datasets.Value("string"),
            "rejected": datasets.Value("string"),
        }
    )
    rows = [{**pair("What?"), "images": [{"bytes": PNG, "path": None}]}]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("it was decoded"))
    _, contents = read(tmp_path / "saved")
    assert contents == [PNG]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (pair(user({"type": "image", "image": "https://example.org/a.png"}, TEXT)), r"`prompt\[0\].content\[0\].image` is 'https://example.org/a.png': images are never fetched"),
        (pair(user({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}})), "images are never fetched from elsewhere"),
        (pair("x", images=["file:///etc/passwd"]), "images are never fetched"),
        (pair("x", images=["../outside.png"]), "it lies outside the folder"),
        (pair("x", images=["/etc/hostname.png"]), "it lies outside the folder"),
        (pair("x", images=["link.png"]), "it lies outside the folder"),
        (pair("x", images=["none.png"]), "this file cannot be read from .*No such file"),
        (pair("x", images=["text.png"]), "cannot be decoded"),
        (pair("x", image=data_url(b"<svg/>", "image/svg+xml")), "it is SVG"),
        (pair("x", image="data:text/html,<b>"), "is not an image in base64"),
        (pair("x", image="data:image/png;base64,???"), "it is not base64"),
        (pair(user({"type": "image"}, TEXT)), "it is the place of image 1, and the column `images` has 0"),
        (pair(user({"type": "image"}, TEXT), images=[data_url(ONE), data_url(TWO)]), "the texts have a place for 1 of them"),
        (pair(user({"type": "image", "image": "a.png", "url": "b.png"})), "it holds several images"),
        (pair(user({"type": "image", "image": {"bytes": None, "path": None}})), "it holds no image"),
        (pair(user({"type": "image", "image": 7})), "it is no image"),
        (pair(user({"type": "image", "image": data_url(PNG), "alt": "x" * 2001})), "2,001 characters"),
        (pair(user({"type": "audio", "audio": "x.wav"})), "without this part the message would say something else"),
        (pair("x", images=[data_url(ONE)] * 33), "a row has 32 at most"),
        (pair(f"See {ImageMark(alt='', width=8, height=6, sha256='0' * 64)}"), "it spells the mark of an image"),
    ],
)  # fmt: skip
def test_what_is_refused_says_where_and_what_would_be_right(
    tmp_path: Path, row: dict[str, Any], says: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "text.png").write_text("no image")
    with pytest.raises(InputError, match=says) as told, Images() as images:
        load_records(written(folder, row), images=images)
    assert "pairs.jsonl:1: `" in str(told.value)


def test_an_upload_names_no_file_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    path = written(tmp_path, pair("x", images=["cat.png"]))
    with (
        pytest.raises(InputError, match="an uploaded file cannot name others"),
        Images(files=False) as images,
    ):
        load_records(path, images=images)
    assert len(read(path)[1]) == 1


@pytest.mark.parametrize(
    "row",
    [
        pair(user({"type": "image", "image": data_url(PNG)}, TEXT)),
        pair(user(TEXT), images=[data_url(PNG)]),
        pair("x", image="cat.png"),
        pair("x", image={"bytes": None, "path": "cat.png"}),
        pair("x", image="https://example.org/cat"),
        pair(f"See {ImageMark(alt='', width=8, height=6, sha256='0' * 64)}"),
    ],
)
@pytest.mark.parametrize(
    "load",
    [load_comparisons, load_prompts, lambda path: load_demonstrations(path, from_chosen=True), load_records],
)
def test_whoever_reads_text_alone_refuses_the_row(
    tmp_path: Path, row: dict[str, Any], load: Callable[[Path], Any]
) -> None:
    with pytest.raises(InputError, match=r"pairs.jsonl:1: `(prompt|images?)"):
        load(written(tmp_path, row))


def test_a_column_about_images_that_holds_none_is_only_not_used(tmp_path: Path) -> None:
    loaded = load_comparisons(
        written(tmp_path, pair("x", image=17), pair("y", image=None), pair("z", image="a cat"))
    )
    assert loaded.summary.unused_columns == ("image",)


def comparison(mark: ImageMark, answer: ImageMark | str = "a cat") -> Comparison:
    prompt = Prompt(content=(Message(role="user", content=f"Look: {mark} What is it?"),))
    return Comparison(prompt=prompt, chosen=str(answer), rejected="a dog", annotator="ann")


def test_judges_and_tokenizers_refuse_what_they_cannot_see() -> None:
    from prefloop.text.tokens import check_text

    record = comparison(ImageMark(alt="A cat", width=8, height=6, sha256="a" * 64))
    with pytest.raises(InputError, match=r"holds an image of 'A cat' .* which a judge does not see"):
        conversation(record.prompt)
    with pytest.raises(InputError, match=r"the prompt holds an image .* a text model does not see"):
        check_text(record.prompt.content[0].content, "the prompt")  # type: ignore[union-attr]


@pytest.mark.parametrize("images", ["folder", "inline"])
def test_through_the_store_into_a_file_and_back(store: Store, tmp_path: Path, images: Any) -> None:
    photo = encoded(pixels(80, 60), "JPEG")
    prompt = user({"type": "image", "image": data_url(PNG), "alt": 'A "cat"'}, TEXT)
    answer = [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Like "}, {"type": "image", "image": data_url(photo)}],
        }
    ]
    path = written(
        tmp_path, {**pair(prompt), "chosen": answer}, pair([{"role": "user", "content": "No image"}])
    )
    with Images() as given:
        loaded = load_records(path, images=given)
        import_records(store, loaded, images=given)
        import_records(store, loaded, images=given)  # adds nothing
    assert store.counts()["image"] == 2
    found = store.comparisons().records
    assert [list(map(str, images_in(record))) for record in found] == [
        list(map(str, images_in(r))) for r in loaded.records
    ]
    mark, other = images_in(found[0])
    assert store.image(mark.sha256).content == PNG
    assert (mark.alt, store.image(other.sha256).kind) == ('A "cat"', "image/jpeg")

    out = tmp_path / "out" / "pairs.jsonl"
    write_jsonl(found, out, image=store.image, images=images)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [len(row["images"]) for row in rows] == [2, 0]
    assert rows[0]["prompt"] == [{"role": "user", "content": [{"type": "image", "alt": 'A "cat"'}, TEXT]}]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == (["pairs-images", "pairs.jsonl"] if images == "folder" else ["pairs.jsonl"])
    with Images() as again:
        back = load_records(out, images=again)
        assert {image.content for image in again} == {PNG, photo}
    assert data.content_hash(back.records) == data.content_hash(found)


def test_other_formats_of_the_same(store: Store, tmp_path: Path) -> None:
    with Images() as images:
        loaded = load_records(
            written(tmp_path, pair(user({"type": "image", "image": data_url(PNG)}, TEXT), annotator="ann")),
            images=images,
        )
        import_records(store, loaded, images=images)
    (record,) = store.comparisons().records
    out = tmp_path / "implicit.jsonl"
    write_jsonl([record], out, format="implicit", image=store.image)
    with Images() as images:
        assert load_records(out, images=images).records == (record,)
    with pytest.raises(InputError, match="a transcript has no place"):
        write_jsonl([record], tmp_path / "hh.jsonl", format="hh", image=store.image)
    in_answer = comparison(next(images_in(record)), next(images_in(record)))
    with pytest.raises(InputError, match="the images of both dialogues in one column"):
        write_jsonl([in_answer], out, format="implicit", image=store.image)
    with pytest.raises(InputError, match="the records hold images, which are not at hand here"):
        write_jsonl([record], tmp_path / "text.jsonl")


def test_records_whose_images_nobody_has_are_not_stored(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path, pair("x", images=[data_url(PNG)]))
    with Images() as images:
        loaded = load_records(path, images=images)
    with pytest.raises(InputError, match="hold 1 images that are not at hand"):
        import_records(store, loaded)
    assert store.counts()["prompt"] == store.counts()["image"] == 0


def test_an_image_is_never_changed_and_an_erased_one_is_missed_by_name(store: Store, tmp_path: Path) -> None:
    from sqlalchemy import text

    with Images() as images:
        import_records(
            store,
            load_records(written(tmp_path, pair("x", images=[data_url(PNG)])), images=images),
            images=images,
        )
    (mark,) = images_in(store.prompts()[0])
    with pytest.raises(Exception, match="refused"), store.database.write() as session:
        session.execute(text("UPDATE image SET width = 9"))
    assert store.erase_image(mark.sha256) == 1
    for lost in (store.image, store.erase_image):
        with pytest.raises(InputError, match="is not in the store"):
            lost(mark.sha256)
    with pytest.raises(InputError, match="it was erased, or"):
        write_jsonl(store.comparisons().records, tmp_path / "out.jsonl", image=store.image)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_check_counts_records_with_images_and_names_bad_ones(tmp_path: Path) -> None:
    report = data.check(
        written(tmp_path, pair("x", images=[data_url(PNG)]), pair("y"), pair("z", images=["none.png"]))
    )
    assert "records with images: 1" in " ".join(report.summary.notes)
    assert [row.field for row in report.summary.bad] == ["images[0]"]
    assert report.summary.unused_columns == ()


def test_marks_in_any_text_are_read_as_they_were_written() -> None:
    mark = ImageMark(alt=r"a \ [b] ](x)", width=10, height=20, sha256="ab" * 32)
    text = f"![no mark](elsewhere){mark}{mark}\n![](prefloop-image:1x1:short)"
    assert split(text) == ["![no mark](elsewhere)", mark, mark, "\n![](prefloop-image:1x1:short)"]
    assert "".join(map(str, split(text))) == text
    assert split("") == []
