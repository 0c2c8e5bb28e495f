"""Plants the bugs of `tests.planted_bugs`, one at a time, in a copy of the package, and says which of them the tests find.

    python -m tests.plant                      all that were not planted since their file or tests last changed
    python -m tests.plant --only ppo store     those with a word in their file or description
    python -m tests.plant --minutes 10         stops after ten minutes; the same command goes on
    python -m tests.plant --again              all of them, whatever is known

Results are kept in `build/planted_bugs.json`, and `docs/planted_bugs.md` is written from them. Each bug is planted in a child forked from a
process that has the large libraries loaded, so a bug costs little more than the tests that look for it. POSIX only.
"""

import argparse
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.planted_bugs import PLANTS, Plant

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "build" / "planted_bugs.json"
PAGE = REPOSITORY / "docs" / "planted_bugs.md"
LIMIT = 400
"""Seconds for the tests of one bug; one that hangs has been seen by whoever waits."""
LIBRARIES = (
    *("torch", "transformers", "transformers.models.llama.modeling_llama", "peft", "safetensors.torch"),
    *("scipy.stats", "scipy.special", "sqlalchemy.orm", "alembic.command", "yaml"),
)
"""Loaded once, before the first child is forked: they cost more than most tests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a bug."""

    found: bool
    by: str
    """The test that failed first, or why there is none."""
    seconds: float
    state: str
    """Hash of the file and the tests, by which a result goes stale."""


def planted(plant: Plant, source: str) -> str:
    """The file with the bug in it. Raises `ValueError` where the old text does not stand in it exactly once, or the new text does not compile."""
    times = source.count(plant.old)
    if times != 1:
        raise ValueError(f"{plant.file}: {plant.old!r} stands in it {times} times; it must be there once")
    changed = source.replace(plant.old, plant.new)
    if changed == source:
        raise ValueError(f"{plant.file}: {plant.old!r} is replaced by itself")
    try:
        compile(changed, plant.file, "exec")
    except SyntaxError as error:
        raise ValueError(f"{plant.file}: {plant.new!r} does not compile ({error})") from error
    return changed


def source_of(plant: Plant) -> str:
    return (REPOSITORY / "prefloop" / plant.file).read_text(encoding="utf-8")


def state_of(plant: Plant) -> str:
    """Changes with the bug, its file and its tests."""
    digest = hashlib.sha256(f"{plant.key}\n{source_of(plant)}".encode())
    for test in plant.tests:
        path = REPOSITORY / "tests" / test.partition("::")[0]
        for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
            digest.update(f"{test}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


class FirstFailure:
    """A plugin of pytest that remembers which test failed first."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (not importable)"


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Run tests in a child process until the first fails: whether one did, and which."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reader)
        _in_child(tree, tests, writer)
    os.close(writer)
    said = b""
    deadline = time.monotonic() + LIMIT
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
            return True, f"hangs (over {LIMIT} s)"
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        said += piece
    os.close(reader)
    os.waitpid(child, 0)
    if not said:
        return True, "the process died"
    code, name = json.loads(said)
    if code not in (0, 1, 2):
        raise RuntimeError(f"pytest ended with {code} for {' '.join(tests)}; a test it names is not there")
    return code != 0, name


def _in_child(tree: Path, tests: Sequence[str], writer: int) -> None:
    """Never returns."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "prefloop", "bench")]:
        del sys.modules[name]
    os.chdir(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if entry and Path(entry) != REPOSITORY)]
    os.environ["PYTHONPATH"] = str(tree)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    first, code = FirstFailure(), 3
    try:
        named = [f"tests/{test}" for test in tests]
        # Libraries with plugins of pytest are loaded already, which pytest warns of, and here warnings are errors.
        options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main([*options, *named], plugins=[first]))
    finally:
        os.write(writer, json.dumps([code, first.name]).encode())
        os._exit(0)


def copy_tree(tree: Path) -> None:
    """What the tests need of the repository."""
    for name in ("prefloop", "tests", "examples", "bench", "book", "docs"):
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(REPOSITORY / name, tree / name)


