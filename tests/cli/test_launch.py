"""`prefloop launch`: the scripts are run with a scheduler, torchrun and an engine that only write down how they were called."""

import os
import stat
import subprocess
from pathlib import Path
from shlex import split
from typing import Any

import pytest
import yaml

from prefloop.cli import main

GRPO = split("grpo --model M --reward_model R --run.save_every 10 --out runs/g")
DPO = split("dpo --model M --data p.jsonl --run.save_every 10 --out runs/d")

PROGRAMS = {
    "scontrol": "echo n1; echo n2; echo n3",
    # The command once on each node of the list, at the same time, as Slurm would.
    "srun": """
while [[ $1 == --* ]]; do
    case $1 in --nodelist=*) IFS=, read -ra on <<< "${1#*=}" ;; --ntasks=*) count=${1#*=} ;; esac
    shift
done
[ "$count" = ${#on[@]} ] || exit 3
for node in "${on[@]}"; do NODE=$node "$@" & done
trap 'kill $(jobs -p); wait; exit' TERM
wait
""",
    "torchrun": 'printf "%s\\n" "${NODE:-here} ${CUDA_VISIBLE_DEVICES:-all} torchrun $(printf " %q" "$@")" >> "$CALLS"; exit "${FAILS:-0}"',
    # Serves until it is ended.
    "prefloop": 'printf "%s\\n" "${NODE:-here} all prefloop $(printf " %q" "$@")" >> "$CALLS"; trap "echo ended >> $CALLS; exit" TERM; touch "$UP"; while :; do sleep 0.02; done',
    "curl": '[ -e "$UP" ]',
    "sleep": "exec /bin/sleep 0.02",
}


def script(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["launch", *arguments]) == 0
    return capsys.readouterr().out


def ran(tmp_path: Path, text: str, **environment: str) -> tuple[int, list[list[str]]]:
    """The exit code of a script, and the calls it made: node, GPUs, program, arguments."""
    for name, body in PROGRAMS.items():
        file = tmp_path / name
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    calls = tmp_path / "calls"
    calls.touch()
    environment |= {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "UP": str(tmp_path / "up"),
    }
    code = subprocess.run(["bash", "-c", text], env=os.environ | environment, timeout=60).returncode
    return code, [split(line) for line in calls.read_text().splitlines()]


def of_torchrun(words: list[str]) -> Any:
    """What torchrun itself makes of its arguments."""
    from torch.distributed.run import get_args_parser

    return get_args_parser().parse_args(words)


def test_slurm_starts_the_engine_then_every_node_and_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "it's a file $HOME.jsonl"
    nodes = split("--slurm --nodes 3 --gpus 4 --engine_gpus 2 --hours 1.5")
    text = script(
        capsys, *nodes, "--", *GRPO, "--lora.rank", "128", "--sampling.staleness", "2", "--data", odd
    )
    assert {"#SBATCH --nodes=3", "#SBATCH --gpus-per-node=4", "#SBATCH --time=1:30:00"} <= set(
        text.splitlines()
    )
    serving, training = (line for line in text.splitlines() if line.startswith("srun "))
    assert "--kill-on-bad-exit=1" in training  # a torchrun that has lost the others may not end by itself
    assert "--kill-on-bad-exit" not in serving
    code, (engine, *calls) = ran(
        tmp_path, text, SLURM_JOB_ID="17", SLURM_JOB_NODELIST="n[1-3]", SLURM_JOB_NUM_NODES="3"
    )
    assert code == 0
    assert engine[:3] == ["n1", "all", "prefloop"]
    serve = "engine serve M --dtype float32 --max_sequences 64 --max_lora_rank 128 --max_adapters 3 --host n1 --port 8000 --gpus 0,1"
    assert engine[3:] == split(serve)
    assert calls.pop() == ["ended"]
    assert sorted(call[0] for call in calls) == ["n2", "n3"]
    for call in calls:
        found = of_torchrun(call[3:])
        assert (found.nnodes, found.nproc_per_node, found.max_restarts) == ("2", "4", 3)
        assert (found.rdzv_backend, found.rdzv_endpoint, found.rdzv_id) == ("c10d", "n2:29400", "17")
        assert (found.module, found.training_script) == (True, "prefloop")
        more = ["--lora.rank", "128", "--sampling.staleness", "2", "--data", odd, "--run.resume", "true"]
        assert found.training_script_args == [*GRPO, *more, "--sampling.engine", "http://n1:8000"]


