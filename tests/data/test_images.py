"""What is kept of an image: pixels and nothing else; and what is not kept at all."""

import hashlib
import io
import random
import sys

import pytest
from PIL import Image

from prefloop.data import images as kept_as
from prefloop.data.images import BadImage, is_clean_jpeg, is_clean_png, prepare
from prefloop.errors import InputError
from tests.images import encoded, pixels, png, with_place, with_text


def named(value: object) -> str:
    """An image in a test's name."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def clear() -> Image.Image:
    """A picture that one sees through."""
    made = pixels(mode="RGBA")
    made.putalpha(90)
    return made


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (png(), "image/png"),
        (encoded(pixels(mode="P")), "image/png"),
        (encoded(pixels(80, 60), "JPEG"), "image/jpeg"),
        (encoded(pixels(80, 60), "JPEG", progressive=True, quality=60), "image/jpeg"),
        (encoded(pixels(80, 60, mode="L"), "JPEG"), "image/jpeg"),
    ],
    ids=named,
)
def test_a_file_of_pixels_alone_is_kept_byte_for_byte(content: bytes, kind: str) -> None:
    image = prepare(content)
    assert (image.content, image.kind) == (content, kind)
    assert image.sha256 == hashlib.sha256(content).hexdigest()
    assert (image.width, image.height) == opened(content).size


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (with_text(), "image/png"),
        (with_place(), "image/jpeg"),
        (encoded(pixels(mode="CMYK"), "JPEG"), "image/jpeg"),
        (encoded(pixels(), "WEBP"), "image/jpeg"),
        (encoded(pixels(), "WEBP", lossless=True), "image/png"),
        (encoded(clear(), "WEBP"), "image/png"),
        (encoded(pixels(mode="P"), "GIF"), "image/png"),
        (encoded(Image.new("I;16", (5, 4), 30_000)) + b" ", "image/png"),
        (png() + b"<script>alert(1)</script>", "image/png"),
        (encoded(pixels(), "JPEG") + b"PK\3\4 an archive behind it", "image/jpeg"),
        (encoded(pixels(), "JPEG") + b"<script>alert(1)</script>\xff\xd9", "image/jpeg"),
    ],
    ids=named,
)
def test_everything_else_is_written_anew_and_then_kept_as_it_is(content: bytes, kind: str) -> None:
    image = prepare(content)
    assert image.kind == kind
    assert (is_clean_png if kind == "image/png" else is_clean_jpeg)(image.content)
    assert prepare(image.content) == image  # an export imported again is the same image
    for secret in (b"Secret", b"my garden", b"script", b"archive", b"Exif"):
        assert secret not in image.content


def test_an_image_is_turned_as_its_metadata_says_before_that_is_gone() -> None:
    assert b"Secretcam" in with_place()
    image = prepare(with_place(turned=6))
    assert (image.width, image.height) == (40, 80)
    plain = opened(with_place()).rotate(-90, expand=True)
    there = opened(image.content).convert("RGB")
    seen, shown = (made.crop((20, 40, 21, 41)).tobytes() for made in (plain, there))
    assert max(abs(a - b) for a, b in zip(seen, shown, strict=True)) < 30
    assert not dict(there.getexif())


def test_the_colours_of_a_profile_become_those_of_the_screen() -> None:
    from PIL import ImageCms

    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    wide = encoded(
        pixels(), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    image = prepare(wide)
    assert "icc_profile" not in opened(image.content).info
    assert list(opened(image.content).convert("RGB").tobytes()) == list(pixels().tobytes())
    # One that does not fit the pixels, or is none, is left out.
    for profile in (grey.tobytes(), b"no profile"):
        assert list(opened(prepare(encoded(pixels(), "PNG", icc_profile=profile)).content).tobytes()) == list(
            pixels().tobytes()
        )


def test_transparency_and_grey_are_kept() -> None:
    there = opened(prepare(encoded(clear(), "WEBP", lossless=True)).content)
    assert there.getpixel((1, 1)) == clear().getpixel((1, 1))
    assert opened(prepare(encoded(pixels(mode="L"), "GIF")).content).size == (8, 6)
    deep = opened(prepare(encoded(Image.new("I;16", (5, 4), 30_000)) + b" ").content)
    assert deep.getpixel((0, 0)) == 30_000 // 256


def test_a_large_image_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_as, "LONGEST_SIDE", 50)
    image = prepare(encoded(pixels(200, 100)))
    assert (image.width, image.height) == (50, 25) == opened(image.content).size
    assert prepare(encoded(pixels(50, 50))).width == 50


FRAMES = [pixels(shade=shade) for shade in (0, 120, 240)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"not an image", "cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is SVG"),
        (b"\xef\xbb\xbf <?xml version='1.0'?><svg/>", "it is SVG"),
        (encoded(pixels(), "BMP"), "it is BMP"),
        (encoded(pixels(), "TIFF"), "it is TIFF"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 30, "it is HEIC"),
        (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "animated"),
        (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "animated"),
        (encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "animated"),
        (encoded(pixels(80, 60), "JPEG")[:-200], "truncated"),
        (png()[:-30], "cannot be decoded"),
        (encoded(Image.new("1", (10_000, 9_000))), "more than 50,000,000 pixels"),
        (encoded(Image.new("1", (20_000, 20_000))), "more than 50,000,000 pixels"),
    ],
    ids=named,
)
def test_what_is_not_kept(content: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as told:
        prepare(content)
    assert told.value.remedy


def test_too_many_bytes_are_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_as, "MOST_BYTES", 100)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(BadImage, match="more than 100"):
        prepare(png(width=30, height=30))


def test_a_bomb_is_refused_by_its_header_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = png()
    monkeypatch.setattr(kept_as, "MOST_PIXELS", 40)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(BadImage, match="8 x 6"):
        prepare(content)


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    content = png()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"pip install 'prefloop\[images\]'"):
        prepare(content)


def test_broken_files_are_refused_or_kept_clean_and_never_crash() -> None:
    draw = random.Random(0)
    whole = [
        png(),
        with_text(),
        encoded(pixels(40, 30), "JPEG"),
        encoded(pixels(), "WEBP"),
        encoded(pixels(), "GIF"),
    ]
    kept = 0
    for _ in range(400):
        content = bytearray(draw.choice(whole))
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            image = prepare(bytes(content[: draw.choice((len(content), draw.randrange(len(content)) + 1))]))
        except BadImage:
            continue
        kept += 1
        assert is_clean_png(image.content) or is_clean_jpeg(image.content)
        opened(image.content).load()
    assert 20 < kept < 380  # some of either