def plant_one(tree: Path, plant: Plant, number: int) -> Outcome:
    """Plant it, run its tests, take it out again."""
    began, file, state = time.monotonic(), tree / "prefloop" / plant.file, state_of(plant)
    source, times = file.read_text(encoding="utf-8"), file.stat()
    file.write_text(planted(plant, source), encoding="utf-8")
    # Compiled files go by the time of a source and its size, so each planted one has a time of its own.
    os.utime(file, (times.st_atime + number, times.st_mtime + number))
    try:
        found, by = run_tests(tree, plant.tests)
    finally:
        file.write_text(source, encoding="utf-8")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return Outcome(found=found, by=by, seconds=round(time.monotonic() - began, 1), state=state)


def known_results() -> dict[str, Outcome]:
    """Outcomes of earlier calls by the bug's key, those whose file or tests have changed since too."""
    if not RESULTS.is_file():
        return {}
    saved = {key: Outcome(**value) for key, value in json.loads(RESULTS.read_text()).items()}
    return {plant.key: saved[plant.key] for plant in PLANTS if plant.key in saved}


def keep(key: str, outcome: Outcome) -> None:
    """Write one outcome down beside those that another call may have written meanwhile."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saved = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        RESULTS.write_text(json.dumps(saved | {key: asdict(outcome)}, indent=1))


def page(results: dict[str, Outcome]) -> str:
    """docs/planted_bugs.md."""
    known = [results[plant.key] for plant in PLANTS if plant.key in results]
    found = sum(outcome.found for outcome in known)
    lines = [
        "# Planted bugs: which mistakes of wiring the tests find",
        "",
        "Made by `python -m tests.plant`, not by hand. It copies the package, plants one single-line bug of",
        "`tests/planted_bugs.py`, runs the tests named there until the first fails, and takes the bug out",
        "again. Formulas have tests of their own; these bugs lie between formulas: an argument that is not",
        "passed on, a state that is not restored, a seed that stays the same.",
        "",
        f"**{found} of {len(known)} are found** ({found / max(1, len(known)):.0%}).",
        "",
        "| file | bug | found by |",
        "| --- | --- | --- |",
    ]
    for plant in sorted(PLANTS, key=lambda each: (each.file, each.what)):
        outcome = results.get(plant.key)
        by = "not planted yet"
        if outcome is not None:
            by = f"`{outcome.by.removeprefix('tests/')}`" if outcome.found else "**not found**"
        lines.append(f"| `{plant.file}` | {plant.what} | {by} |")
    return "\n".join(lines) + "\n"


def chosen(words: Sequence[str]) -> list[Plant]:
    return [
        plant for plant in PLANTS if not words or any(word in f"{plant.file} {plant.what}" for word in words)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant, print, keep; the number of bugs that are not found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.plant", description="Plant bugs, and see which the tests find."
    )
    parser.add_argument("--only", nargs="*", default=[], help="words in a bug's file or description")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0 does all")
    parser.add_argument("--again", action="store_true", help="plant those with a known result too")
    options: Any = parser.parse_args(arguments)
    began = time.monotonic()
    results = known_results()
    fresh = {
        plant.key for plant in PLANTS if plant.key in results and results[plant.key].state == state_of(plant)
    }
    todo = [plant for plant in chosen(options.only) if options.again or plant.key not in fresh]
    for plant in todo:
        planted(plant, source_of(plant))
    for name in LIBRARIES:
        __import__(name)
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        for number, plant in enumerate(todo, 1):
            if options.minutes and time.monotonic() - began > 60 * options.minutes:
                print(f"stopped; {len(todo) - number + 1} are left, the same command goes on")
                break
            outcome = plant_one(tree, plant, number)
            keep(plant.key, outcome)
            verdict = f"found by {outcome.by}" if outcome.found else "NOT FOUND"
            print(
                f"{number}/{len(todo)} {plant.file}: {plant.what}: {verdict} ({outcome.seconds} s)",
                flush=True,
            )
    results = known_results()
    missed = [plant for plant in PLANTS if plant.key in results and not results[plant.key].found]
    print(f"{len(results)} of {len(PLANTS)} known, {len(results) - len(missed)} found")
    PAGE.write_text(page(results), encoding="utf-8")
    print(f"{PAGE} written")
    return len(missed)


if __name__ == "__main__":
    sys.exit(min(1, main()))
