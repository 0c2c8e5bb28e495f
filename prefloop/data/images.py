"""Images of prompts and answers: checked, made smaller, without metadata, and named by the hash of their bytes. Pillow does the work, as an extra.

What comes in is written by strangers. Only PNG, JPEG, WebP and GIF are opened, of a bounded size, and each is decoded whole before it is kept. What
is kept is a JPEG or a PNG that holds pixels and nothing else: no EXIF (where and by what it was taken), no comments, no profile, nothing behind its
end. A file that is so already, and small enough, is kept byte for byte, so that the same image has the same hash on every machine and after any
number of exports and imports; everything else is written anew.
"""

import hashlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prefloop.errors import InputError
from prefloop.marks import ImageMark

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

Kind = Literal["image/jpeg", "image/png"]
ENDINGS: dict[Kind, str] = {"image/jpeg": ".jpg", "image/png": ".png"}
"""Type of an image -> how the name of its file ends."""
MOST_BYTES = 20 * 2**20
"""Bytes of an image file that is read at most."""
MOST_PIXELS = 50_000_000
"""Pixels of an image that is decoded at most: 200 MB of memory."""
LONGEST_SIDE = 2048
"""Pixels of the longer side of an image that is kept; larger ones are made smaller."""
QUALITY = 90
"""Of JPEG, where one is written anew."""
INSTALL = "run: pip install 'prefloop[images]'"

_READ = ("PNG", "JPEG", "WEBP", "GIF")
_REMEDY = "save it as PNG, JPEG or WebP"
_SIGNS: tuple[tuple[bytes, int, str], ...] = (
    (b"BM", 0, "BMP"),
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"ftypavif", 4, "AVIF"),
    (b"ftypheic", 4, "HEIC"),
    (b"ftypheix", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIF"),
    (b"%PDF", 0, "PDF"),
)
"""Beginnings of files that are no images for us: bytes, where they stand, and what it is."""


class BadImage(Exception):
    """Bytes that are not kept. `remedy` says what would be right."""

    def __init__(self, reason: str, remedy: str = _REMEDY) -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image as it is kept."""

    sha256: str
    """Of `content`."""
    kind: Kind
    width: int
    height: int
    content: bytes

    @property
    def file(self) -> str:
        """A name for its file."""
        return f"{self.sha256}{ENDINGS[self.kind]}"

    def mark(self, alt: str) -> ImageMark:
        """What stands for it in a text."""
        return ImageMark(alt=alt, width=self.width, height=self.height, sha256=self.sha256)


def prepare(content: bytes) -> Image:
    """The image in a file's bytes as it is kept. Raises `BadImage`; `InputError` where Pillow is not installed."""
    try:
        from PIL import Image as pillow
    except ImportError as error:
        raise InputError(f"images need Pillow, which is not installed; {INSTALL}") from error
    if len(content) > MOST_BYTES:
        raise BadImage(
            f"it has {len(content):,} bytes, more than {MOST_BYTES:,}", "save a smaller version of it"
        )
    _refuse_others(content)
    try:
        with pillow.open(io.BytesIO(content), formats=_READ) as opened:
            _check(opened)
            opened.load()
            return _kept(opened, content)
    except (BadImage, InputError):
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise BadImage(_too_many_pixels(), "save a smaller version of it") from error
    except Exception as error:  # what its decoders raise on broken files is of a dozen classes
        raise BadImage(f"it cannot be decoded ({str(error)[:80] or type(error).__name__})") from error


