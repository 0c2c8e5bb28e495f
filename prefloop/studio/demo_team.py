"""A studio with a team at work, to look around in: `make studio`, or `python -m prefloop.studio.demo_team`.

People of every role, three models whose replies they compare, disagreements, a message to the manager, a saved dataset version, and a training on it that runs while
one looks. The people and their answers are simulated by the toy world's known preference; the training is a real one, of a very small model.
"""

import argparse
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from prefloop.configs.common import Selecting
from prefloop.configs.label import ServeConfig
from prefloop.data.store import Store
from prefloop.data.toy_world import ToyWorld, gold_utility, write_reply
from prefloop.data.toy_world.world import BEST, Style
from prefloop.errors import InputError
from prefloop.feedback.datasets import save
from prefloop.records import Completion
from prefloop.studio import accounts, disputes, members
from prefloop.studio.accounts import Who
from prefloop.studio.demo import GUIDELINES, SEED
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectRole, ProjectSettings

MODELS: dict[str, Style] = {
    "model-careful": replace(BEST, filler=0),
    "model-chatty": Style(opening="kind", topic="named", steps=1, filler=2, closing="plain", cut=False),
    "model-hurried": Style(opening="plain", topic="unnamed", steps=1, filler=0, closing="rude", cut=True),
}
"""Author -> the manner of its replies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Colleague:
    """Somebody of the team."""

    login: str
    role: ProjectRole | None
    """In the project; None for the admin, who needs none."""
    right: float = 0.0
    """How often they see which reply is better; otherwise they choose by chance."""
    share: float = 1.0
    """Of the project's items, how many they have answered."""


TEAM = (
    Colleague(login="olga", role=None),
    Colleague(login="marc", role="manager"),
    Colleague(login="judith", role="adjudicator"),
    Colleague(login="ann", role="annotator", right=0.95),
    Colleague(login="bea", role="annotator", right=0.8, share=0.8),
    Colleague(login="cid", role="annotator", right=0.6, share=0.6),
    Colleague(login="dora", role="annotator", right=0.5, share=0.3),
    Colleague(login="eli", role="annotator", share=0.0),
)
SMALL = {
    "architecture.hidden_size": 64,
    "architecture.layers": 2,
    "architecture.heads": 2,
    "architecture.ffn_size": 176,
    "architecture.vocab_size": 600,
    "block_tokens": 128,
    "batch_blocks": 8,
    "max_steps": 150,
    "optim.lr": 0.003,
}
"""Settings of a pretraining that is done in a minute."""
PROMPTS = 40
PROJECT = "Which reply helps more?"
DATASET = "helpful"


def fill(studio: Studio, password: str) -> int:
    """Make the team and its work in an empty store; the project. Everybody has the same password."""
    store, rng = studio.store, Random(SEED)
    prompts = ToyWorld(SEED).prompts(PROMPTS)
    for name, style in MODELS.items():
        replies = [_completion(name, prompt, write_reply(prompt, style, rng)) for prompt in prompts]
        store.add_completions(replies, store.add_checkpoint(name, kind="generator"))
    people = {
        each.login: accounts.add_person(studio, each.login, password, "annotator" if each.role else "admin")
        for each in TEAM
    }
    settings = ProjectSettings(name=PROJECT, guidelines=GUIDELINES, overlap=3, access="members")
    project = studio.create_project(settings)
    for each in TEAM:
        if each.role is not None:
            members.set_member(studio, project.id, each.login, each.role, by=None)
    studio.add_tasks(project.id, store.add_pairs(strategy="random", seed=SEED).ids)
    for each in TEAM:
        if each.right:
            studio.acknowledge(project.id, people[each.login].annotator, project.guideline_version)
            _answer(studio, project.id, people[each.login], each, rng)
    last = studio.history(people["cid"].annotator, project=project.id)[0]
    disputes.dispute(
        studio,
        last.token,
        people["cid"].annotator,
        "Both replies are about something else. Is this one broken?",
    )
    save(store, DATASET, "comparisons", Selecting(projects=(PROJECT,)), skip_bad=True, note="First week")
    return project.id


