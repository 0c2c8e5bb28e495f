"""Servers with vLLM's and SGLang's routes that draw with prefloop's own sampler: real token ids and log-probabilities, and faults on demand."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch._C._distributed_c10d import TCPStore
from transformers import PreTrainedModel

from prefloop.configs.common import Compute, Sampling
from prefloop.models.load import load_policy
from prefloop.rollout.engine.transfer import WeightGroup
from prefloop.rollout.sampler import sample

Fault = Callable[["EngineDouble", dict[str, Any]], tuple[int, Any] | None]
"""What answers a request in place of the route: a status and a body; None leaves it to the route, an exception breaks the connection."""


@dataclass
class EngineDouble:
    """The served model, and what was asked of it."""

    folder: Path
    name: str = "base"
    faults: dict[str, Fault] = field(default_factory=dict)
    """By path."""
    at_once: bool = False
    """Faults do not wait for each other; routes do."""
    raw_logprobs: bool = False
    """Log-probabilities at temperature 1, whatever the completions are drawn at: vLLM's default."""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    loras: dict[str, Path] = field(default_factory=dict)
    version: str = "default"
    positions: int = 256

    def __post_init__(self) -> None:
        self.turn = threading.Lock()
        self.group: WeightGroup | None = None
        self.restart()
        handler = type("Handler", (_Handler,), {"double": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def restart(self) -> None:
        """As a new process: the weights of the folder, no adapter, no version."""
        self.model: PreTrainedModel = load_policy(str(self.folder), Compute(device="cpu")).model
        head: Any = self.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())  # as vLLM holds it, tied or not
        self.loras, self.version = {}, "default"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Bodies of the requests to a path."""
        return [body for route, body in self.calls if route == path]

    def load_weights(self, folder: str, *, part: float = 1.0) -> None:
        """Read a share of a model's tensors from a folder."""
        files = sorted(Path(folder).glob("*.safetensors"))
        tensors = [item for file in files for item in load_file(file).items()]
        self.model.load_state_dict(dict(tensors[: int(part * len(tensors))]), strict=False)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body of the answer to a request."""
        fault = self.faults.get(path, lambda double, body: None)
        if self.at_once:
            with self.turn:
                self.calls.append((path, body))
            return fault(self, body) or self.routed(path, body)
        with self.turn:
            self.calls.append((path, body))
            return fault(self, body) or self._route(path, body)

    def routed(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """What the route answers, in its turn."""
        with self.turn:
            return self._route(path, body)

    OWNER = "vllm"

    def models(self) -> dict[str, Any]:
        base = {"id": self.name, "parent": None, "max_model_len": self.positions, "owned_by": self.OWNER}
        return {"data": [base, *({"id": name, "parent": self.name} for name in self.loras)]}

    def join(self, told: dict[str, Any]) -> None:
        """As a worker of vLLM."""
        store = TCPStore(
            told["address"], told["port"], told["size"], is_master=False, timeout=timedelta(seconds=20)
        )
        self.group = WeightGroup(store, backend=told["way"], rank=1, size=told["size"], seconds=20)

    def receive(self, told: dict[str, Any], *, part: float = 1.0) -> list[str]:
        """All of a bucket arrives, a share of it is loaded; the names of that."""
        assert self.group is not None
        sizes = zip(told["shapes"], told["dtypes"], strict=True)
        tensors = [torch.empty(shape, dtype=getattr(torch, dtype)) for shape, dtype in sizes]
        self.group.broadcast(tensors)
        loaded = list(zip(told["names"], tensors, strict=True))[: int(part * len(tensors))]
        self.model.load_state_dict(dict(loaded), strict=False)
        return [name for name, _ in loaded]

    def leave(self) -> None:
        assert self.group is not None
        self.group.close()
        self.group = None

    def _route(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, self.models()
        if path == "/version":
            return 200, {"version": "double"}
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path == "/v1/completions":
            return self._complete(body)
        if path == "/v1/load_lora_adapter":
            self.loras[body["lora_name"]] = Path(body["lora_path"])
        elif path == "/v1/unload_lora_adapter":
            if self.loras.pop(body["lora_name"], None) is None:
                return 404, "no such adapter"
        elif path == "/collective_rpc":
            self.load_weights(body["kwargs"]["weights_path"])
        elif path == "/update_weight_version":
            self.version = body["new_version"]
        elif path == "/get_world_size":
            return 200, {"world_size": 1}
        elif path == "/init_weight_transfer_engine":
            self.join(body["init_info"])
        elif path == "/update_weights":
            self.receive(body["update_info"])
        elif path == "/finish_weight_update":
            self.version = body["weight_version"]
        elif path == "/shutdown_weight_transfer_engine":
            self.leave()
        elif path not in ("/pause", "/resume", "/abort_requests", "/start_weight_update"):
            return 404, "no such route"
        return 200, "done"

    def model_named(self, name: str) -> Any:
        """The base, or with an adapter."""
        if name not in self.loras:
            return self.model
        base = load_policy(str(self.folder), Compute(device="cpu")).model
        return PeftModel.from_pretrained(base, str(self.loras[name])).merge_and_unload()

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["model"]
        if name != self.name and name not in self.loras:
            return 404, f"the model {name} does not exist"
        model = self.model_named(name)
        (drawn,) = sample(
            model,
            [body["prompt"]],
            k=body["n"],
            stop_ids=body["stop_token_ids"],
            sampling=Sampling(max_new_tokens=body["max_tokens"], temperature=body["temperature"]),
            seed=body["seed"],
            row_keys=[0],
        )
        choices = []
        for index, one in enumerate(drawn):
            logprobs = self._raw(model, body["prompt"], one.tokens) if self.raw_logprobs else one.logprobs
            choices.append(
                {
                    "index": index,
                    "token_ids": one.tokens,
                    "logprobs": {"token_logprobs": logprobs},
                    "finish_reason": "stop" if one.ended else "length",
                }
            )
        return 200, {"choices": choices}

    @torch.no_grad()
    def _raw(self, model: Any, prompt: list[int], tokens: list[int]) -> list[float]:
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).squeeze(1).tolist()


class SGLangDouble(EngineDouble):
    """SGLang's routes, by its public source."""

    OWNER = "sglang"

    def _route(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, self.models()
        if path == "/get_server_info":
            return 200, {"version": "double"}
        if path == "/get_model_info":
            return 200, {"model_path": str(self.folder), "weight_version": self.version}
        if path == "/generate":
            return self._generate(body)
        if path == "/load_lora_adapter":
            if body["lora_name"] in self.loras:
                return 400, {"success": False, "error_message": "already loaded"}
            self.loras[body["lora_name"]] = Path(body["lora_path"])
        elif path == "/unload_lora_adapter":
            if self.loras.pop(body["lora_name"], None) is None:
                return 400, {"success": False, "error_message": "no such adapter"}
        elif path == "/update_weights_from_disk":
            self.load_weights(body["model_path"])
            self.version = body["weight_version"]
        elif path != "/abort_request":
            return 404, "no such route"
        return 200, {"success": True}

    def _generate(self, body: dict[str, Any]) -> tuple[int, Any]:
        given = body["sampling_params"]
        name = body.get("lora_path", "")
        if name and name not in self.loras:
            return 400, {"error": {"message": f"the adapter {name} is not loaded"}}
        ((one,),) = sample(
            self.model_named(name),
            [body["input_ids"]],
            k=1,
            stop_ids=given["stop_token_ids"],
            sampling=Sampling(max_new_tokens=given["max_new_tokens"], temperature=given["temperature"]),
            seed=given["sampling_seed"],
            row_keys=[0],
        )
        drawn = [[value, token, None] for value, token in zip(one.logprobs, one.tokens, strict=True)]
        reason = {"type": "stop", "matched": one.tokens[-1]} if one.ended else {"type": "length"}
        return 200, {
            "output_ids": one.tokens,
            "meta_info": {"output_token_logprobs": drawn, "finish_reason": reason},
        }


class _Handler(BaseHTTPRequestHandler):
    double: EngineDouble
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self._answer(json.loads(self.rfile.read(length)) if length else {})

    def _answer(self, body: dict[str, Any]) -> None:
        try:
            status, answer = self.double.answer(self.path.partition("?")[0], body)
        except ConnectionError:
            self.close_connection = True
            return
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""
