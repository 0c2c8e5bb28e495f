"""A server with vLLM's routes that draws with prefloop's own sampler: real token ids and log-probabilities, and faults on demand."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel

from prefloop.configs.common import Compute, Sampling
from prefloop.models.load import load_policy
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
    raw_logprobs: bool = False
    """Log-probabilities at temperature 1, whatever the completions are drawn at: vLLM's default."""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    loras: dict[str, Path] = field(default_factory=dict)
    version: str = "default"
    positions: int = 256

    def __post_init__(self) -> None:
        self.turn = threading.Lock()
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
        with self.turn:
            self.calls.append((path, body))
            fault = self.faults.get(path)
            if fault is not None and (given := fault(self, body)) is not None:
                return given
            return self._route(path, body)

    def _route(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            base = {"id": self.name, "parent": None, "max_model_len": self.positions}
            return 200, {"data": [base, *({"id": name, "parent": self.name} for name in self.loras)]}
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
        elif path not in ("/pause", "/resume"):
            return 404, "no such route"
        return 200, "done"

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["model"]
        if name != self.name and name not in self.loras:
            return 404, f"the model {name} does not exist"
        model: Any = self.model
        if name in self.loras:
            model = PeftModel.from_pretrained(
                load_policy(str(self.folder), Compute(device="cpu")).model, str(self.loras[name])
            ).merge_and_unload()
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
