"""vLLM's server as rollouts need it: in its own environment, with the routes that change weights, and log-probabilities at the temperature.

What it cannot serve is refused before it is started, for it takes a minute to say so itself, in a hundred lines.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from prefloop.configs.adapters import adapter_of
from prefloop.configs.engine import EngineServeConfig
from prefloop.configs.model_names import model_name
from prefloop.errors import InputError
from prefloop.rollout.engine import transfer
from prefloop.rollout.engine.environment import EnginePython

SMALLEST_HEAD = 32
"""vLLM's attention on a CPU takes heads of at least this size."""
_LAST_LINES = 3
_WORKS = {
    # Opens /pause, /resume, /collective_rpc and /update_weight_version.
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Threads that are bound to cores fight with the trainer's.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that is up."""

    url: str
    process: subprocess.Popen[bytes]
    seconds: float
    """From its start until it answered."""


def check_servable(settings: EngineServeConfig, environment: EnginePython) -> None:
    """Raise `InputError` for a model that vLLM cannot serve for training, and for a port that is taken."""
    model = settings.model
    if adapter_of(model) is not None:
        raise InputError(
            f"model {model!r} is an adapter; serve its base, and give the run the adapter: it sends it to the engine itself"
        )
    if model_name(model).gguf:
        raise InputError(f"model {model!r} is a .gguf file; serve a folder with safetensors weights")
    folder = Path(model).expanduser()
    if folder.is_dir():
        architecture = folder / "config.json"
        if not architecture.is_file():
            raise InputError(f"model {model!r} has no config.json; give the folder of a finished model")
        _check_architecture(json.loads(architecture.read_text(encoding="utf-8")), model, environment)
    with socket.socket() as probe:
        if probe.connect_ex((settings.host, settings.port)) == 0:
            raise InputError(f"port {settings.port} of {settings.host} is taken; choose another with --port")


def _check_architecture(architecture: dict[str, Any], model: str, environment: EnginePython) -> None:
    heads = architecture.get("num_attention_heads")
    size = architecture.get("head_dim") or (architecture.get("hidden_size", 0) // heads if heads else 0)
    if environment.on_cpu and 0 < size < SMALLEST_HEAD:
        raise InputError(
            f"model {model!r} has attention heads of size {size}, and vLLM on a CPU needs {SMALLEST_HEAD} or more; use sampling.engine process with it"
        )
    if architecture.get("is_encoder_decoder"):
        raise InputError(
            f"model {model!r} is an encoder-decoder, which vLLM does not serve; use sampling.engine process"
        )


def command_of(settings: EngineServeConfig, environment: EnginePython) -> tuple[list[str], dict[str, str]]:
    """What is started, and with which variables of the operating system."""
    # `vllm serve` of the build for CPUs does not start: its distribution has another name.
    command = [str(environment.python), "-m", "vllm.entrypoints.openai.api_server"]
    flags: dict[str, object] = {
        "model": settings.model,
        "served-model-name": Path(settings.model).name or settings.model,
        "host": settings.host,
        "port": settings.port,
        "dtype": settings.dtype,
        "max-num-seqs": settings.max_sequences,
        "max-loras": settings.max_adapters,
        "max-lora-rank": rank_that_fits(settings.max_lora_rank),
        # At the temperature that tokens are drawn at, and no settings of sampling but the request's.
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",
        "max-model-len": settings.max_model_len or None,
        "weight-transfer-config": json.dumps({"backend": transfer.NAME}),
    }
    variables = dict(_WORKS)
    if environment.on_cpu:
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cache_gb)
        command.append("--enforce-eager")
    else:
        count = len(settings.gpus.split(","))
        flags |= {"gpu-memory-utilization": settings.gpu_memory, "tensor-parallel-size": count}
        variables["CUDA_VISIBLE_DEVICES"] = settings.gpus or "0"
    command += [
        "--enable-lora",
        *(word for name, value in flags.items() if value is not None for word in (f"--{name}", str(value))),
    ]
    return command, variables


def rank_that_fits(rank: int) -> int:
    """The smallest largest rank that vLLM knows and that holds this one."""
    known = (8, 16, 32, 64, 128, 256, 320, 512)
    fits = [size for size in known if size >= rank]
    if not fits:
        raise InputError(f"max_lora_rank is {rank}; vLLM takes at most {known[-1]}")
    return fits[0]


def write_plugin(folder: Path) -> None:
    """What makes vLLM take weights from a trainer's memory, for Python's path: `transfer` as a distribution with an entry point."""
    shutil.copyfile(transfer.__file__, folder / f"{transfer.PLUGIN}.py")
    about = folder / f"{transfer.PLUGIN}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {transfer.PLUGIN}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        f"[vllm.general_plugins]\n{transfer.NAME} = {transfer.PLUGIN}:register\n"
    )


@contextmanager
def serving(
    settings: EngineServeConfig, environment: EnginePython, *, takes_signals: bool = True
) -> Iterator[Server]:
    """A server that is up; it ends with the body, on SIGTERM too unless that is somebody else's (`takes_signals`). Raises `InputError` with its last
    words if it does not come up."""
    check_servable(settings, environment)
    command, variables = command_of(settings, environment)
    url, began = f"http://{settings.host}:{settings.port}", time.monotonic()
    deadline = began + 60 * settings.wait_minutes
    with (
        tempfile.TemporaryDirectory(prefix="prefloop-engine-") as plugin,
        _ending(takes_signals),
        open(settings.log, "ab") as log,
    ):
        write_plugin(Path(plugin))
        path = os.pathsep.join(filter(None, (plugin, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            command,
            env=os.environ | variables | {"PYTHONPATH": path},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            # A group of its own: its workers end with it.
            start_new_session=True,
        )
        try:
            while not _is_up(url):
                if process.poll() is not None:
                    raise InputError(
                        f"the engine did not start: {last_words(Path(settings.log))} (all of it in {settings.log})"
                    )
                if time.monotonic() > deadline:
                    raise InputError(
                        f"the engine is not up after wait_minutes = {settings.wait_minutes:g}; raise it, or look into {settings.log}"
                    )
                time.sleep(0.5)
            yield Server(url=url, process=process, seconds=time.monotonic() - began)
        finally:
            _stop(process)


@contextmanager
def _ending(takes_signals: bool) -> Iterator[None]:
    """SIGTERM ends the body as an exception does."""
    if not takes_signals:
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def last_words(log: Path) -> str:
    """The last error in a server's log, in one line."""
    lines = [
        line.strip()
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    last = max(
        (place for place, line in enumerate(lines) if "Error" in line),
        default=max(0, len(lines) - _LAST_LINES),
    )
    return (
        " ".join(line.rpartition("] ")[2] for line in lines[last : last + _LAST_LINES])[:400]
        or "it said nothing"
    )
