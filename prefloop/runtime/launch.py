"""Scripts with which a scheduler starts a training on several machines: torchrun on each node, and an engine beside it.

torchrun starts the processes of a node, lets them meet, and starts them again when one has died; the command resumes from its last checkpoint.
The scheduler only gives the nodes.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

SHARED = "/prefloop"
"""The folder that all nodes share, where the scheduler mounts one."""
_ENGINE_PORT = 8000
_SETTINGS = "/etc/prefloop/settings.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A training, and the nodes that it is for."""

    name: str
    words: tuple[str, ...]
    """The command and its settings, without the program."""
    nodes: int
    """Nodes, the engine's included."""
    gpus: int
    """Of each node."""
    port: int
    restarts: int
    setup: str
    written_by: str
    """The command line that writes the script."""
    engine: tuple[str, ...] = ()
    """The engine's command and its settings, without the program and its GPUs; empty for none."""
    engine_gpus: int = 0

    @property
    def trainers(self) -> int:
        """Nodes that train."""
        return self.nodes - 1 if self.engine and self.nodes > 1 else self.nodes

    @property
    def gpus_of_trainer(self) -> int:
        """GPUs that train, on each of their nodes."""
        return self.gpus - self.engine_gpus if self.nodes == 1 else self.gpus

    def torchrun(self, *meeting: str, engine: str = "", words: Sequence[str] = ()) -> str:
        """The command line of a training node. `meeting` are torchrun's flags with which nodes find each other, `engine` is an engine's address, both as
        shell text; `words` are used in place of the training's own.
        """
        launcher = ("torchrun", f"--nnodes={self.trainers}", f"--nproc-per-node={self.gpus_of_trainer}")
        again = (f"--max-restarts={self.restarts}",)
        sampling = ("--sampling.engine", engine) if engine else ()
        command = shlex.join(words or self.words)
        return " ".join((*launcher, *meeting, *again, "-m prefloop", command, *sampling))

    def serve(self, host: str) -> str:
        """The command line of the engine's node; `host`, as shell text, is the address to listen on."""
        gpus = ",".join(map(str, range(self.engine_gpus)))
        return f"prefloop {shlex.join(self.engine)} --host {host} --port {_ENGINE_PORT} --gpus {gpus}"


def slurm(training: Training, *, hours: float) -> str:
    """A batch script for `sbatch`."""
    minutes = max(1, round(hours * 60))
    head = (
        "#!/usr/bin/env bash",
        f"#SBATCH --job-name={training.name}",
        f"#SBATCH --nodes={training.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={training.gpus}",
        f"#SBATCH --time={minutes // 60}:{minutes % 60:02d}:00",
        "#SBATCH --output=%x-%j.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        f"# {training.written_by}",
        "set -euo pipefail",
        *([training.setup] if training.setup else []),
    )
    if training.nodes == 1:
        return _lines(*head, *_on_one_node(training))
    first = 1 if training.engine else 0
    address = f'"http://${{nodes[0]}}:{_ENGINE_PORT}"' if training.engine else ""
    meeting = _meeting(f'"${{trainers[0]}}:{training.port}"', '"$SLURM_JOB_ID"')
    train = training.torchrun(*meeting, engine=address)
    return _lines(
        *head,
        'mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        f'trainers=("${{nodes[@]:{first}}}")',
        *(
            _background(
                f'srun --nodes=1 --ntasks=1 --nodelist="${{nodes[0]}}" {training.serve(_quoted("${nodes[0]}"))}',
                address,
            )
            if training.engine
            else ()
        ),
        # One node's torchrun that gives up ends the others, also one that waits for a store that it can no longer reach.
        f"srun --nodes={training.trainers} --ntasks={training.trainers} --ntasks-per-node=1 --kill-on-bad-exit=1 "
        '--nodelist="$(IFS=,; echo "${trainers[*]}")" \\',
        f"    {train}",
    )


def skypilot(training: Training, *, accelerator: str, image: str, volume: str) -> str:
    """A task for `sky launch`. Its nodes get the folder that it is launched from, and the bucket `volume` as a folder."""
    meeting = _meeting(f'"$(head -n1 <<< "$SKYPILOT_NODE_IPS"):{training.port}"', '"$SKYPILOT_TASK_ID"')
    run = _on_one_node(training) if training.nodes == 1 else (training.torchrun(*meeting),)
    resources = {"accelerators": f"{accelerator}:{training.gpus}"}
    task: dict[str, Any] = {
        "name": training.name,
        "num_nodes": training.nodes,
        "resources": resources | ({"image_id": f"docker:{image}"} if image else {}),
        "workdir": ".",
        "run": _lines("set -euo pipefail", *([training.setup] if training.setup else []), *run),
    }
    if volume:
        task["file_mounts"] = {SHARED: {"source": volume, "mode": "MOUNT"}}
    return f"# {training.written_by}\n{_as_yaml(task)}"


