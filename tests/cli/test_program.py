"""From a command line to an exit code: mistakes, interruptions and faults."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefloop.cli import program as module
from prefloop.cli.commands import CRITIC_FREE, Command, commands
from prefloop.cli.program import main
from prefloop.errors import InputError, PeerLost
from prefloop.runtime.interrupt import Interrupted
from tests.tiny_project import make_comparisons


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command ends with."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("prefloop: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("prefloop: error: ").rstrip("\n")


def test_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "pppo") == "prefloop pppo is not a command; did you mean ppo?"
    assert refused(capsys, "xyzzy").startswith(
        "prefloop xyzzy is not a command; the commands are run, align, plan, pretrain, sft"
    )
    assert refused(capsys, "data", "chekc") == "prefloop data chekc is not a command; did you mean check?"
    assert refused(capsys, "run", "--out", "x") == "prefloop run needs a subcommand: toy, imdb, rounds"
    assert refused(capsys, "run", "tyo") == "prefloop run tyo is not a command; did you mean toy?"


def test_mistakes_in_settings_name_file_line_and_way_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: m\nkl:\n  coff: 1\n")
    assert (
        refused(capsys, "ppo", "--config", str(file))
        == f"{file}:3: kl.coff is not a setting; did you mean kl.coef?"
    )
    assert refused(capsys, "ppo", "--step", "3") == "--step is not a flag; did you mean --steps?"


def test_idle_threads_are_told_to_sleep_unless_asked_not_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def after(*arguments: str) -> str | None:
        main(["--version", *arguments])
        capsys.readouterr()
        return os.environ.get(module.SPIN[0])

    monkeypatch.setenv(module.SPIN[0], "7")
    assert after() == "7"
    monkeypatch.delenv(module.SPIN[0])
    assert after("--no-tune") is None
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert after() is None
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert after() == "10000"


def test_version_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("prefloop ")
    assert main(["data"]) == 0
    assert "import" in capsys.readouterr().out


class Work:
    """Stands in for a command's function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.result: object = None
        command = Command(
            summary="",
            settings="prefloop.configs.project:ReportConfig",
            work="x:y",
            positional=("project",),
            then="see {}",
        )
        monkeypatch.setattr(module, "find", lambda given: ("report", command, given[1:]))
        real = module.load
        monkeypatch.setattr(module, "load", lambda name: self if name == "x:y" else real(name))

    def __call__(self, config: object) -> object:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


def test_exit_codes(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    for result, code, out in ((None, 0, ""), (1, 1, ""), (Path("a/b"), 0, "next: see a/b\n")):
        work.result = result
        assert main(["report", "x"]) == code
        assert capsys.readouterr() == (out, "")


def test_an_input_error_is_one_line_without_a_traceback(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    work.result = InputError("file:3: x is 1; it must be 2")
    assert main(["report", "x"]) == 2
    assert capsys.readouterr() == ("", "prefloop: error: file:3: x is 1; it must be 2\n")


def test_a_fault_of_ours_says_so_before_its_traceback(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    work.result = ValueError("oh")
    assert main(["report", "x"]) == 1
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert "this is a bug in prefloop" in first
    assert second == "Traceback (most recent call last):"
    assert last == "ValueError: oh"


def test_no_memory_has_a_way_out(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    work.result = MemoryError()
    assert main(["report", "x"]) == 1
    assert "lower compute.micro_batch_tokens" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    work.result = Interrupted("stopped after step 3; resume with: prefloop sft")
    assert main(["report", "x"]) == 130
    assert capsys.readouterr().err == "prefloop: stopped after step 3; resume with: prefloop sft\n"
    work.result = KeyboardInterrupt()
    assert main(["report", "x"]) == 130
    assert capsys.readouterr().err == "prefloop: stopped\n"


def test_one_process_speaks_for_all(
    work: Work, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait, and torchrun ends them before they speak; one that is alone with its error speaks after the wait."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    work.result = InputError("x")
    assert main(["report", "x"]) == 2
    assert waited == [module.WAIT_FOR_MAIN]
    work.result = Path("a")
    capsys.readouterr()
    assert main(["report", "x"]) == 0
    work.result = Interrupted("go on")
    assert main(["report", "x"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("speaks", [True, False])
def test_a_process_that_has_lost_the_others_sees_to_it_that_its_torchrun_ends(
    speaks: bool, work: Work, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(module, "end_stuck", lambda: seen.append(capsys.readouterr().err))
    work.result = PeerLost("process 1 of 2 did not come", speaks=speaks)
    assert main(["report", "x"]) == 1
    assert seen == ["prefloop: error: process 1 of 2 did not come\n" if speaks else ""]


def test_what_is_for_one_process_is_refused_under_torchrun(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under torchrun two annotators would judge at once, and two files be written over one another."""
    store = tmp_path / "prefloop.db"
    line = ["data", "import", str(make_comparisons(tmp_path / "c.jsonl")), "--store", str(store)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(line) == 2
    assert capsys.readouterr().err == (
        "prefloop: error: prefloop data import is for one process, but WORLD_SIZE is 2, which torchrun sets; type it without torchrun\n"
    )
    assert not store.exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(line) == 0
    assert "comparisons" in capsys.readouterr().out
    assert store.exists()


def test_stages_share_their_work_and_the_rest_is_for_one_process() -> None:
    shared = {name for name, command in commands().items() if not command.single}
    stages = {
        "align",
        "pretrain",
        "sft",
        "sample",
        "reward",
        "ppo",
        "dpo",
        "prefer",
        "a2c",
        "trpo",
        "expert",
        "online_dpo",
        "distill_context",
        "eval",
    }
    stages |= {
        *(name for name, _, _ in CRITIC_FREE),
        "nlpo",
        "nash_md",
        "sppo",
        "ilql",
        "data filter",
        "data rejection",
        "data score",
        "label annotate",
        "best_of_n",
    }
    assert shared == stages | {name for name in commands() if name.startswith("run ")}


def test_a_reader_that_has_gone_is_no_fault() -> None:
    done = subprocess.run(
        f"{sys.executable} -m prefloop ppo --help | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() in ("0", "1")  # 0 if all was written before the reader went
    assert done.stderr == ""
