"""What is installed has what the studio needs: pages, scripts, pictures, migrations."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ("studio/static", "studio/templates", "data/store/migrations")


@pytest.mark.skipif(find_spec("setuptools") is None, reason="setuptools, which builds it, is not installed")
def test_the_wheel_has_pages_scripts_and_migrations_and_works(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "prefloop", source / "prefloop", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target = tmp_path / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--no-compile",
    ]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=300)
    for folder in ASSETS:
        wanted = {
            path.relative_to(ROOT)
            for path in (ROOT / "prefloop" / folder).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert wanted
        missing = {path for path in wanted if not (target / path).is_file()}
        assert missing == set(), folder
    # And it runs from there: a new store is made by the migrations, and the first page has its style.
    code = """
import prefloop, sys
from fastapi.testclient import TestClient
from prefloop.data.store import Store
from prefloop.studio.app import make_app
from prefloop.studio.service import Studio
assert prefloop.__file__.startswith(sys.argv[1]), prefloop.__file__
with Store.open(sys.argv[2]) as store:
    client = TestClient(make_app(Studio(store)))
    assert client.get("/readyz").status_code == 200
    assert "Sign in" in client.get("/login").text
    assert client.get("/static/label.js").status_code == client.get("/static/studio.css").status_code == 200
assert "torch" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(target), str(tmp_path / "prefloop.db")],
        check=True,
        timeout=300,
        cwd=tmp_path,
        env=environment,
    )
