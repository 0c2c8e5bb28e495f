"""The figures of the book: `python -m book.figures` writes docs/figures/. The floors are those that import-linter holds, read from pyproject.toml."""

import tomllib
from collections.abc import Iterator, Sequence
from html import escape

from book.pages import DOCS, REPOSITORY

FOLDER = DOCS / "figures"
INK, MUTED, PAPER, LINE = "#1d2433", "#5b6477", "#ffffff", "#c5ccd9"
STORE, TRAIN, PEOPLE, MEASURE = "#e8eefc", "#e6f4ea", "#fdf0e1", "#f3e9fb"

FLOORS = {
    "api": "what `import prefloop` offers",
    "cli": "parses the command line and prints",
    "studies": "published curves made again",
    "recipes": "the whole loop in one command",
    "algorithms": "one file, one algorithm",
    "evaluation": "win rates, quality, report",
    "loop": "what algorithms share: session, roles, updates",
    "studio": "the labelling server",
    "feedback": "judges, agreement, ratings, pair selection",
    "rollout": "sampler and scorers",
    "models": "packed forward, heads, roles",
    "environments": "what answers a policy: tools, games",
    "text": "tokenizers, templates",
    "data": "files and the store",
    "losses": "pure functions",
    "verifiers": "answers, patterns, sandboxed code",
    "runtime": "steps, checkpoints, processes",
    "configs": "settings, one dataclass a command",
    "records": "prompts, comparisons, labels",
    "http": "retries and waits of clients",
    "addresses": "names of models and data",
    "marks": "where images stand",
    "errors": "InputError",
}
"""Floors and what is on them."""


def layers() -> list[list[str]]:
    """Floors from the top down; those of one row do not import each other."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return [[name.strip().removeprefix("prefloop.") for name in row.split("|")] for row in contract["layers"]]


def picture_of_layers() -> str:
    """Rows of boxes, the top one first."""
    rows, width, height, gap = layers(), 860, 40, 8
    parts = [
        box(20 + (column * (width + gap)) / len(row), 44 + line * (height + gap), (width + gap) / len(row) - gap, height,
            name, FLOORS[name], fill=(MEASURE, TRAIN, STORE)[(line > 2) + (line > 5)])
        for line, row in enumerate(rows)
        for column, name in enumerate(row)
    ]  # fmt: skip
    head = text(
        20,
        26,
        "Imports point down only. Packages side by side do not import each other.",
        size=14,
        fill=MUTED,
    )
    return svg(
        900, 52 + len(rows) * (height + gap), [head, *parts], "The packages of prefloop from top to bottom"
    )


def picture_of_the_loop() -> str:
    """Stages of the loop, what goes between them, and the way back."""
    top, middle, low = 40, 170, 300
    parts = [
        box(20, top, 150, 64, "pretrain", "text to a base model", fill=TRAIN),
        box(230, top, 150, 64, "sft", "demonstrations", fill=TRAIN),
        box(440, top, 150, 64, "sample", "K completions a prompt", fill=STORE),
        box(650, top, 210, 64, "label", "people, AI judges, simulation", fill=PEOPLE),
        box(650, middle, 210, 64, "store", "comparisons, with provenance", fill=STORE),
        box(440, middle, 150, 64, "reward", "a model of preferences", fill=TRAIN),
        box(20, middle, 330, 64, "ppo, grpo, rloo, ...", "learn from own samples, scored", fill=TRAIN),
        box(440, low, 420, 64, "dpo, prefer", "learn from the comparisons directly", fill=TRAIN),
        box(20, low, 150, 64, "eval, report", "intervals, alarms", fill=MEASURE),
        box(200, low, 150, 64, "policy", "plain transformers", fill=STORE),
        *arrow(170, top + 32, 230, top + 32),
        *arrow(380, top + 32, 440, top + 32),
        *arrow(590, top + 32, 650, top + 32),
        *arrow(755, top + 64, 755, middle),
        *arrow(650, middle + 32, 590, middle + 32),
        *arrow(440, middle + 32, 350, middle + 32),
        *arrow(755, middle + 64, 755, low),
        *arrow(440, low + 32, 350, low + 32),
        *arrow(275, middle + 64, 275, low),
        *arrow(200, low + 32, 170, low + 32),
        *arrow(395, low + 18, 395, 137, 515, 137, 515, top + 64, dashed=True),
        line(350, low + 18, 395, low + 18, dashed=True),
        text(402, 133, "next round", size=13, fill=MUTED),
    ]
    return svg(
        880,
        390,
        parts,
        "The loop: from text and demonstrations to a policy, through samples, labels and a reward model, and then again",
    )


def svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    """A whole picture, on paper of its own so that it reads on a dark page too."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'font-family="system-ui, sans-serif"><title>{escape(title)}</title>'
        f'<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 10 5 0 10z" fill="{MUTED}"/></marker></defs>'
        f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def box(x: float, y: float, width: float, height: float, name: str, about: str, *, fill: str) -> str:
    """A box with its name and, below it, what it is; in a narrow row both are smaller."""
    middle, small = x + width / 2, 11.5 if width < 215 else 13
    frame = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="7" fill="{fill}" stroke="{LINE}"/>'
    low = y + height / 2
    return (
        frame
        + text(middle, low - 3, name, size=15, weight=600, anchor="middle")
        + text(middle, low + 14, about.replace("`", ""), size=small, fill=MUTED, anchor="middle")
    )


def text(
    x: float, y: float, said: str, *, size: float, fill: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" font-weight="{weight}" text-anchor="{anchor}">{escape(said)}</text>'


def line(*points: float, dashed: bool = False, tip: bool = False) -> str:
    """A line through points, x and y in turn."""
    marks = ' stroke-dasharray="5 4"' * dashed + ' marker-end="url(#tip)"' * tip
    return f'<polyline points="{" ".join(f"{each:g}" for each in points)}" fill="none" stroke="{MUTED}" stroke-width="1.6"{marks}/>'


def arrow(*points: float, dashed: bool = False) -> Iterator[str]:
    """A line with a tip at its end."""
    yield line(*points, dashed=dashed, tip=True)


FIGURES = {"loop.svg": picture_of_the_loop, "layers.svg": picture_of_layers}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in FIGURES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")