def _completion(policy: str, prompt: object, text: str) -> Completion:
    return Completion(
        prompt=prompt,  # type: ignore[arg-type]
        text=text,
        policy=policy,
        logprob=0.0,
        tokens=0,
        ended=True,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=0,
    )


def _answer(studio: Studio, project: int, who: Who, colleague: Colleague, rng: Random) -> None:
    """Their answers, until they have given their share."""
    for _ in range(round(PROMPTS * colleague.share)):
        got = studio.lease(project, who.annotator)
        if got is None:
            return
        first, second = (gold_utility(got.prompt, text) for text in got.completions)
        sees = rng.random() < colleague.right
        better = "first" if first > second else "second"
        answer = Answer(
            choice=better if sees else rng.choice(("first", "second", "tie")),  # type: ignore[arg-type]
            strength=0,
            duration_ms=rng.randrange(5_000, 40_000),
            rationale="It says what to do, in steps." if sees and rng.random() < 0.15 else "",
        )
        studio.submit(got.token, who.annotator, answer, key=secrets.token_hex(8))


def commands(folder: Path) -> list[list[str]]:
    """A model from nothing, then DPO on the dataset version: arguments of `prefloop`."""
    runs = folder / "runs"
    store = folder / "prefloop.db"
    pretrain = {"data": folder / "texts.jsonl", "store": store, "out": runs / "pretrain", **SMALL}
    dpo = {
        "model": runs / "pretrain" / "final",
        "data": f"store:{DATASET}@1",
        "store": store,
        "out": runs / "dpo",
        "epochs": 6,
        "batch_size": 8,
    }
    return [
        [stage, *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]
        for stage, flags in (("pretrain", pretrain), ("dpo", dpo))
    ]


@contextmanager
def training(folder: Path) -> Iterator[None]:
    """Train in another process, where that is not done yet; it is ended with the studio, and begins anew the next time."""
    runs = folder / "runs"
    runs.mkdir(exist_ok=True)
    if (runs / "dpo" / "summary.json").exists():
        yield
        return
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text.text}) + "\n" for text in ToyWorld(SEED).texts(3000)))
    work = f"{_TRAIN}\nrun({[[*command, '--run.resume', 'true'] for command in commands(folder)]!r})"
    with (folder / "training.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", work], stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


_TRAIN = """
import signal, subprocess, sys
at_work = []
def stop(*_):
    for process in at_work: process.send_signal(signal.SIGTERM)
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
def run(commands):
    for command in commands:
        at_work[:] = [subprocess.Popen([sys.executable, "-m", "prefloop", *command])]
        if at_work[0].wait(): sys.exit(1)
"""
"""One command after the other; SIGTERM is handed on, and a run that gets it writes a checkpoint."""


def prepare(folder: Path) -> str:
    """Fill the folder, if it is empty; the password, which is kept beside the store."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "password.txt"
    if kept.exists():
        return kept.read_text().strip()
    if (folder / "prefloop.db").exists():
        raise InputError(f"{folder} was not filled to its end; remove it, and start again")
    password = secrets.token_urlsafe(9)
    with Store.open(str(folder / "prefloop.db")) as store:
        fill(Studio(store), password)
    kept.touch(mode=0o600)
    kept.write_text(password + "\n")
    return password


def main(serve: Callable[[ServeConfig], None] | None = None) -> None:
    """Serve the demo until Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("studio-demo"))
    parser.add_argument("--port", type=int, default=8100)
    given = parser.parse_args()
    password = prepare(given.folder)
    print(f"Sign in at http://127.0.0.1:{given.port} with the password {password} as")
    for each in TEAM:
        print(
            f"    {each.login:8} {each.role or 'admin'}{'' if each.right or each.role != 'annotator' else ', new here'}"
        )
    print(
        f"A training runs; follow it under Admin, Runs. Its output: {given.folder / 'training.txt'}\n",
        flush=True,
    )
    if serve is None:
        from prefloop.studio.serve import serve
    store, runs = str(given.folder / "prefloop.db"), str(given.folder / "runs")
    with training(given.folder):
        serve(ServeConfig(store=store, runs=runs, port=given.port))


if __name__ == "__main__":
    main()
