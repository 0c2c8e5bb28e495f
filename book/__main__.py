"""Build the site: `python -m book`, which `make docs` calls. The site is build/book/site; open its index.html, or put it on any server.

docs/ is copied, what the pages say of the code is written from it, Zensical makes the site, and every link is checked. Needs the extra `docs`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from book.api import write_api
from book.check import faults
from book.commands import write_commands
from book.pages import REPOSITORY, write_pages

OUT = REPOSITORY / "build" / "book"


def main() -> int:
    """Returns the exit code."""
    pages, site = OUT / "pages", OUT / "site"
    shutil.rmtree(OUT, ignore_errors=True)
    write_pages(pages)
    for file in ("style.css", "worker.js"):
        shutil.copy(REPOSITORY / "book" / file, pages / file)
    settings = yaml.safe_load((REPOSITORY / "book" / "site.yml").read_text(encoding="utf-8"))
    reference = next(part["Reference"] for part in settings["nav"] if "Reference" in part)
    reference += [
        {"Commands": write_commands(pages / "reference" / "commands")},
        {"Python": write_api(pages / "reference")},
    ]
    file = OUT / "site.yml"
    file.write_text(
        yaml.safe_dump(settings | {"docs_dir": "pages", "site_dir": "site"}, sort_keys=False),
        encoding="utf-8",
    )
    command = [
        str(Path(sys.executable).with_name("zensical")),
        "build",
        "--strict",
        "--clean",
        "--config-file",
        str(file),
    ]
    built = subprocess.run(command, cwd=OUT, check=False)
    if built.returncode:
        return built.returncode
    serve_worker(site)
    wrong = sorted(faults(site))
    print(
        "\n".join(wrong)
        if wrong
        else f"{site / 'index.html'}: every link leads somewhere, and nothing is loaded from a network"
    )
    return bool(wrong)


def serve_worker(site: Path) -> None:
    """Put our own script where the offline search would load one from a network."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        ours = os.path.relpath(site / "worker.js", page.parent)
        page.write_text(text.replace("https://unpkg.com/iframe-worker/shim", ours), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
