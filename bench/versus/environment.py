"""The other side's environment, made once in a folder: TRL as published, and beside it the last release with PPO."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PPO_RELEASE = "trl==1.12.0"


def make_environment(folder: Path) -> Path:
    """Its Python. A second call finds it finished."""
    python = folder / "bin/python"
    finished = folder / "finished"
    if not finished.exists():
        print(f"setting up TRL in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
        subprocess.run([*pip, "--no-deps", "--target", with_ppo(folder), PPO_RELEASE], check=True)
        finished.touch()
    return python


def with_ppo(folder: Path) -> Path:
    """Goes in front of the module path where PPO is measured."""
    return folder / "with-ppo"
