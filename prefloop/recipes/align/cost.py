"""What stages cost before they run: arithmetic and bytes are counted, the machine's rates are measured for a second, the rest are constants below.

Counted as docs/architecture.md counts: products of the trunk 2 P N forward and as much again for each of the two gradients (a frozen weight has
none of its own), the head 2 M V d for each pass over its logits, attention 4 d for each pair of tokens and layer. A decode step reads every
weight once for all its rows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from prefloop.configs.common import Compute
from prefloop.errors import InputError
from prefloop.models.encoder_decoder import has_encoder
from prefloop.models.load import device_of, load_config
from prefloop.models.quiet import quiet
from prefloop.runtime.products import large_products

PASSING = 55.0
"""Numbers that a trunk's other operations (norms, rotations, activations, sums) read or write for each token, layer and unit of width, forward."""
BACK = 3.5
"""Times that these, and attention, take forward and backward together."""
ATTENTION = 0.35
"""Rate of attention's products, as a share of the large ones'."""
THIN = 0.2
"""The same of products with an adapter's matrices."""
LOGITS = 3.0
"""Times that a logit is read or written for each product that makes or takes it."""
DRAWING = 20.0
"""Times that a logit is read or written to draw a token."""
CALLS = {"cpu": 400.0, "cuda": 20.0}
"""Small operations whose start a layer's decode step waits for; on a CPU, where they also work, so many times the start of one."""
KEPT = 9.0
"""Numbers that a layer keeps for the backward pass, for each token and unit of width, beside two for each unit of the MLP's."""
HELD = 1.35
"""Times what is kept that is held, as the allocator keeps freed blocks."""
ROOM_MIB = 120.0
"""Logits in chunks, and probabilities that wait for the backward pass."""
OPENING = 2.5
"""Seconds to open a run: libraries, tokenizer, store."""
LOADED_A_SECOND = 2.2e8
"""Bytes of a model, as it is held, that are read, hashed and tried on a few rows in a second."""
ADAPTED = 0.06
"""Seconds to put an adapter on a layer."""
WRITTEN_A_SECOND = 4e8
"""Bytes of a checkpoint that are written and hashed in a second, and of a finished model that are read again."""
UPDATED = 8.0
"""Numbers that an update reads or writes for each weight that is trained: gradient's norm, AdamW."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A causal language model in the numbers that its cost depends on."""

    name: str
    """Its class and size in words."""
    weights: int
    """All of them, a tied head once."""
    trunk: int
    """Weights of the trunk's matrices, through which every token goes."""
    adapter: int
    """Weights of an adapter of rank 1 on all of them."""
    layers: int
    width: int
    inner: int
    """Width of the MLP."""
    keys: int
    """Numbers that a token leaves in a layer's cache."""
    vocabulary: int
    positions: int


def shape_of(name: str, compute: Compute) -> Shape:
    """Count a model's weights from its configuration; nothing is loaded. Raises `InputError` if it has none that can be read."""
    config = load_config(name, compute)
    if config is None:
        raise InputError(
            f"model {name!r} could not be read; give a folder or hub name with config.json and safetensors weights"
        )
    if has_encoder(config):
        raise InputError(
            f"model {name!r} is an encoder-decoder, and prefloop cannot estimate its memory and time; run the stages one by one, or name a causal "
            "language model"
        )
    try:
        with torch.device("meta"), quiet():
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=compute.trust_remote_code)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"model {name!r} is not a causal language model: {str(error).splitlines()[0]}"
        ) from error
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    matrices = [p for p in model.base_model.parameters() if p.ndim > 1 and id(p) not in embeddings]
    text = config.get_text_config()
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    weights = sum(p.numel() for p in model.parameters())
    return Shape(
        name=f"{type(model).__name__}, {millions(weights)} weights",
        weights=weights,
        trunk=sum(p.numel() for p in matrices),
        adapter=sum(sum(p.shape) for p in matrices),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        keys=2 * size * (getattr(text, "num_key_value_heads", None) or heads),
        vocabulary=text.vocab_size,
        positions=getattr(text, "max_position_embeddings", None) or 2**31,
    )


