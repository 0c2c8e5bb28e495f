"""Settings of rollouts that an inference engine draws: how a stage uses one, and `prefloop engine`."""

import re
from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import Sampling, require, require_effect

PROCESS = "process"
"""`sampling.engine`: this process samples, with the weights being trained."""
COLOCATED = "colocated"
"""`sampling.engine`: the run starts a server beside itself."""
Sync = Literal["auto", "adapter", "disk", "gloo", "nccl", "ipc"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineSampling(Sampling):
    """How a stage's own completions are drawn, and by what."""

    engine: str = PROCESS
    """`process` samples in this process with the weights being trained; `colocated` starts a server on the same GPU and ends it with the run; an address
    such as http://127.0.0.1:8000 uses the one that `prefloop engine serve` started there; `module:function` or `file.py:function` is a function of yours with the arguments of `prefloop.rollout.sample`."""
    sync: Sync = "auto"
    """How an engine gets the policy's weights: as a LoRA adapter or as a model in a folder, where both see the run's folder; or from memory, by gloo (CPUs),
    nccl (GPUs) or ipc (one GPU for both). auto is adapter where one is trained, else disk."""
    engine_minutes: float = 10.0
    """Minutes within which an engine must have drawn a batch, or taken new weights; then the run stops."""
    engine_tolerance: float = 0.0
    """After every update of its weights, an engine's log-probabilities may differ from the trainer's by this much on average, or the run stops; 0
    goes by compute.dtype: 0.002 in float32, 0.1 in bfloat16."""
    staleness: int = 0
    """Batches that an engine draws ahead while the run learns. They are of weights up to so many steps old, which `importance` weighs; 0 draws each batch
    with the weights of its step."""
    partial: bool = False
    """With staleness 2 or more: new weights do not wait for completions under way, which go on with them; each token keeps the version that drew it."""
    engine_memory: float = 0.4
    """Of an engine that is colocated, on a GPU: share of its memory to use."""

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        require(
            self.engine == PROCESS or has_engine(self) or is_function(self.engine),
            f"sampling.engine is {self.engine!r}; it must be process, colocated, the address of a server, such as http://127.0.0.1:8000, or module:function",
        )
        require_effect(
            self,
            (
                not has_engine(self),
                ("sync", "engine_minutes", "engine_tolerance", "staleness", "partial"),
                f"but sampling.engine is {self.engine}, not a server's address",
            ),
        )
        require_effect(
            self,
            (
                self.engine != COLOCATED,
                ("engine_memory",),
                f"but sampling.engine is {self.engine}; give another engine its --gpu_memory where it is started",
            ),
        )
        require(
            0 < self.engine_memory < 1,
            f"engine_memory is {self.engine_memory}; it must be a share of the GPU's memory, above 0 and below 1",
        )
        require(
            self.engine_minutes > 0, f"engine_minutes is {self.engine_minutes}; it must be above 0 minutes"
        )
        require(
            self.engine_tolerance >= 0,
            f"engine_tolerance is {self.engine_tolerance}; it must be 0 (by compute.dtype) or more",
        )
        require(
            self.staleness >= 0,
            f"sampling.staleness is {self.staleness}; it must be 0 (nothing is drawn ahead) or more",
        )
        require(
            not self.partial or self.staleness > 1,
            f"sampling.partial is set, but with sampling.staleness {self.staleness} nothing is under way when new weights come; set it to 2 or more",
        )
        require(
            not has_engine(self) or (self.top_p == 1 and self.top_k == 0),
            f"sampling.top_p is {self.top_p} and sampling.top_k {self.top_k}, but an engine gives log-probabilities among the tokens it kept, not among "
            "all, so every ratio would be off; leave both out",
        )


def staleness_of(sampling: Sampling) -> int:
    """Batches that an engine draws ahead; none in stages that have no setting for it."""
    return sampling.staleness if isinstance(sampling, OnlineSampling) else 0


def engine_of(sampling: Sampling) -> str:
    """What samples; in stages that have no setting for it, this process does."""
    return sampling.engine if isinstance(sampling, OnlineSampling) else PROCESS


def has_engine(sampling: Sampling) -> bool:
    """Whether a server samples."""
    return engine_of(sampling) == COLOCATED or _is_address(engine_of(sampling))


def is_function(engine: str) -> bool:
    """Whether this names a function that samples."""
    return not _is_address(engine) and re.fullmatch(r".+:[^\W\d][\w.]*", engine) is not None


def _is_address(engine: str) -> bool:
    return engine.startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """Weights for completions whose sampler had other numbers than the trainer: the ratio of their probabilities, bounded."""

    rule: Literal["auto", "off", "truncate", "mask"] = "auto"
    """Bound the ratio to low and high (TIS), or do not learn from what is outside (MIS, IcePop). auto is truncate with an engine or a sampler of your own, else off."""
    level: Literal["token", "sequence_mean", "sequence_sum"] = "token"
    """The ratio of each token, of the completion per token, or of the completion."""
    low: float = 0.0
    """Smallest ratio; IcePop has 0.5 here and 5 as high."""
    high: float = 2.0
    """Largest ratio."""

    def __post_init__(self) -> None:
        require(
            0 <= self.low <= 1,
            f"importance.low is {self.low}; it must be between 0 and 1, the ratio where both agree",
        )
        require(self.high >= 1, f"importance.high is {self.high}; it must be at least 1")
        off = (self.rule == "off", ("level", "low", "high"), "but importance.rule is off")
        require_effect(self, off)

    def rule_with(self, sampling: Sampling, old_logprobs: str) -> str:
        """The rule of a run with these settings: `auto` by what samples, off where the sampler's log-probabilities are the ratio's own."""
        if self.rule != "auto":
            return self.rule
        return "truncate" if engine_of(sampling) != PROCESS and old_logprobs != "sampler" else "off"

    def check(self, sampling: Sampling, old_logprobs: str) -> None:
        """Raise `InputError` for weights that could not be had, or settings of weights that are off."""
        require(
            self.rule in ("auto", "off") or old_logprobs != "sampler",
            f"importance.rule is {self.rule}, which weighs the policy's log-probabilities against the sampler's, so both are needed; set old_logprobs "
            "to policy or auto",
        )
        require(
            old_logprobs != "sampler" or not is_function(engine_of(sampling)),
            f"old_logprobs is sampler, but sampling.engine is {engine_of(sampling)}, whose log-probabilities need not be the policy's; set old_logprobs to "
            "policy or auto",
        )
        off = self.rule_with(sampling, old_logprobs) == "off"
        require_effect(
            self,
            (off, ("level", "low", "high"), "but importance.rule is off; set it to truncate or mask"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineServeConfig:
    """Start vLLM's server for rollouts, in an environment of its own, and print its address. Ctrl-C stops it."""

    model: str
    """The model that a run starts from: a folder or a hub name. For an adapter, its base."""
    environment: str = ""
    """Python environment that has vLLM; empty looks at PREFLOOP_ENGINE, then at .venv-engine here and beside prefloop's own."""
    host: str = "127.0.0.1"
    """Address to listen on. Whoever reaches it can change the weights: leave it on this machine, or on a network of your own."""
    port: int = 8000
    """Port to listen on."""
    gpus: str = ""
    """GPUs to use, as 4,5,6,7: the model is split over all of them; empty uses the first one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations; the run's compute.dtype."""
    max_model_len: int = 0
    """Tokens of a prompt with its completion, at most; 0 takes the model's own limit."""
    max_sequences: int = 64
    """Completions decoded together; the run's sampling.batch_size."""
    max_lora_rank: int = 64
    """Largest rank of an adapter that a run may send."""
    max_adapters: int = 1
    """Adapters that it draws with at a time: one more than the run's sampling.staleness."""
    cache_gb: int = 1
    """On a CPU: gigabytes for the key-value cache."""
    gpu_memory: float = 0.9
    """On a GPU: share of its memory to use."""
    log: str = "engine.log"
    """File for what the server says."""
    wait_minutes: float = 15.0
    """Minutes within which it must be up."""

    def __post_init__(self) -> None:
        require(bool(self.model), "model is empty; give the folder or hub name that the run starts from")
        require(0 < self.port < 65536, f"port is {self.port}; it must be between 1 and 65535")
        for name in ("max_sequences", "max_lora_rank", "max_adapters", "cache_gb"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(
            self.max_model_len >= 0,
            f"max_model_len is {self.max_model_len}; it must be 0 (the model's) or more",
        )
        require(self.wait_minutes > 0, f"wait_minutes is {self.wait_minutes}; it must be above 0")
        require(0 < self.gpu_memory <= 1, f"gpu_memory is {self.gpu_memory}; it must be a share, above 0")
        require(
            all(part.isdigit() for part in self.gpus.split(",") if self.gpus),
            f"gpus is {self.gpus!r}; give numbers with commas, such as 0,1",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInstallConfig:
    """Make the environment of `prefloop engine serve`: a Python environment with vLLM, apart from prefloop's own."""

    folder: str = ".venv-engine"
    """Where to make it."""
    kind: Literal["auto", "cpu", "cuda"] = "auto"
    """Which build of vLLM: auto goes by whether this machine has an NVIDIA GPU."""