def _refuse_others(content: bytes) -> None:
    if not content:
        raise BadImage("it is empty")
    for sign, at, name in _SIGNS:
        if content.startswith(sign, at):
            raise BadImage(f"it is {name}, which is not read")
    begin = content[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begin.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")):
        raise BadImage("it is SVG, a program more than an image, which is not read")


def _check(opened: "Pixels") -> None:
    """Before anything is decoded: the header alone says how large it is, and whether it moves."""
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise BadImage(f"{_too_many_pixels()}: {width} x {height}", "save a smaller version of it")
    # A phone's JPEG may have a second picture in it (MPO), which is not shown.
    if opened.format != "MPO" and getattr(opened, "is_animated", False):
        raise BadImage("it is animated, and people would judge different frames", "save one frame of it")


def _too_many_pixels() -> str:
    return f"it has more than {MOST_PIXELS:,} pixels"


def _kept(opened: "Pixels", content: bytes) -> Image:
    kind: Kind = "image/jpeg" if opened.format in ("JPEG", "MPO") else "image/png"
    clean = {"JPEG": is_clean_jpeg, "PNG": is_clean_png}.get(opened.format or "")
    usual = opened.mode in ("RGB", "L") if kind == "image/jpeg" else True
    if clean is not None and usual and max(opened.size) <= LONGEST_SIDE and clean(content):
        return _image(kind, opened.size, content)
    if opened.format == "WEBP" and content[12:16] == b"VP8 ":
        kind = "image/jpeg"  # with loss already, and without transparency
    return _written(_upright(opened), kind)


def _image(kind: Kind, size: tuple[int, int], content: bytes) -> Image:
    return Image(
        sha256=hashlib.sha256(content).hexdigest(), kind=kind, width=size[0], height=size[1], content=content
    )


def _upright(opened: "Pixels") -> "Pixels":
    """The pixels as they are to be seen: turned as the metadata says, in the colours of the screen, small enough."""
    from PIL import Image as pillow
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(opened)
    clear = "A" in turned.getbands() or "transparency" in turned.info
    grey = turned.mode in ("1", "L", "I;16", "I;16B", "I", "F") and not clear
    if turned.mode.startswith(("I", "F")):
        # 16 bits a pixel: the upper eight of them.
        turned = turned.point(lambda value: value / 256, "L") if turned.mode != "F" else turned.convert("L")
    profile = turned.info.get("icc_profile")
    if profile and not grey:
        turned = _in_srgb(turned, profile, clear=clear)
    plain = turned.convert("RGBA" if clear else "L" if grey else "RGB")
    plain.thumbnail((LONGEST_SIDE, LONGEST_SIDE), pillow.Resampling.LANCZOS)
    plain.info.clear()
    return plain


def _in_srgb(pixels: "Pixels", profile: bytes, *, clear: bool) -> "Pixels":
    """Colours by the image's own profile, as those of every screen; of a profile that is broken, as they are."""
    from PIL import ImageCms

    mode = "CMYK" if pixels.mode == "CMYK" else "RGBA" if clear else "RGB"
    try:
        own, screen = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        alpha = pixels.convert("RGBA").getchannel("A") if clear else None
        colours = pixels if mode == "CMYK" else pixels.convert("RGB")
        found = ImageCms.profileToProfile(colours, own, screen, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return pixels
    assert found is not None
    if alpha is not None:
        found.putalpha(alpha)
    return found


def _written(pixels: "Pixels", kind: Kind) -> Image:
    if pixels.mode == "RGBA":
        kind = "image/png"
    stream = io.BytesIO()
    if kind == "image/jpeg":
        pixels.save(stream, "JPEG", quality=QUALITY)
    else:
        pixels.save(stream, "PNG")
    content = stream.getvalue()
    assert (is_clean_jpeg if kind == "image/jpeg" else is_clean_png)(content), "what we write must be clean"
    return _image(kind, pixels.size, content)


# Whether a file holds pixels and nothing else

_CHUNKS: dict[bytes, int] = {
    b"IHDR": 13, b"PLTE": 768, b"tRNS": 256, b"IDAT": 2**31, b"IEND": 0, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"sBIT": 4,
}  # fmt: skip
"""Chunks of a PNG that say how its pixels look -> bytes of one at most."""
_TABLES = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD})
"""Markers of a JPEG's frame (baseline, extended, progressive), tables, scans and restart interval."""


def is_clean_png(content: bytes) -> bool:
    """Whether a PNG has no chunk but those for its pixels, and ends where it says."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    at = 8
    while at + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        if length > _CHUNKS.get(name, -1):
            return False
        at += 12 + length
        if name == b"IEND":
            return at == len(content)
    return False


def is_clean_jpeg(content: bytes) -> bool:
    """Whether a JPEG has no segment but a plain JFIF header and those for its pixels, and ends where it says."""
    if not content.startswith(b"\xff\xd8") or not content.endswith(b"\xff\xd9"):
        return False
    for marker, at, length in _segments(content):
        jfif = marker == 0xE0 and length == 16 and content.startswith(b"JFIF\0", at + 4)
        if marker == 0xD9:
            return at + 2 == len(content)
        if not jfif and marker not in _TABLES:
            return False
    return False


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, where it begins and the length it states (0 of the end), up to the end or to what is no segment."""
    at = 2
    while at + 4 <= len(content) or content[at : at + 2] == b"\xff\xd9":
        if content[at] != 0xFF:
            return
        marker = content[at + 1]
        if marker == 0xD9:
            yield marker, at, 0
            return
        (length,) = struct.unpack(">H", content[at + 2 : at + 4])
        yield marker, at, length
        at += 2 + length
        if marker == 0xDA:  # the scan's data follow, in which 0xFF is followed by 0 or by a restart
            while (at := content.find(b"\xff", at)) >= 0 and content[at + 1 : at + 2] in _IN_SCAN:
                at += 2
            if at < 0:
                return


_IN_SCAN = frozenset([b"\0", *(bytes([marker]) for marker in range(0xD0, 0xD8))])