def millions(count: float) -> str:
    """A number of weights as people say it."""
    for unit, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What was measured here."""

    layer: float
    """Operations a second of a product with a layer's matrix."""
    head: float
    """The same with the head's."""
    copy: float
    """Bytes a second read and written by a copy."""
    read: float
    """Seconds for each byte of weights in a decode step of one row: reading them."""
    row: float
    """The same for every further row: multiplying them."""
    start: float
    """Seconds that a small operation takes to start."""
    bfloat16: float
    """How many times as fast a layer's product is in bfloat16."""
    threads: int
    device: str


_SECOND = 0.12
"""Share of a second that each measurement takes."""


ROWS = 64
"""Rows of the larger decode step that is measured."""


def measure(shape: Shape, compute: Compute) -> Machine:
    """Measure the rates of this machine at the model's own shapes, in about a second."""
    device = device_of(compute)

    def fastest(work: Callable[[], object], *, threads: int) -> float:
        """Seconds of the fastest of some calls; on a CPU those that it worked, for other programs may have had the cores between."""
        work()
        best, end = float("inf"), time.perf_counter() + _SECOND
        while time.perf_counter() < end:
            began, worked = time.perf_counter(), time.process_time()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                worked = float("-inf")
            best = min(best, time.perf_counter() - began, (time.process_time() - worked) / threads)
        return best

    every = torch.get_num_threads()
    tokens, inner = 512, min(shape.inner, 8192)
    chunk = max(1, (4 << 20) // shape.vocabulary)
    x = torch.randn(tokens, shape.width, device=device)
    # As in a model, weights come from memory rather than a cache: enough of them that none stays there.
    weight_bytes = 4 * inner * shape.width
    weights = [
        torch.randn(inner, shape.width, device=device) for _ in range(max(2, (64 << 20) // weight_bytes))
    ]
    vocabulary = torch.randn(shape.vocabulary, shape.width, device=device)
    few = torch.randn(chunk, shape.width, device=device)
    with large_products():
        layer = fastest(lambda: [x @ weight.T for weight in weights], threads=every) / len(weights)
        head = fastest(lambda: few @ vocabulary.T, threads=every)
        single = fastest(lambda: x @ weights[0].T, threads=every)
        narrow_x, narrow = x.bfloat16(), weights[0].bfloat16()
        bfloat16 = fastest(lambda: narrow_x @ narrow.T, threads=every)
    source = torch.randn(8 << 20, device=device)
    target = torch.empty_like(source)
    copied = fastest(lambda: target.copy_(source), threads=every)
    step = torch.randn(ROWS, shape.width, device=device)
    read, many = (
        fastest(lambda rows=rows: [step[:rows] @ weight.T for weight in weights], threads=every)
        / (weight_bytes * len(weights))
        for rows in (1, ROWS)
    )
    one = torch.randn(16, device=device)
    start = fastest(lambda: [one + one for _ in range(100)], threads=1) / 100
    return Machine(
        layer=2 * tokens * inner * shape.width / layer,
        head=2 * chunk * vocabulary.numel() / head,
        copy=8 * source.numel() / copied,
        read=read,
        row=max(0.0, many - read) / (ROWS - 1),
        start=start,
        bfloat16=single / bfloat16,
        threads=torch.get_num_threads(),
        device=device.type,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RowCounts:
    """Prompts with their completions, as many tokens each on average."""

    prompts: float
    completions: float
    """Of each prompt."""
    prompt_tokens: float
    completion_tokens: float

    @property
    def count(self) -> float:
        """Completions of all prompts."""
        return self.prompts * self.completions

    @property
    def predicted(self) -> float:
        """Completion tokens."""
        return self.count * self.completion_tokens

    @property
    def tokens(self) -> float:
        """All of them, each prompt once."""
        return self.prompts * self.prompt_tokens + self.predicted

    @property
    def pairs(self) -> float:
        """Pairs of a token and one that it sees."""
        seen = self.prompt_tokens + self.completion_tokens / 2
        return self.prompts * self.prompt_tokens**2 / 2 + self.predicted * seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a stage takes."""

    seconds: float
    mib: float
    """Most memory that the process holds while it runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model on a machine, trained in one of two ways; gives seconds and MiB."""

    shape: Shape
    machine: Machine
    rank: int
    """Of adapters; 0 trains all weights."""
    item: int
    """Bytes of a weight."""
    base: float
    """MiB of the process before it loads a model."""

    def forward(self, rows: RowCounts, *, heads: float = 1.0) -> float:
        """A pass without gradients; `heads` times over the vocabulary."""
        return self._trunk(rows, passes=1.0) + self._logits(rows, operations=2 * heads)

    def learn(self, rows: RowCounts, *, head: bool = True) -> float:
        """A pass forward and backward."""
        operations = (8 if not self.rank else 6) if head else 0
        return self._trunk(rows, passes=2.0 if self.rank else 3.0) + self._logits(rows, operations=operations)

    def _trunk(self, rows: RowCounts, *, passes: float) -> float:
        shape, machine = self.shape, self.machine
        products = 2 * shape.trunk * rows.tokens * passes / machine.layer
        low = 2 * self.rank * shape.adapter * rows.tokens * (3 if passes > 1 else 1) / (machine.layer * THIN)
        back = BACK if passes > 1 else 1.0
        attention = 4 * shape.layers * shape.width * rows.pairs * back / (machine.layer * ATTENTION)
        passing = 4 * PASSING * shape.layers * shape.width * rows.tokens * back / machine.copy
        return products + low + attention + passing

    def _logits(self, rows: RowCounts, *, operations: float) -> float:
        numbers = rows.predicted * self.shape.vocabulary
        return operations * numbers * self.shape.width / self.machine.head + (
            4 * LOGITS * numbers * operations / 2 / self.machine.copy
        )

    def draw(self, rows: RowCounts, *, batch: int) -> float:
        """Drawing completions, `batch` at a time."""
        shape, machine = self.shape, self.machine
        read = RowCounts(
            prompts=rows.prompts, completions=0, prompt_tokens=rows.prompt_tokens, completion_tokens=0
        )
        together = min(batch, rows.count)
        steps = rows.predicted / max(1.0, together)
        cache = together * (rows.prompt_tokens + rows.completion_tokens / 2) * shape.keys * shape.layers * 4
        weights = 4 * (shape.trunk + shape.vocabulary * shape.width)
        step = (
            (machine.read + machine.row * (together - 1)) * weights
            + cache / machine.copy
            + CALLS[machine.device] * (1.5 if self.rank else 1.0) * shape.layers * machine.start
            + 4 * DRAWING * together * shape.vocabulary / machine.copy
        )
        return self._trunk(read, passes=1.0) + steps * step

    def opened(self, models: float = 1.0, *, adapters: int = 1) -> float:
        """Opening a run that reads so many models and puts so many adapters on its trunk."""
        placed = ADAPTED * self.shape.layers * adapters if self.rank else 0.0
        return OPENING + models * self.shape.weights * self.item / LOADED_A_SECOND + placed

    def updated(self, updates: float, *, checkpoints: int) -> float:
        """So many updates of the weights, writing so many checkpoints, and the finished model."""
        trained = self.rank * self.shape.adapter if self.rank else self.shape.weights
        whole = self.shape.weights * self.item
        written = checkpoints * (whole + 8 * trained) + whole
        return updates * 4 * UPDATED * trained / self.machine.copy + written / WRITTEN_A_SECOND

    def held(self, *, frozen: float = 0.0, trained: int = 1) -> float:
        """MiB of weights, gradients and optimiser: one model that is trained by `trained` adapters, or whole, and so many frozen ones."""
        own = (
            4 * self.rank * self.shape.adapter * 4 * trained
            if self.rank
            else self.shape.weights * 12 * trained
        )
        whole = self.shape.weights * self.item * (frozen + (1 if self.rank else trained))
        return self.base + (own + whole) / 2**20

    def activations(self, tokens: float) -> float:
        """MiB of a micro-batch."""
        shape = self.shape
        per_token = KEPT * shape.width + 2 * shape.inner
        return ROOM_MIB + 4 * tokens * shape.layers * per_token * HELD / 2**20

    def merging(self) -> float:
        """MiB of the merged copy that is saved of a model with adapters."""
        return self.shape.trunk * self.item / 2**20 if self.rank else 0.0

    def cache(self, rows: RowCounts, *, batch: int) -> float:
        """MiB of the decoder: the cache of its rows, and its own copy of the weights in the order it multiplies them."""
        together = min(batch, rows.count)
        tokens = together * (rows.prompt_tokens + rows.completion_tokens)
        return tokens * self.shape.keys * self.shape.layers * 4 / 2**20
