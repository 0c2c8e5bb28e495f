"""Small images for tests, made here: no file of anybody's."""

import base64
import io
from typing import Any

from PIL import ExifTags, Image, ImageDraw
from PIL.PngImagePlugin import PngInfo


def pixels(width: int = 8, height: int = 6, *, shade: int = 40, mode: str = "RGB") -> Image.Image:
    """A picture in which no two rows are the same, so that a turned one is another."""
    made = Image.new("RGB", (width, height))
    for x in range(width):
        for y in range(height):
            made.putpixel((x, y), (shade, x * 20 % 256, y * 30 % 256))
    return made.convert(mode)


def encoded(made: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file's bytes."""
    stream = io.BytesIO()
    made.save(stream, kind, **options)
    return stream.getvalue()


def png(**options: Any) -> bytes:
    """A small PNG."""
    return encoded(pixels(**options))


def data_url(content: bytes, kind: str = "image/png") -> str:
    """An image as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def with_place(turned: int = 6) -> bytes:
    """A JPEG as a phone takes it: where and by what it was taken, and how it is to be turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    exif[ExifTags.Base.Model] = "Secretcam 3"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[2] = (52.0, 31.0, 12.0)
    return encoded(pixels(80, 40), "JPEG", exif=exif, comment=b"my garden")


def with_text() -> bytes:
    """A PNG with a text of its author's in it."""
    info = PngInfo()
    info.add_text("Author", "Secret Person")
    return encoded(pixels(), "PNG", pnginfo=info)


def house(*, door: bool) -> bytes:
    """A drawing of a house, with a red door or without one."""
    made = Image.new("RGB", (480, 320), "#bfe3ff")
    draw = ImageDraw.Draw(made)
    draw.rectangle((0, 250, 480, 320), fill="#7cb46b")
    draw.rectangle((140, 130, 340, 270), fill="#f3e3c3", outline="#6b5b45", width=3)
    draw.polygon([(120, 130), (240, 50), (360, 130)], fill="#8a5a44")
    draw.rectangle((165, 160, 205, 200), fill="#dff3ff", outline="#6b5b45", width=3)
    if door:
        draw.rectangle((250, 185, 300, 270), fill="#c0392b", outline="#6b1f16", width=3)
    return encoded(made)