def kubernetes(training: Training, *, image: str, volume: str, settings_file: str) -> str:
    """Manifests for `kubectl apply`: a Job with a pod for each training node, and a Deployment with the engine.

    `settings_file` is the text of the command's file of settings; empty if it has none.
    """
    name, parts = training.name, []
    trainer_pods, engine_pods = {"app": name}, {"app": f"{name}-engine"}
    words = _with_settings_at(training.words, _SETTINGS) if settings_file else training.words
    command = training.torchrun(
        *_meeting(f"{name}-0.{name}:{training.port}", name),
        engine=f"http://{name}-engine:{_ENGINE_PORT}" if training.engine else "",
        words=words,
    )
    ready = [_wait_for(f"http://{name}-engine:{_ENGINE_PORT}")] if training.engine else []
    if settings_file:
        parts.append(_manifest("v1", "ConfigMap", name, data={"settings.yaml": settings_file}))
    pod = _pod(
        training,
        image,
        volume,
        (*ready, f"exec {command}"),
        gpus=training.gpus,
        with_file=bool(settings_file),
    )
    parts += [
        _manifest(
            "v1",
            "Service",
            name,
            # The pods must find each other before they are ready.
            spec={"clusterIP": "None", "publishNotReadyAddresses": True, "selector": trainer_pods},
        ),
        _manifest(
            "batch/v1",
            "Job",
            name,
            spec={
                "completions": training.trainers,
                "parallelism": training.trainers,
                "completionMode": "Indexed",
                "backoffLimit": training.restarts * training.trainers,
                "template": {
                    "metadata": {"labels": trainer_pods},
                    "spec": {"subdomain": name, "restartPolicy": "OnFailure", **pod},
                },
            },
        ),
    ]
    if training.engine:
        serve = f"exec {training.serve('0.0.0.0')}"
        served = _pod(training, image, volume, (serve,), gpus=training.engine_gpus, with_file=False)
        parts += [
            _manifest(
                "apps/v1",
                "Deployment",
                f"{name}-engine",
                spec={
                    "replicas": 1,
                    "selector": {"matchLabels": engine_pods},
                    "template": {"metadata": {"labels": engine_pods}, "spec": served},
                },
            ),
            _manifest(
                "v1",
                "Service",
                f"{name}-engine",
                spec={"selector": engine_pods, "ports": [{"port": _ENGINE_PORT}]},
            ),
        ]
    return f"# {training.written_by}\n" + "---\n".join(map(_as_yaml, parts))


def _meeting(endpoint: str, name: str) -> tuple[str, str, str]:
    """torchrun's flags with which several nodes meet at an address; both are shell text."""
    return "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", f"--rdzv-id={name}"


def _on_one_node(training: Training) -> tuple[str, ...]:
    """Lines that start the training, and the engine on the node's first GPUs."""
    if not training.engine:
        return (training.torchrun("--standalone"),)
    address = f"http://127.0.0.1:{_ENGINE_PORT}"
    rest = ",".join(map(str, range(training.engine_gpus, training.gpus)))
    return (
        *_background(training.serve("127.0.0.1"), address),
        f"export CUDA_VISIBLE_DEVICES={rest}",
        training.torchrun("--standalone", engine=address),
    )


def _background(serve: str, address: str) -> tuple[str, ...]:
    """Lines that start the engine, end it with the script, and wait until it answers."""
    return (
        f"{serve} &",
        "engine=$!",
        'trap \'kill "$engine" && wait "$engine" || true\' EXIT',
        _wait_for(address, "$engine"),
    )


def _wait_for(address: str, process: str = "") -> str:
    alive = f'kill -0 "{process}"; ' if process else ""
    return f"until curl --silent --fail --output /dev/null {address}/health; do {alive}sleep 5; done"


def _pod(
    training: Training, image: str, volume: str, lines: Sequence[str], *, gpus: int, with_file: bool
) -> dict[str, Any]:
    """The pod of a node: it runs these lines in the shared folder."""
    script = _lines("set -eu", *([training.setup] if training.setup else []), *lines)
    mounts = {SHARED: {"persistentVolumeClaim": {"claimName": volume}}}
    # NCCL and PyTorch's loaders share memory there; a pod has 64 MB otherwise.
    mounts |= {"/dev/shm": {"emptyDir": {"medium": "Memory"}}}
    if with_file:
        mounts |= {_SETTINGS.rpartition("/")[0]: {"configMap": {"name": training.name}}}
    container = {
        "name": "prefloop",
        "image": image,
        "command": ["/bin/bash", "-c", script],
        "workingDir": SHARED,
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
        "volumeMounts": [{"name": f"part-{at}", "mountPath": path} for at, path in enumerate(mounts)],
    }
    volumes = [{"name": f"part-{at}", **source} for at, source in enumerate(mounts.values())]
    return {"containers": [container], "volumes": volumes}


def _with_settings_at(words: Sequence[str], path: str) -> tuple[str, ...]:
    """The command with its file of settings at another path."""
    named = [*words]
    for at, word in enumerate(words):
        if word == "--config":
            named[at + 1] = path
        elif word.startswith("--config="):
            named[at] = f"--config={path}"
    return tuple(named)


def _manifest(api: str, kind: str, name: str, **content: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **content}


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, and what occurs twice written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _as_yaml(content: Any) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=10_000)


def _quoted(text: str) -> str:
    return f'"{text}"'


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"