def test_on_one_node_engine_and_training_share_the_gpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script(capsys, *split("--slurm --gpus 4 --engine_gpus 1"), "--", *GRPO, "--data", "p.jsonl")
    code, calls = ran(tmp_path, text, FAILS="1")
    assert code == 1  # the training's own
    (engine, train, ended) = calls
    assert engine[-2:] == ["--gpus", "0"]
    assert train[:3] == ["here", "1,2,3", "torchrun"]
    assert of_torchrun(train[3:]).nproc_per_node == "3"
    assert train[-1] == "http://127.0.0.1:8000"
    assert ended == ["ended"]


def test_a_dead_engine_ends_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(capsys, *split("--slurm --gpus 4 --engine_gpus 1"), "--", *GRPO, "--data", "p.jsonl")
    code, calls = ran(tmp_path, text.replace("prefloop engine serve", "false"))
    assert (code, calls) == (1, [])


def test_skypilot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = split("dpo --model M --data p.jsonl --run.resume true --run.save_every 10 --out /prefloop/d")
    nodes = split("--skypilot --nodes 2 --gpus 4 --accelerator A100 --volume s3://runs --image me/prefloop")
    task = yaml.safe_load(script(capsys, *nodes, "--", *shared))
    assert task["num_nodes"] == 2
    assert task["resources"] == {"accelerators": "A100:4", "image_id": "docker:me/prefloop"}
    assert task["file_mounts"] == {"/prefloop": {"source": "s3://runs", "mode": "MOUNT"}}
    code, [call] = ran(
        tmp_path,
        task["run"],
        SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
        SKYPILOT_TASK_ID="sky-5",
        SKYPILOT_NODE_RANK="1",
    )
    assert code == 0
    found = of_torchrun(call[3:])
    assert (found.nnodes, found.nproc_per_node) == ("2", "4")
    assert (found.rdzv_endpoint, found.rdzv_id) == ("10.0.0.1:29400", "sky-5")
    assert found.training_script_args == shared


def test_kubernetes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "grpo.yaml"
    settings.write_text(
        "model: M\nreward_model: R\ndata: {source: p.jsonl}\nrun: {out: runs/g, save_every: 10}\n"
    )
    nodes = split("--k8s --nodes 3 --gpus 4 --engine_gpus 2 --image me/prefloop --volume runs")
    text = script(capsys, *nodes, "--setup", "export A=1", "--", "grpo", "--config", str(settings))
    named = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}
    job = named["Job", "prefloop-grpo"]["spec"]
    serving = named["Deployment", "prefloop-grpo-engine"]["spec"]
    assert named["ConfigMap", "prefloop-grpo"]["data"] == {"settings.yaml": settings.read_text()}
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (2, 2, "Indexed")
    assert named["Service", "prefloop-grpo"]["spec"]["selector"] == job["template"]["metadata"]["labels"]
    labels = serving["template"]["metadata"]["labels"]
    assert labels == serving["selector"]["matchLabels"]
    assert labels == named["Service", "prefloop-grpo-engine"]["spec"]["selector"]
    assert labels != job["template"]["metadata"]["labels"]
    pods = [job["template"]["spec"], serving["template"]["spec"]]
    for pod in pods:
        (container,) = pod["containers"]
        assert [each["name"] for each in container["volumeMounts"]] == [
            each["name"] for each in pod["volumes"]
        ]
        assert (container["image"], container["workingDir"]) == ("me/prefloop", "/prefloop")
    assert [pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in pods] == [4, 2]
    mounted = {each["mountPath"]: each["name"] for each in pods[0]["containers"][0]["volumeMounts"]}
    sources = {each.pop("name"): each for each in pods[0]["volumes"]}
    assert sources[mounted["/prefloop"]] == {"persistentVolumeClaim": {"claimName": "runs"}}
    assert sources[mounted["/etc/prefloop"]] == {"configMap": {"name": "prefloop-grpo"}}

    (tmp_path / "up").touch()
    code, [call] = ran(tmp_path, pods[0]["containers"][0]["command"][2])
    found = of_torchrun(call[3:])
    assert (code, found.nnodes, found.nproc_per_node) == (0, "2", "4")
    assert found.rdzv_endpoint == "prefloop-grpo-0.prefloop-grpo:29400"
    resumed = ["grpo", "--config", "/etc/prefloop/settings.yaml", "--run.resume", "true"]
    assert found.training_script_args == [*resumed, "--sampling.engine", "http://prefloop-grpo-engine:8000"]
    assert "prefloop engine serve M " in pods[1]["containers"][0]["command"][2]


