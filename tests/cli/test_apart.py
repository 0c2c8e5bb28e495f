"""Commands that do not train, on two machines of which one does not have the folder: they do what one process does, or refuse."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prefloop.data.store import Store
from prefloop.feedback.gold import SentimentJudge
from tests.cli.apart import COMMANDS, FROM_STORE
from tests.feedback.test_gold import SMALL, made_up_reviews
from tests.runtime.namespaces import why_not
from tests.runtime.processes import run_module

REFUSED = {
    "merge": r"prefloop: error: prefloop merge is for one process, but WORLD_SIZE is 2, which torchrun sets; type it without torchrun",
    "recipe": r"prefloop: error: a recipe reads .*/apart-two-recipe/toy on every machine, but it is not seen on \S+; name a folder that all machines share, "
    r"or type the stages one by one: they need it on one machine only",
    "align": r"prefloop: error: align reads .*/apart-two-align/aligned on every machine, but it is not seen on ",
}
DONE = [name for name in COMMANDS if name not in REFUSED]
OWN = ("seconds", "peak_rss_mb", "time")
"""What two runs do not have in common."""


@pytest.fixture(scope="module")
def apart(project: Path) -> Path:
    """The project, after all commands have run in it."""
    fault = why_not(project)
    if fault:
        pytest.skip(f"no folder can be hidden from a process here: {fault}")
    SentimentJudge.fit(*made_up_reviews(400), settings=SMALL).save(project / "judge")
    run_module("tests.cli.apart", str(project), *COMMANDS, timeout=900)
    return project


def said(apart: Path, name: str, rank: int) -> str:
    """What a process printed; torchrun's first one is on the machine without the folder."""
    return (apart / f"apart-two-{name}.{rank}.out").read_text()


def made(folder: Path) -> dict[str, Any]:
    """What a command wrote, by file: JSON as it is, a store's completions and judgements."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".json" and "resume" not in file.parts and file.name != "manifest.json":
            found[name] = json.loads(file.read_text())
        elif file.suffix == ".jsonl":
            found[name] = [json.loads(line) for line in file.read_text().splitlines()]
        elif file.suffix == ".db":
            with Store.open(str(file)) as store:
                found[name] = [[c.prompt.sha256, c.text, c.index, c.logprob] for c in store.completions()]
                found[f"{name}: pairs"] = [
                    [c.prompt.sha256, c.chosen, c.rejected, c.margin] for c in store.comparisons().records
                ]
    return found


def close(a: Any, b: Any) -> bool:
    """Equal but for float noise, for what only one run can say, and for the folders' names."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a if k not in OWN)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, abs=1e-5, rel=1e-5)
    return a == (b.replace("/apart-two-", "/apart-one-") if isinstance(b, str) else b)


@pytest.mark.parametrize("name", DONE)
def test_a_machine_without_the_folder_does_its_part(name: str, apart: Path) -> None:
    outputs = [said(apart, name, rank) for rank in (0, 1)]
    assert all("ended with 0" in output for output in outputs), "\n".join(outputs)
    assert re.search(r"is not on \S+ as it is here: process 0 sent it, [0-9.]+ kB", outputs[1]), outputs[1]
    one, two = (made(apart / f"apart-{size}-{name}") for size in ("one", "two"))
    assert one
    assert one.keys() == two.keys()
    different = [file for file in one if not close(one[file], two[file])]
    assert not different, [(one[file], two[file]) for file in different]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_so_is_refused_in_one_line(name: str, apart: Path) -> None:
    spoken = 0 if name == "merge" else 1
    line = next(line for line in said(apart, name, spoken).splitlines() if line.startswith("prefloop: error"))
    assert re.match(REFUSED[name], line), line
    assert all("ended with 2" in said(apart, name, rank) for rank in (0, 1))
    assert not list((apart / f"apart-two-{name}").iterdir())


def test_the_store_that_others_read_is_that_of_one_process(apart: Path) -> None:
    for name in FROM_STORE:
        assert made(apart / f"apart-two-{name}")["s.db"] == made(apart / "apart-one-sample")["s.db"]
