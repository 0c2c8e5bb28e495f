"""Settings of `prefloop label judge`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, require


@dataclass(frozen=True, kw_only=True, slots=True)
class CallLimits:
    """How often, how long and at what price the model is asked."""

    timeout: float = 60.0
    """Seconds for one answer."""
    attempts: int = 5
    """Of one call, the first included; with waits that double."""
    per_minute: float = 0.0
    """Requests begun in a minute, at most; 0 for no limit."""
    max_calls: int = 0
    """Requests in all, retries included; 0 for no limit."""
    max_cost: float = 0.0
    """In the currency of the prices; 0 for no limit. Calls under way when it is reached are finished and counted."""
    price_in: float = 0.0
    """Of a million prompt tokens."""
    price_out: float = 0.0
    """Of a million completion tokens."""
    workers: int = 4
    """Pairs judged at a time."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"limits.workers is {self.workers}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Let a model compare the pairs in a store, both orders each; it becomes an annotator like others.

    It stands behind an OpenAI-compatible address (`base_url` and `model`), or is a checkpoint on this machine (`checkpoint`).
    """

    store: str
    """Store that holds the completions: a file or a database URL."""
    base_url: str = ""
    """Address up to /v1, for example http://127.0.0.1:8000/v1."""
    model: str = ""
    """Name of the model, as the server knows it."""
    checkpoint: str = ""
    """Folder or name of a language model to run here instead."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; none is sent if it is not set."""
    annotator: str = ""
    """Name of the annotator; empty takes `judge:` and the model's or checkpoint's name. Other settings need another name."""
    pairs: Literal["stored", "all", "random"] = "stored"
    """What to judge: pairs that are in the store already, or every pair of each prompt's completions, or one at random."""
    round: int = 0
    """Which turn of the loop the pairs are of."""
    limit: int = 0
    """Pairs to judge at most; 0 for all that the judge has not judged yet."""
    mode: Literal["auto", "logprobs", "tags"] = "auto"
    """Read the probability of the digit answered, or a verdict in tags after reasons; auto takes log-probabilities where the model gives them."""
    rubric: str = ""
    """What to prefer, in words; empty takes one of helpfulness, correctness and harmlessness."""
    principles: tuple[str, ...] = ()
    """Principles of a constitution: each is asked about by itself in place of the rubric, and the answers are averaged."""
    disagreeing: Literal["average", "tie"] = "average"
    """When the two orders name different sides: the average decides, or it is a tie."""
    tie_within: float = 0.0
    """Says tie where the probability is this near to one half."""
    injection: int = 0
    """Judged pairs to judge again with an instruction to the judge planted in the worse completion, to measure what it does."""
    cache: str = ""
    """File of answers kept; empty takes judge_cache.db beside a SQLite store."""
    labels: str = ""
    """File to write the new comparisons to with their probabilities, .jsonl."""
    seed: int = 0
    """Everything random derives from it."""
    limits: CallLimits = field(default_factory=CallLimits)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(
            bool(self.base_url and self.model) != bool(self.checkpoint)
            and bool(self.base_url) == bool(self.model),
            f"base_url is {self.base_url!r}, model {self.model!r} and checkpoint {self.checkpoint!r}; give base_url and model, or checkpoint alone",
        )
        require(self.round >= 0, f"round is {self.round}; it must be 0 or more")
        require(self.limit >= 0, f"limit is {self.limit}; it must be 0 (all) or more")
        require(self.injection >= 0, f"injection is {self.injection}; it must be 0 (none) or more")
