"""Programs of a policy: what they are let, what they are kept from, and what they cannot pass by."""

import sys
import threading
from pathlib import Path

import pytest

from prefloop.configs.verifiers import VerifierConfig
from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.verifiers import Verifier, sandbox
from prefloop.verifiers.sandbox import check_sandbox, run_program

LIMITS = VerifierConfig(kind="code", column="tests", seconds=1, memory_mb=256, output_kb=4)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are confined on Linux only")


@pytest.mark.parametrize(
    ("program", "tests", "passed"),
    [
        ("def f(x): return x + 1", "assert f(1) == 2", True),
        ("def f(x): return x + 1", "assert f(1) == 3", False),
        ("def f(x) return x", "", False),
        ("raise SystemExit(0)", "assert False", False),
        ("import os; os._exit(0)", "assert False", False),
        ("import sys; sys.exit(0)", "", False),
        ("assert __name__ == '__main__'", "", True),
        (
            "import threading; found = []\nt = threading.Thread(target=found.append, args=(1,)); t.start(); t.join()",
            "assert found == [1]",
            True,
        ),
        ("import asyncio, collections, json, math, random, re", "", True),
    ],
)
def test_a_program_passes_where_all_its_tests_do(program: str, tests: str, passed: bool) -> None:
    assert run_program(program, tests, LIMITS).passed is passed


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import socket; socket.socket()", "PermissionError"),
        ("import socket; socket.socketpair()", "PermissionError"),
        ("import os; os.fork()", "PermissionError"),
        ("import subprocess; subprocess.run(['ls'])", "PermissionError"),
        ("import os; os.execv('/bin/ls', ['ls'])", "PermissionError"),
        ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
        ("open('{here}/made', 'w')", "PermissionError"),
        ("open('{here}/kept', 'r+')", "PermissionError"),
        ("import os; os.remove('{here}/kept')", "PermissionError"),
        ("import os; os.rename('{here}/kept', '{here}/made')", "PermissionError"),
        ("import os; os.chmod('{here}/kept', 0)", "PermissionError"),
        ("import os; os.mkdir('{here}/made')", "PermissionError"),
        ("import os; os.symlink('{here}/kept', '{here}/made')", "PermissionError"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))", "ValueError"),
        ("x = bytearray(1 << 29)", "MemoryError"),
        ("while True: print('x' * 1000)", "File too large"),
        ("import os\nif os.environ.get('SECRET') is None: raise KeyError('none')", "KeyError: 'none'"),
    ],
)
def test_what_a_program_is_kept_from(
    program: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s")
    (tmp_path / "kept").write_text("k")
    ran = run_program(program.replace("{here}", str(tmp_path)), "", LIMITS)
    assert not ran.passed
    assert error in ran.errors.strip().splitlines()[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "k"
    assert len(ran.output) <= LIMITS.output_kb << 10


def test_system_calls_made_past_python_are_refused_too() -> None:
    """socket, ptrace, io_uring_setup, clone3 and memfd_create by their x86 numbers; on other processors these are other calls, refused or harmless."""
    program = "import ctypes; call = ctypes.CDLL(None).syscall\n" + "\n".join(
        f"assert call({number}, 0, 0, 0, 0) == -1" for number in (41, 101, 425, 435, 319)
    )
    assert run_program(program, "", LIMITS).passed


def test_time_ends_a_program() -> None:
    busy = run_program("while True: pass", "", LIMITS)
    assert not busy.passed
    assert not busy.timed_out  # by its processor time
    assert run_program("import time; time.sleep(60)", "", LIMITS).timed_out  # by the clock


def test_input_and_output_are_compared_line_by_line() -> None:
    cases = [{"input": "3\n", "output": "9\n"}, {"input": "4\n", "output": "16"}]
    prompt = Prompt(content="Square it.", columns={"tests": cases})
    texts = [
        "Read and square:\n```python\nprint(int(input()) ** 2)\n```\nDone.",
        "```\nprint(9)\n```",
        "import sys\nprint(int(input()) ** 2, ' ')\nsys.exit()",
        "print(int(input()) ** 2)\nraise ValueError",
    ]
    assert Verifier(LIMITS)([prompt] * 4, texts) == [1.0, 0.0, 1.0, 0.0]


def test_tests_are_text_or_a_list_and_the_prompt_may_begin_the_program() -> None:
    listed = Prompt(content="def f(x):\n", columns={"tests": ["y = f(2)", "assert y == 4"]})
    limits = VerifierConfig(kind="code", column="tests", with_prompt=True)
    assert Verifier(limits)([listed] * 2, ["    return x * x", "    return x"]) == [1.0, 0.0]


def test_a_machine_that_cannot_confine_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a kernel without the filter. Nothing runs unless the user says so by name."""
    broken = (
        Path(sandbox.__file__)
        .with_name("confine.py")
        .read_text()
        .replace("set_filter = 38, 22", "set_filter = 38, 9999")
    )
    file = tmp_path / "confine.py"
    file.write_text(broken)
    monkeypatch.setattr(sandbox, "_CONFINE", str(file))
    with pytest.raises(InputError, match=r"programs cannot be confined on this machine .* unconfined true"):
        check_sandbox(LIMITS)
    check_sandbox(VerifierConfig(kind="code", column="tests", unconfined=True))


def test_a_limit_too_small_for_python_is_found_at_once() -> None:
    with pytest.raises(InputError, match="does not run within memory_mb 1"):
        check_sandbox(VerifierConfig(kind="code", column="tests", memory_mb=1))


def test_many_threads_may_ask() -> None:
    verifier = Verifier(LIMITS)
    found: list[list[float]] = []
    prompt = Prompt(content="q", columns={"tests": "assert x == 1"})
    threads = [
        threading.Thread(target=lambda: found.append(verifier([prompt] * 2, ["x = 1", "x = 2"])))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[1.0, 0.0]] * 3
