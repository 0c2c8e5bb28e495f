"""Settings of AI judges: `prefloop label judge`, `label score`, `revise`, and the file that `--reward_model judge:FILE` names."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from prefloop.configs.common import Compute, require

SCORER = "judge:"
"""What `reward_model` begins with where an AI judge's own score is the reward; the rest is the file of a `ScorerConfig`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallLimits:
    """Limits and prices of calls to the model."""

    timeout: float = 60.0
    """Seconds for one answer."""
    attempts: int = 5
    """Attempts per call, the first included; waits double in between."""
    per_minute: float = 0.0
    """Maximum number of requests started per minute; 0 for no limit."""
    max_calls: int = 0
    """Maximum number of requests, retries included; 0 for no limit."""
    max_cost: float = 0.0
    """Maximum cost, in the currency of the prices; 0 for no limit. Calls under way when it is reached are finished and counted."""
    price_in: float = 0.0
    """Price of a million prompt tokens."""
    price_out: float = 0.0
    """Price of a million completion tokens."""
    workers: int = 4
    """Questions asked at the same time."""

    def __post_init__(self) -> None:
        for name in ("workers", "attempts"):
            number = getattr(self, name)
            require(number >= 1, f"limits.{name} is {number}; it must be 1 or more")
        require(self.timeout > 0, f"limits.timeout is {self.timeout}; it must be above 0 seconds")
        for name in ("per_minute", "max_cost", "price_in", "price_out"):
            number = getattr(self, name)
            require(number >= 0, f"limits.{name} is {number}; it must be 0 or more")


