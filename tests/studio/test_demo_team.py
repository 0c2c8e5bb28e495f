"""The demo of `make studio`: a team of every role with work to look at, and a training whose commands can be run."""

import stat
from pathlib import Path

import pytest

from prefloop.cli.commands import find, load
from prefloop.cli.flags import read_flags
from prefloop.configs.label import ServeConfig
from prefloop.configs.load import load_config
from prefloop.data.store import Store
from prefloop.studio import accounts, adjudicate, demo_team, disputes, members
from prefloop.studio.service import Studio


def test_a_team_of_every_role_has_work_to_look_at(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    password = demo_team.prepare(folder)
    assert demo_team.prepare(folder) == password  # and nothing is added
    assert stat.S_IMODE((folder / "password.txt").stat().st_mode) == 0o600
    with Store.open(str(folder / "prefloop.db")) as store:
        studio = Studio(store)
        (project,) = studio.projects()
        roles = {member.login: member.role for member in members.members(studio, project.id)}
        assert set(roles.values()) == {"annotator", "adjudicator", "manager"}
        assert accounts.password_fits(studio, "olga", password) is not None
        people = {each.login: each.annotator for each in accounts.people(studio)}
        assert len(adjudicate.queue(studio, project, people["judith"])) > 3
        studio.acknowledge(project.id, people["eli"], project.guideline_version)
        assert studio.lease(project.id, people["eli"]) is not None
        assert len(disputes.open_disputes(studio, [project.id])) == 1
        (version,) = store.datasets()
        assert version.label == "helpful@1"
        assert version.export.rows > 50


def test_the_trainings_settings_are_valid(tmp_path: Path) -> None:
    for stage, *given in demo_team.commands(tmp_path / "a folder"):
        settings = load(find([stage])[1].settings)
        flags = read_flags(given, settings)
        config = load_config(settings, flags.config, flags.given)
        assert config.run.out == str(tmp_path / "a folder/runs" / stage)


def test_what_is_printed_leads_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[ServeConfig] = []
    (tmp_path / "runs/dpo").mkdir(parents=True)
    (tmp_path / "runs/dpo/summary.json").write_text("{}")  # trained before, so nothing is begun
    monkeypatch.setattr("sys.argv", ["demo_team", "--folder", str(tmp_path), "--port", "8123"])
    demo_team.main(served.append)
    told = capsys.readouterr().out
    assert (
        f"http://127.0.0.1:8123 with the password {(tmp_path / 'password.txt').read_text().strip()}" in told
    )
    assert "judith   adjudicator" in told
    assert [config.runs for config in served] == [str(tmp_path / "runs")]
