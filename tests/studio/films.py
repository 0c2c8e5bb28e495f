"""Short real films, recorded from a canvas by the browser itself: no codec is needed here."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_RECORD = r"""
async (fall) => {
  const canvas = document.createElement("canvas");
  canvas.width = 320; canvas.height = 200;
  const pen = canvas.getContext("2d");
  const stream = canvas.captureStream(25), recorder = new MediaRecorder(stream, { mimeType: "video/webm;codecs=vp8" });
  const pieces = [];
  recorder.ondataavailable = (event) => pieces.push(event.data);
  const done = new Promise((end) => { recorder.onstop = end; });
  recorder.start();
  for (let frame = 0; frame < 20; frame++) {
    const angle = fall ? frame / 10 : Math.PI - frame * Math.PI / 20;
    pen.fillStyle = "#f4efe4"; pen.fillRect(0, 0, 320, 200);
    pen.strokeStyle = "#0f6b5c"; pen.lineWidth = 10; pen.lineCap = "round";
    pen.beginPath(); pen.moveTo(160, 110); pen.lineTo(160 + 80 * Math.sin(angle), 110 - 80 * Math.cos(angle)); pen.stroke();
    pen.fillStyle = "#333"; pen.fillRect(130, 105, 60, 16);
    await new Promise((next) => setTimeout(next, 30));
  }
  recorder.stop();
  await done;
  const bytes = new Uint8Array(await new Blob(pieces).arrayBuffer());
  return btoa(String.fromCharCode(...bytes));
}
"""


def write_films(browser: Any, folder: Path, names: Sequence[str]) -> None:
    """A film for each name: the first goes up, the others fall."""
    page = browser.new_page()
    for number, name in enumerate(names):
        (folder / f"{name}.webm").write_bytes(base64.b64decode(page.evaluate(_RECORD, number > 0)))
    page.close()