_OWN = {
    "model": "set model",
    "messages": "they are the question",
    "stream": "answers are read whole",
    "n": "one answer is read",
    "seed": "set seed",
    "temperature": "set request.temperature, or temperature=null to send none",
    "max_tokens": "set request.max_tokens",
    "max_completion_tokens": "set request.max_tokens and request.limit_field",
}
"""Fields of a request that have a setting of their own, and which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestFields:
    """Fields sent to a server beside the question; a checkpoint on this machine uses none of them."""

    max_tokens: int = 0
    """Maximum tokens of an answer, reasoning included; 0 uses what the question needs, which leaves no room for reasoning."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The server's name for that limit; OpenAI's reasoning models need max_completion_tokens."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    extra: tuple[str, ...] = ()
    """More fields of the request, each NAME=VALUE with the value as JSON or as text: reasoning_effort=low, top_p=0.9. NAME=null omits a
    field: temperature=null, logprobs=null."""

    def __post_init__(self) -> None:
        require(
            self.max_tokens >= 0,
            f"request.max_tokens is {self.max_tokens}; it must be 0 (what is needed) or more",
        )
        require(
            self.temperature >= 0, f"request.temperature is {self.temperature}; it must be 0 (greedy) or more"
        )
        self.fields()

    def fields(self) -> dict[str, Any]:
        """`extra` as fields of the request; None for one that is not sent."""
        found: dict[str, Any] = {}
        for word in self.extra:
            name, equals, text = word.partition("=")
            require(
                bool(equals and name),
                f"request.extra has {word!r}; write NAME=VALUE, for example reasoning_effort=low",
            )
            try:
                value = json.loads(text)
            except ValueError:
                value = text
            require(
                name not in _OWN or (name in ("temperature", "seed") and value is None),
                f"request.extra has {word!r}; {_OWN.get(name)}",
            )
            require(name not in found, f"request.extra gives {name} twice; give it once")
            found[name] = value
        require(
            found.get("temperature", "") is not None or not self.temperature,
            f"request.temperature is {self.temperature} and request.extra has temperature=null; leave one of them out",
        )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedModel:
    """The model that judges: behind an OpenAI-compatible address (`base_url` and `model`), or a checkpoint on this machine."""

    base_url: str = ""
    """Address up to /v1, for example http://127.0.0.1:8000/v1."""
    model: str = ""
    """Name of the model, as the server knows it."""
    checkpoint: str = ""
    """Folder or name of a language model to run here instead."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; if it is not set, no key is sent."""
    cache: str = ""
    """File of cached answers; empty uses judge_cache.db beside a SQLite store, or beside the file of settings."""
    seed: int = 0
    """Everything random derives from it."""
    limits: CallLimits = field(default_factory=CallLimits)
    request: RequestFields = field(default_factory=RequestFields)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(
            not self.checkpoint or self.request == RequestFields(),
            f"request applies to an address, and checkpoint is {self.checkpoint!r}; leave it out",
        )
        require(
            bool(self.base_url and self.model) != bool(self.checkpoint)
            and bool(self.base_url) == bool(self.model),
            f"base_url is {self.base_url!r}, model {self.model!r} and checkpoint {self.checkpoint!r}; give base_url and model, or checkpoint alone",
        )
        here = bool(self.checkpoint)
        require(
            here or self.compute == Compute(),
            "compute says how a checkpoint is run here, but the model is behind base_url; leave it out",
        )
        require(
            not here or self.key_variable == "OPENAI_API_KEY",
            f"key_variable is {self.key_variable}, but checkpoint runs here and needs no key; leave it out",
        )
        require(
            not here or self.limits == CallLimits(workers=self.limits.workers),
            "limits apply to requests to base_url, but checkpoint runs here (only limits.workers applies); leave the others out",
        )

    @property
    def called(self) -> str:
        """What the model is called in names and reports."""
        return self.model or self.checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig(AskedModel):
    """Let a model compare the pairs in a store, each in both orders; it becomes an annotator.

    It is a model behind an OpenAI-compatible address (`base_url` and `model`), or a checkpoint on this machine (`checkpoint`).
    """

    store: str
    """Store that holds the completions: a file or a database URL."""
    annotator: str = ""
    """Name of the annotator; empty uses `judge:` and the model's or checkpoint's name. Use another name for other settings."""
    pairs: Literal["stored", "all", "random"] = "stored"
    """What to judge: pairs that are in the store already, or every pair of each prompt's completions, or one at random."""
    round: int = 0
    """Round of the loop of these pairs."""
    limit: int = 0
    """Maximum number of pairs to judge; 0 for all that the judge has not judged yet."""
    mode: Literal["auto", "logprobs", "tags"] = "auto"
    """Read the probability of the answered digit, or a verdict in tags after reasons; auto uses log-probabilities if the model gives them."""
    rubric: str = ""
    """What to prefer, in words; empty uses one of helpfulness, correctness and harmlessness."""
    principles: tuple[str, ...] = ()
    """Principles of a constitution, used instead of the rubric."""
    constitution: str = ""
    """File of a constitution, used instead of `principles`: .yaml, or text with one principle per line."""
    principle: Literal["each", "drawn"] = "each"
    """Ask about each principle by itself and average the answers, or draw one for each pair (Bai et al. 2022)."""
    disagreeing: Literal["average", "tie"] = "average"
    """If the two orders name different sides: the average decides, or it is a tie."""
    tie_within: float = 0.0
    """The verdict is a tie if the probability is this near to one half."""
    injection: int = 0
    """Number of judged pairs to judge again with an instruction injected into the worse completion, to measure its effect."""
    labels: str = ""
    """File to write the new comparisons to with their probabilities, .jsonl."""

    def __post_init__(self) -> None:
        AskedModel.__post_init__(self)
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(self.round >= 0, f"round is {self.round}; it must be 0 or more")
        require(self.limit >= 0, f"limit is {self.limit}; it must be 0 (all) or more")
        require(
            0 <= self.tie_within < 0.5,
            f"tie_within is {self.tie_within}; it must be a distance from one half, at least 0 and below 0.5",
        )
        require(self.injection >= 0, f"injection is {self.injection}; it must be 0 (none) or more")
        require(
            not (self.principles and self.constitution),
            f"principles are given and constitution is {self.constitution!r}; give one of them",
        )
        require(
            not (self.rubric and (self.principles or self.constitution)),
            "rubric is given, but principles replace it; give one of them",
        )
        require(
            self.principle == "each" or bool(self.principles or self.constitution),
            "principle is drawn, but there is none to draw; give constitution or principles",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerConfig(AskedModel):
    """A judge whose own score is the reward (direct RLAIF): the file that `--reward_model judge:FILE` names."""

    rubric: str = ""
    """What makes an answer good, in words; empty uses one of helpfulness, correctness and harmlessness."""
    constitution: str = ""
    """File of a constitution; all its principles together replace the rubric."""
    best: int = 10
    """Scores go from 1 to this. With a server use 9 if the model's tokenizer splits 10, because only first tokens are seen."""
    unreadable: Literal["error", "lowest"] = "error"
    """A completion without a readable score stops training, or gets -1 and is counted. `label score` leaves it out."""

    def __post_init__(self) -> None:
        AskedModel.__post_init__(self)
        require(
            not (self.cache and self.checkpoint),
            f"cache is {self.cache!r}, but scores of a checkpoint that runs here are not kept; leave it out",
        )
        require(2 <= self.best <= 10, f"best is {self.best}; it must be 2 to 10")
        require(
            not (self.rubric and self.constitution),
            f"rubric is given and constitution is {self.constitution!r}; give one of them",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScoreConfig(ScorerConfig):
    """Let a model score a store's completions one by one, to see what training on its score would see."""

    store: str
    """Store that holds the completions: a file or a database URL."""
    out: str
    """File to write the scores to, .jsonl."""
    checkpoints: tuple[str, ...] = ()
    """Completions of these policies only; none means all in the store."""
    limit: int = 0
    """Maximum number of completions to score, the first ones; 0 for all."""
    injection: int = 0
    """Number of completions to score again with an instruction injected into them, to measure its effect."""

    def __post_init__(self) -> None:
        ScorerConfig.__post_init__(self)
        require(
            self.unreadable == "error",
            f"unreadable is {self.unreadable}, but `label score` leaves such completions out, counted; leave it out",
        )
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(bool(self.out), "out is empty; name a file to write, for example scores.jsonl")
        require(self.limit >= 0, f"limit is {self.limit}; it must be 0 (all) or more")
        require(self.injection >= 0, f"injection is {self.injection}; it must be 0 (none) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviseConfig(AskedModel):
    """Constitutional critique and revision: a model criticises stored completions by drawn principles and rewrites them (Bai et al. 2022)."""

    store: str
    """Store that holds the completions: a file or a database URL. Revisions, and their comparisons with the originals, go there too."""
    constitution: str
    """File of a constitution: .yaml, or text with one principle per line."""
    policy: str
    """Checkpoint whose completions are revised, as it is named in the store."""
    demonstrations: str
    """File to write prompts with their last revisions to, .jsonl: what `prefloop sft` reads."""
    steps: str = ""
    """File to write every critique and revision to, .jsonl."""
    annotator: str = ""
    """Name of the annotator that prefers revisions; empty uses `constitution:` and the model's or checkpoint's name. Use another name for other settings."""
    revisions: int = 4
    """Critiques and revisions of each completion, each by another principle if there are enough."""
    per_prompt: int = 1
    """Completions of each prompt to revise, the first ones; 0 for all."""
    limit: int = 0
    """Maximum number of completions to revise; 0 for all."""
    round: int = 0
    """Round of the loop of these comparisons."""
    max_tokens: int = 512
    """Maximum tokens of a critique, and of a revision."""
    temperature: float = 0.0
    """Sampling temperature of critiques and revisions; 0 is greedy."""
    injection: int = 0
    """Number of completions to revise again with an instruction injected into them, to measure its effect."""

    def __post_init__(self) -> None:
        AskedModel.__post_init__(self)
        for name in ("max_tokens", "temperature"):
            require(
                not getattr(self.request, name),
                f"request.{name} is {getattr(self.request, name)}; of critiques and revisions set {name}",
            )
        require(
            not self.temperature or self.request.fields().get("temperature", "") is not None,
            f"temperature is {self.temperature} and request.extra has temperature=null; leave one of them out",
        )
        for name in ("store", "constitution", "policy", "demonstrations"):
            require(bool(getattr(self, name)), f"{name} is empty; name one")
        require(self.revisions >= 1, f"revisions is {self.revisions}; it must be 1 or more")
        for name in ("per_prompt", "limit", "round", "injection"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
        require(self.max_tokens >= 1, f"max_tokens is {self.max_tokens}; it must be 1 or more")
        require(self.temperature >= 0, f"temperature is {self.temperature}; it must be 0 (greedy) or more")
