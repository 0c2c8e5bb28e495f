"""A process that has the large libraries loaded, and forks those that tests start: `python -m tests.runtime.ready`, started by `processes.py`.

It reads orders, one JSON object a line: a module, its arguments, and the environment and files of each process that runs it. When all of them
have ended it answers with their exit codes. It has one thread, so nothing is missing in a fork. POSIX only.
"""

import gc
import json
import os
import runpy
import sys
import warnings
from importlib import import_module
from typing import Any

LIBRARIES = (
    *("torch", "torch.distributed.checkpoint", "transformers.models.llama.modeling_llama", "peft"),
    *("alembic.command", "tests.algorithms.small", "prefloop.recipes.run"),
)


def start(order: dict[str, Any], rank: int) -> int:
    """Fork one process; its id. In the child it never returns: the interpreter ends as that of `python -m` does."""
    child = os.fork()
    if child:
        return child
    os.environ.clear()
    os.environ.update(order["environments"][rank])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(f"{order['folder']}/{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = [order["module"], *order["arguments"]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'tests.* found in sys.modules", RuntimeWarning)
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    sys.exit(0)


def main() -> None:
    for name in LIBRARIES:
        import_module(name)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        children = [start(order, rank) for rank in range(len(order["environments"]))]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
