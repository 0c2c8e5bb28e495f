"""What vLLM's and SGLang's servers are asked, and how they answer. The client sends it.

The two agree on /v1/models and on who decides when a completion ends; nearly everything else has other names. SGLang's side is written by its public
source and documentation and tested against a double of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prefloop.configs.common import Sampling

Call = tuple[str, Mapping[str, Any]]
"""A path and the body that is posted to it."""
_NEUTRAL = {
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""What a server may take from the model's generation_config.json unless a request says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedWeights:
    """What an engine can draw with."""

    name: str
    """Of the base or of the adapter, in requests."""
    adapter: bool
    version: int
    """The steps of learning behind them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Completions of one prompt."""

    ids: Sequence[int]
    k: int
    stops: Sequence[int]
    sampling: Sampling
    new_tokens: int
    """At most."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionPiece:
    """A completion, or the beginning of one that was interrupted."""

    tokens: list[int]
    logprobs: list[float]
    reason: str
    """Why it ended: `stop`, `length`, or `abort` where it was interrupted."""


class Routes(Protocol):
    """The routes of a server."""

    name: str
    """Of the program."""
    shares_prompts: bool
    """Whether one request may ask for several completions with seeds of their own."""
    draws: str
    """Path for completions."""
    about: str
    """Path at which `version` is, of the program."""
    interrupt: Call
    """Ends everything that is under way; what is drawn so far comes back."""

    def body(self, weights: ServedWeights, asked: Asked) -> dict[str, Any]:
        """What is posted to `draws`."""
        ...

    def choices(self, answer: Any) -> list[CompletionPiece]:
        """What came back. Raises KeyError, IndexError, TypeError or ValueError if it is not that."""
        ...

    def load_adapter(self, name: str, folder: str) -> Call:
        """Load it under a name that is free."""
        ...

    def unload_adapter(self, name: str) -> Call:
        """Take it off."""
        ...

    def load_model(self, folder: str, version: str) -> tuple[list[Call], list[Call]]:
        """Take all weights from a folder and have this version; then what must be posted after that, whether or not it failed."""
        ...

    version: str
    """Path at which `weight_version` is."""


class VLLM:
    """vLLM's server."""

    name = "vLLM"
    about = "/version"
    shares_prompts = True
    draws = "/v1/completions"
    interrupt: Call = ("/abort_requests", {})
    version = "/weight_info"
    RELOAD = "reload_weights"
    """The method of vLLM's workers that reads a folder."""
    PAUSE: Call = ("/pause?mode=wait&clear_cache=true", {})
    RESUME: Call = ("/resume", {})

    def body(self, weights: ServedWeights, asked: Asked) -> dict[str, Any]:
        """See `Routes`."""
        return {
            **_NEUTRAL,
            "top_k": 0,
            "model": weights.name,
            "prompt": list(asked.ids),
            "n": asked.k,
            "seed": asked.seed,
            "max_tokens": asked.new_tokens,
            "temperature": asked.sampling.temperature,
            # The model's own end tokens count only where they are among ours.
            "ignore_eos": True,
            "stop_token_ids": list(asked.stops),
            "logprobs": 0,
            "return_token_ids": True,
        }

    def choices(self, answer: Any) -> list[CompletionPiece]:
        """See `Routes`."""
        return [
            CompletionPiece(
                tokens=[int(token) for token in choice["token_ids"] or ()],
                logprobs=[float(value) for value in (choice["logprobs"] or _NO_LOGPROBS)["token_logprobs"]],
                reason=str(choice.get("finish_reason")),
            )
            for choice in sorted(answer["choices"], key=lambda choice: choice["index"])
        ]

    def load_adapter(self, name: str, folder: str) -> Call:
        """See `Routes`."""
        return "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}

    def unload_adapter(self, name: str) -> Call:
        """See `Routes`."""
        return "/v1/unload_lora_adapter", {"lora_name": name}

    def load_model(self, folder: str, version: str) -> tuple[list[Call], list[Call]]:
        """See `Routes`."""
        read = ("/collective_rpc", {"method": self.RELOAD, "kwargs": {"weights_path": folder}})
        return [self.PAUSE, read, ("/update_weight_version", {"new_version": version})], [self.RESUME]


_NO_LOGPROBS: dict[str, list[float]] = {"token_logprobs": []}


class SGLang:
    """SGLang's server. Its seeds count only with --enable-deterministic-inference, and it ends a completion at the model's own end tokens too."""

    name = "SGLang"
    about = "/get_server_info"
    # It gives all completions of a request one seed.
    shares_prompts = False
    draws = "/generate"
    interrupt: Call = ("/abort_request", {"abort_all": True})
    version = "/get_model_info"
    _SEEDS = 1 << 63

    def body(self, weights: ServedWeights, asked: Asked) -> dict[str, Any]:
        """See `Routes`."""
        body = {
            "input_ids": list(asked.ids),
            "sampling_params": {
                **_NEUTRAL,
                "top_k": -1,
                "max_new_tokens": asked.new_tokens,
                "temperature": asked.sampling.temperature,
                "stop_token_ids": list(asked.stops),
                "sampling_seed": asked.seed % self._SEEDS,
            },
            "return_logprob": True,
        }
        return body | ({"lora_path": weights.name} if weights.adapter else {})

    def choices(self, answer: Any) -> list[CompletionPiece]:
        """See `Routes`."""
        about = answer["meta_info"]
        drawn = about["output_token_logprobs"]
        return [
            CompletionPiece(
                tokens=[int(token) for _, token, *_ in drawn],
                logprobs=[float(value) for value, *_ in drawn],
                reason=str(about["finish_reason"]["type"]),
            )
        ]

    def load_adapter(self, name: str, folder: str) -> Call:
        """See `Routes`."""
        return "/load_lora_adapter", {"lora_name": name, "lora_path": folder}

    def unload_adapter(self, name: str) -> Call:
        """See `Routes`."""
        return "/unload_lora_adapter", {"lora_name": name}

    def load_model(self, folder: str, version: str) -> tuple[list[Call], list[Call]]:
        """See `Routes`. It waits by itself until nothing is under way, and lets nothing in meanwhile."""
        body = {"model_path": folder, "weight_version": version, "flush_cache": True}
        return [("/update_weights_from_disk", body)], []


KINDS: Mapping[str, Routes] = {"vllm": VLLM(), "sglang": SGLang()}
"""By who a server says at /v1/models that it is."""