def test_the_script_is_written_and_one_that_starts_over_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "my job.sbatch"
    assert main(["launch", "--slurm", "--out", str(out), "--", *DPO, "--run.save_every=10"][:-1]) == 0
    assert capsys.readouterr().out == f"start it with: sbatch '{out}'\n"
    assert out.read_text() == script(capsys, "--slurm", "--", *DPO).replace(
        "--slurm --", f"--slurm --out '{out}' --"
    )
    assert not caplog.text
    script(capsys, "--slurm", "--", *split("dpo --model M --data p.jsonl --out runs/d"))
    assert "run.save_every is 0" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", *DPO], "no scheduler is given"),
        (["--slurm", "--k8s", "--", *DPO], "--slurm and --k8s are given"),
        (["--slurm"], "command is empty"),
        (["--slurm", *DPO], "--model is not a flag here; if it is one of `dpo`, write -- before that command"),
        (["--slurm", "--", *DPO, "--modle", "M"], "--modle is not a flag; did you mean --model?"),
        (["--slurm", "--", *DPO, "--epochs", "0"], "epochs is 0"),
        (["--slurm", "--", "label", "import", "--data", "x"], "prefloop label import is no training"),
        (["--slurm", "--nodes", "0", "--", *DPO], "nodes is 0; it must be 1 or more"),
        (["--slurm", "--engine_gpus", "8", "--", *GRPO], "it must be between 0 and 7"),
        (["--slurm", "--engine_gpus", "1", "--", *DPO], "prefloop dpo draws nothing from an engine"),
        (["--slurm", "--engine_gpus", "1", "--", *GRPO, "--sampling.engine", "http://x"], "sampling.engine is http://x, and engine_gpus 1"),
        (["--slurm", "--volume", "v", "--", *DPO], "volume is v, but a Slurm job"),
        (["--slurm", "--accelerator", "A100", "--", *DPO], "accelerator is A100, but only SkyPilot"),
        (["--k8s", "--volume", "v", "--", *DPO], "image is empty"),
        (["--k8s", "--image", "i", "--", *DPO], "volume is empty"),
        (["--k8s", "--image", "i", "--volume", "v", "--hours", "2", "--", *DPO], "hours is 2.0, but only Slurm"),
        (["--skypilot", "--volume", "s3://v", "--", *DPO], "name a folder in /prefloop"),
        (["--slurm", "--out", "/", "--", *DPO], "/: cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["launch", *arguments]
    if GRPO[0] in arguments:
        given += ["--data", "p.jsonl"]
    assert main(given) == 2
    assert message in capsys.readouterr().err


def test_the_command_that_goes_on_is_the_one_that_works_on_several_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from prefloop.runtime.machines import command
    from prefloop.runtime.world import World

    world = World(rank=1, size=8, device=torch.device("cpu"))
    for name, value in (("LOCAL_WORLD_SIZE", "4"), ("GROUP_WORLD_SIZE", "2"), ("MASTER_ADDR", "n2")):
        monkeypatch.setenv(name, value)
    found = of_torchrun(split(command(world, "dpo"))[1:])
    assert (found.nnodes, found.nproc_per_node, found.training_script) == ("2", "4", "prefloop")
    assert (found.rdzv_backend, found.rdzv_endpoint) == ("c10d", "n2:29400")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    assert command(world, "dpo") == "torchrun --nproc-per-node 4 -m prefloop dpo"
