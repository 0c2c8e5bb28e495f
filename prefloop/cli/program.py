"""From a command line to a command, and from its errors to what a user and a shell can use.

Exit codes: 0 done; 1 a bug in prefloop, or what `data check` found; 2 something the user gave is wrong; 130 stopped by Ctrl-C.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefloop import __version__
from prefloop.addresses import without_passwords
from prefloop.cli import help as pages
from prefloop.cli.commands import GROUPS, Command, commands, find, load
from prefloop.cli.flags import Flags, read_flags
from prefloop.cli.last_word import end_stuck, repeat_last
from prefloop.configs.load import load_config
from prefloop.errors import InputError, PeerLost

ABOUT = (
    "prefloop runs the whole human-preference loop: base model, SFT, samples, comparisons by people or simulated annotators, "
    "reward model, PPO and DPO, evaluation, report, and the next round."
)
NOTES = (
    "Start with `prefloop run toy --out demo`: it needs no data and no download. `prefloop COMMAND --help` lists the settings of a command.",
    "Short flags, in every command that has the long one: --data FILE is --data.source, --out DIR is --run.out, and so are --seed, --resume "
    "and --store; --skip-bad is --data.skip_bad, --no-tune is --run.tune false. Several processes: torchrun --nproc-per-node 2 -m prefloop COMMAND ...",
)

SPIN = ("GOMP_SPINCOUNT", "10000")
"""How often an idle OpenMP thread looks for work before it sleeps: a fraction of a millisecond, longer than the gaps between a step's operations,
where the library's own choice is many milliseconds, in which it keeps the thread that it waits for from a core that others share. Read when torch
is loaded."""

HELP = ("-h", "--help", "help")
WAIT_FOR_MAIN = 10.0
"""Seconds another process waits before it prints an error of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. `arguments` default to those of this process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--no-tune" not in given and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(*SPIN)
    try:
        return _dispatch(given)
    except InputError as error:
        _print_error(f"prefloop: error: {error}")
        return 2
    except PeerLost as error:
        if error.speaks:
            _say_last(f"prefloop: error: {error}")
        end_stuck()
        return 1
    except KeyboardInterrupt as stop:
        # A run that was stopped says how to go on with it; torchrun stops all, and one of them speaks.
        if _is_main():
            _say_last(f"prefloop: {str(stop) or 'stopped'}")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`). Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        _print_error(_unexpected(error))
        return 1
    finally:
        _stop_telling()


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in HELP:
        print(overview())
        return 0
    if given[0] in ("--version", "-V"):
        print(f"prefloop {__version__}")
        return 0
    if given[0] in GROUPS and (len(given) == 1 or given[1] in HELP):
        print(overview(given[0]))
        return 0
    name, command, rest = find(given)
    settings = load(command.settings)
    if any(word in HELP[:2] for word in rest):
        about = (settings.__doc__ or "").strip()
        print(
            pages.page(
                f"prefloop {name}", about, settings, positional=command.positional, examples=command.examples
            )
        )
        return 0
    flags = read_flags(rest, settings, positional=command.positional)
    several = os.environ.get("WORLD_SIZE", "1")
    if several != "1" and command.single:
        raise InputError(
            f"prefloop {name} is for one process, but WORLD_SIZE is {several}, which torchrun sets; type it without torchrun"
        )
    config = (
        load_config(settings, flags.config, flags.given)
        if several == "1"
        else _of_all_machines(settings, flags)
    )
    _set_up_logging()
    return _finish(command, load(command.work)(config))


def _of_all_machines(settings: Any, flags: Flags) -> Any:
    from prefloop.runtime.starting import settings_of_all  # and with it torch, which a run needs anyway

    return settings_of_all(settings, flags.config, flags.given)


def _finish(command: Command, result: Any) -> int:
    """Say what to do next, and let the other processes go."""
    world = sys.modules.get("prefloop.runtime.world")
    if world is not None:
        world.leave()
    if isinstance(result, Path | str):
        if _is_main() and command.then:
            print(f"next: {without_passwords(command.then.format(result))}")
        return 0
    return result or 0


def _stop_telling() -> None:
    """End the thread that tells other processes what this one waits for, before Python is torn down."""
    world = sys.modules.get("prefloop.runtime.world")
    if world is not None:
        world.stop_telling()


_LIBRARIES = (
    r"(transformers|peft|accelerate|torch|tensorboardX|safetensors|tokenizers|huggingface_hub|datasets)\b"
)


def _set_up_logging() -> None:
    """What our modules log goes to standard error, from one process; libraries only when they warn the user, in one line."""
    import logging
    import warnings

    if not sys.warnoptions:  # -W and PYTHONWARNINGS are for those who want to see all
        for kind in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=kind, module=_LIBRARIES)
        warnings.formatwarning = _one_line

    logging.basicConfig(level=logging.WARNING if _is_main() else logging.ERROR, format="%(message)s")
    if _is_main():
        logging.getLogger("prefloop").setLevel(logging.INFO)


def _one_line(message: Warning | str, *of: object, **more: object) -> str:
    """A warning as a user reads it: what, not where in a library."""
    return f"prefloop: warning: {' '.join(str(message).split())}\n"


def overview(group: str = "") -> str:
    """The page of the program, or of a group of commands."""
    known = commands()
    if group:
        members = {
            name.partition(" ")[2]: command.summary
            for name, command in known.items()
            if name.startswith(f"{group} ")
        }
        examples = [example for name in members for example in known[f"{group} {name}"].examples]
        return pages.overview(f"prefloop {group}", GROUPS[group], members, (), examples=examples)
    return pages.overview(
        "prefloop", ABOUT, {name: command.summary for name, command in known.items()}, NOTES
    )


def _is_main() -> bool:
    """Whether this is the process that prints: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def _print_error(text: str) -> None:
    """Print to standard error, once for all processes.

    What is wrong is nearly always the same on every process, and the first one says it: torchrun then ends the others before they have
    waited. An error of this process alone is printed after the wait.
    """
    world = sys.modules.get("prefloop.runtime.world")
    if world is not None and "\n" not in text:
        world.speak()
    if not _is_main():
        time.sleep(WAIT_FOR_MAIN)
    _say_last(text)


def _say_last(text: str) -> None:
    """Print to standard error; under torchrun again when it has had its say, but not a report of many lines."""
    shown = without_passwords(text)
    print(shown, file=sys.stderr, flush=True)
    if "\n" not in shown:
        repeat_last(shown)


def _unexpected(error: Exception) -> str:
    """The text for an error that is no user's: memory has a way out, anything else is ours to mend."""
    import traceback

    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = (str(error).splitlines() or ["no more memory"])[0]
        return f"prefloop: error: out of memory ({reason}); lower compute.micro_batch_tokens, sampling.batch_size or the batch size"
    told = "".join(traceback.format_exception(error)).rstrip()
    return f"prefloop: this is a bug in prefloop {__version__}, not in your input; please report it with the lines below\n{told}"
