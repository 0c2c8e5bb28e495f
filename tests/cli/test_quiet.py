"""What libraries tell each other stays off the terminal; what a warning tells the user is one line there."""

import subprocess
import sys
from pathlib import Path

from tests.tiny_project import make_model


def test_a_run_with_adapters_says_nothing_of_libraries(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", chat=False)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    basic = f"--data {rows} --data.heldout 0 --max_steps 1 --compute.device cpu"
    new = f"sft --model {model} --out {tmp_path}/first --lora.rank 2 {basic}"
    again = f"sft --model {tmp_path}/first/final/adapter --out {tmp_path}/second --lora.adapter train {basic}"
    program = (
        f"from prefloop.cli import main\nfor line in ({new!r}, {again!r}): assert main(line.split()) == 0"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "second" in said
    assert "Warning" not in said
    assert "deprecated" not in said
    assert "it/s]" not in said  # bars of loading and saving


def test_a_warning_for_the_user_is_one_line() -> None:
    program = (
        "import warnings\n"
        "from prefloop.cli import program\n"
        "program._set_up_logging()\n"
        "warnings.warn('your disk is\\nnearly full')\n"
        "warnings.warn('by and by', FutureWarning)\n"
        "warnings.warn_explicit('old name', FutureWarning, 'x.py', 1, module='peft.peft_model')\n"
        "warnings.warn_explicit('old name', DeprecationWarning, 'x.py', 1, module='transformers')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "prefloop: warning: your disk is nearly full",
        "prefloop: warning: by and by",
    ]
