"""The other side's environment, made once in a folder: TRL as published, and beside it the last release with PPO."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PPO_RELEASE = "trl==1.12.0"


def make_environment(folder: Path) -> Path:
    """Its Python. A second call finds it finished, unless the requirements have changed."""
    python = folder / "bin/python"
    finished, wanted = folder / "finished", (HERE / "requirements.txt").read_text(encoding="utf-8")
    if not finished.exists() or finished.read_text(encoding="utf-8") != wanted:
        print(f"setting up TRL in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
        subprocess.run(
            [*pip, "--no-deps", "--upgrade", "--target", with_ppo(folder), PPO_RELEASE], check=True
        )
        finished.write_text(wanted, encoding="utf-8")
    return python


def with_ppo(folder: Path) -> Path:
    """Goes in front of the module path where PPO is measured."""
    return folder / "with-ppo"
