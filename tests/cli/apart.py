"""Commands on two machines of which one does not have the project's folder: `python -m tests.cli.apart PROJECT NAMES...`, looked at by `test_apart.py`.

Each runs in one process, into `PROJECT/apart-one-NAME`, then in two, into `PROJECT/apart-two-NAME`. torchrun's first process is on the machine without the folder.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

import peft  # noqa: F401  once, before the processes are forked
import torch

from prefloop.cli import main as prefloop
from tests.runtime.namespaces import hide
from tests.runtime.processes import environment, free_port
from tests.runtime.trials import ended, fork

COMMANDS = {
    "sample": "sample --model {p}/stopping/final --data {p}/prompts.jsonl --store {out}/s.db --completions_per_prompt 3 --part all "
    "--sampling.max_new_tokens 6 --sampling.temperature 1.3",
    "annotate": "label annotate --store {out}/s.db --reward_model {p}/stopping/final@{p}/start",
    "score": "data score --store {out}/s.db --reward_model {p}/reward/final,{p}/stopping/final@{p}/start,{p}/mine.py:words --beta 0.5 --out {out}/scores.jsonl",
    "filter": "data filter --data {p}/comparisons.jsonl --reward_models {p}/reward_lora/final/adapter {p}/mine.py:words --out {out}/kept.jsonl",
    "rejection": "data rejection --store {out}/s.db --reward_models {p}/reward/final --out {out}/pairs.jsonl",
    "best_of_n": "best_of_n --model {p}/stopping/final --reward_model {p}/reward/final --data {p}/prompts.jsonl --gold {p}/mine.py:length "
    "--completions_per_prompt 4 --sampling.max_new_tokens 6 --sampling.temperature 1.3 --out {out}",
    "eval": "eval --policies start={p}/start sft={p}/stopping/checkpoints --reward_model {p}/reward/final --comparisons {p}/comparisons.jsonl "
    "--gold {p}/judge --metrics {p}/mine.py:metric --data {p}/demonstrations.jsonl --part all --sampling.max_new_tokens 6 --out {out}",
    "reward": "reward --model {p}/stopping/final --data {p}/comparisons.jsonl --data.heldout 0.4 --batch_size 3 --optim.lr 1e-3 --out {out}/reward",
    "merge": "merge --base {p}/start --models {p}/stopping/final {p}/other --out {out}/merged",
    "recipe": "run toy --out {out}/toy",
    "align": "align --model {p}/stopping/final --data {p}/comparisons.jsonl --yes true --out {out}/aligned",
}
FROM_STORE = ("annotate", "score", "rejection")
"""They read the store that `sample` fills."""
MINE = """
def words(prompts, texts):
    return [float(len(text.split())) for text in texts]

def length(prompt, text):
    return len(text) / 10

def metric(prompts, texts, references):
    return [float(len(text) + len(found)) for text, found in zip(texts, references)]
"""


def words(name: str, project: Path, out: Path) -> list[str]:
    """The command line of a job."""
    given = COMMANDS[name].format(p=project, out=out).split()
    return [*given, "--compute.device", "cpu"] if name != "merge" else given


def work(name: str, project: Path, rank: int, size: int, port: int) -> None:
    """What one process does."""
    if size > 1:
        os.environ.update(environment(rank, size, port))
        os.environ.update(LOCAL_WORLD_SIZE="1", LOCAL_RANK="0", GROUP_WORLD_SIZE="2")
        if rank == 0:
            hide(project)
    torch.set_num_threads(1)
    code = prefloop(words(name, project, project / f"apart-{'one' if size == 1 else 'two'}-{name}"))
    print(f"\nended with {code}", flush=True)


def run(name: str, project: Path, size: int) -> None:
    """Do a job; what each process says is beside its folder."""
    out = project / f"apart-{'one' if size == 1 else 'two'}-{name}"
    out.mkdir()
    if name in FROM_STORE:
        shutil.copy(project / "apart-one-sample/s.db", out)
    port = free_port()
    children = [
        fork(partial(work, name, project, rank, size, port), out.with_suffix(f".{rank}.out"))
        for rank in range(size)
    ]
    for child in children:
        ended(child)


def main() -> None:
    project = Path(sys.argv[1])
    (project / "mine.py").write_text(MINE)
    for name in sys.argv[2:]:
        for size in (1, 2):
            if size == 2 or name not in ("merge", "recipe", "align"):
                run(name, project, size)


if __name__ == "__main__":
    main()
