"""Running a Hugging Face model's trunk on a packed batch: final hidden states, one row per token.

Three ways give the same rows of a causal model. *packed* computes each token once, *fused* too, with Llama-like layers in fewer operations
(`blocks`). *padded* runs every completion with its own copy of the prompt in a right-padded batch, the plain way; it is the reference in tests and
the fallback for models that cannot be packed. *encoded* is the one way of an encoder-decoder (`encoder_decoder`).
"""

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from prefloop.errors import InputError
from prefloop.models.blocks import has_known_blocks, is_watched, run_blocks
from prefloop.models.encoder_decoder import decoder_logits, decoder_rows, has_encoder, positions_needed
from prefloop.models.gather import ReadRows
from prefloop.models.packing import Batch, pack
from prefloop.models.stretches import Stretch
from prefloop.runtime.products import filling, large_backward, large_products
from prefloop.text.groups import Group

Way = Literal["fused", "packed", "padded", "encoded"]


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    trunk = model.base_model
    assert trunk is not model, f"{type(model).__name__} has no separate trunk"
    return trunk


def check_length(
    model: PreTrainedModel,
    longest: int,
    *,
    what: str = "a prompt with its completion",
    way_out: str = "lower data.max_prompt_tokens, data.max_completion_tokens or sampling.max_new_tokens",
) -> None:
    """Raise `InputError` if a sequence of `longest` tokens is longer than the model has positions for.

    `what` says what has so many tokens and where it stands, `way_out` what to change.
    """
    check_positions(model.config, model.name_or_path or "", longest, what=what, way_out=way_out)


def check_positions(config: PretrainedConfig, name: str, longest: int, *, what: str, way_out: str) -> None:
    """The same for a model of which only the configuration is loaded."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(
            f"{what} has {longest} tokens, but {config.model_type} at {name or 'this path'} has {limit} positions; {way_out}"
        )


def hidden_rows(
    model: PreTrainedModel, batch: Batch, way: Way, rows: ReadRows | None = None
) -> Float[Tensor, "M d"]:
    """Final hidden states of the rows asked for, without `rows` of every token of the packed row in its order.

    Raises `InputError` if a sequence is longer than the model has positions for.
    """
    if way == "encoded":
        return _encoded_rows(model, batch, rows)
    check_length(model, batch.longest)
    if way == "padded":
        hidden = _padded_rows(model, batch)
        return hidden if rows is None else rows.take(hidden)
    fill = filling(batch.tokens, batch.input_ids.device)
    if fill:
        batch = _filled(batch, fill)
        rows = None if rows is None else rows.widened(rows=fill, entries=0)
    with large_products():
        if way == "fused" and not is_watched(model):
            hidden = run_blocks(model, batch, rows)
        else:
            hidden = _module_rows(model, batch)
            hidden = hidden if rows is None else rows.take(hidden)
    hidden = large_backward(hidden)
    return hidden if rows is not None or not fill else hidden[:-fill]


def _encoded_rows(model: PreTrainedModel, batch: Batch, rows: ReadRows | None) -> Float[Tensor, "M d"]:
    prompt = int(batch.position_ids[: batch.layout.prompt_tokens].max()) + 1
    check_length(model, positions_needed(model.config, prompt, batch.completion_ids.shape[1]))
    hidden = decoder_rows(model, batch)
    return hidden if rows is None else rows.take(hidden)


def full_logits(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "M V"]:
    """The model's own logits of the M predicted tokens, by its own forward pass, whatever its head is."""
    if has_encoder(model.config):
        return decoder_logits(model, batch)
    padded = pad(batch)
    logits = model(
        input_ids=padded.input_ids,
        attention_mask=padded.attention_mask,
        position_ids=padded.position_ids,
        use_cache=False,
    ).logits
    return logits.flatten(0, 1).index_select(0, padded.predictor_slots)


def _filled(batch: Batch, fill: int) -> Batch:
    """With so many tokens more at the end of the row, in sequences of their own that nobody reads and that are no longer than others."""
    begin, end = batch.tokens, batch.tokens + fill
    more = torch.arange(fill, device=batch.input_ids.device)
    starts = range(begin, end, batch.longest)
    ends = [min(start + batch.longest, end) for start in starts]
    alone = [Stretch(start=a, stop=b, keys=((a, b),)) for a, b in zip(starts, ends, strict=True)]
    plan = replace(batch.layout.plan, stretches=(*batch.layout.plan.stretches, *alone))
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, torch.zeros_like(more)]),
        position_ids=torch.cat([batch.position_ids, more % batch.longest]),
        layout=replace(batch.layout, plan=plan),
    )


def _module_rows(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "N d"]:
    """By the model's own forward pass over the packed row."""
    ready_mask = batch.input_ids.new_ones(
        (1, 1, 1, 1), dtype=torch.bool
    )  # four axes: used as it is, so none is built
    output = trunk_of(model)(
        input_ids=batch.input_ids[None],
        position_ids=batch.position_ids[None],
        attention_mask=ready_mask,
        use_cache=False,
        packed_layout=batch.layout,
    )
    return output.last_hidden_state[0]


def _padded_rows(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "N d"]:
    """By its forward pass over sequences side by side."""
    padded = pad(batch)
    output = trunk_of(model)(
        input_ids=padded.input_ids,
        attention_mask=padded.attention_mask,
        position_ids=padded.position_ids,
        use_cache=False,
    )
    return output.last_hidden_state.flatten(0, 1).index_select(0, padded.row_slots)


class Padded:
    """The batch the plain way: `[B, S]`, each completion after its own copy of the prompt, right padding."""

    __slots__ = ("attention_mask", "input_ids", "position_ids", "predictor_slots", "row_slots")

    def __init__(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B S"],
        row_slots: Int[Tensor, " N"],
        predictor_slots: Int[Tensor, " M"],
    ) -> None:
        self.input_ids = input_ids
        self.attention_mask = attention_mask
        self.position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        self.row_slots = row_slots
        """Slot of each packed token, a prompt's in its first completion's sequence."""
        self.predictor_slots = predictor_slots
        """Slot of each predicted token's predictor, in its own sequence."""


def pad(batch: Batch) -> Padded:
    """Lay a packed batch out the plain way."""
    split, of = batch.layout.prompt_tokens, batch.layout.prompt.tolist()
    positions = batch.position_ids.tolist()
    prompts: list[list[int]] = []
    for row in range(split):
        if positions[row] == 0:
            prompts.append([])
        prompts[-1].append(row)
    sequences: list[list[int]] = []
    start = split
    for b, p in enumerate(of):
        end = int(batch.last[b]) + 1
        sequences.append(prompts[p] + list(range(start, end)))
        start = end
    longest = max(map(len, sequences))
    rows = torch.zeros(len(sequences), longest, dtype=torch.long)
    attention_mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    row_slots = [0] * batch.tokens
    for b, sequence in reversed(list(enumerate(sequences))):
        rows[b, : len(sequence)] = torch.tensor(sequence)
        attention_mask[b, : len(sequence)] = 1
        for place, row in enumerate(sequence):
            row_slots[row] = b * longest + place
    device = batch.input_ids.device
    b, t = (batch.slots // batch.completion_ids.shape[1], batch.slots % batch.completion_ids.shape[1])
    prompt_lengths = torch.tensor([len(prompts[p]) for p in of], device=device)
    return Padded(
        input_ids=batch.input_ids[rows.to(device)] * attention_mask.to(device),
        attention_mask=attention_mask.to(device),
        row_slots=torch.tensor(row_slots, device=device),
        predictor_slots=b * longest + prompt_lengths[b] + t - 1,
    )


def layer_types(config: PretrainedConfig) -> set[str]:
    """The kinds of attention that a model's layers name; empty if they name none."""
    return set(getattr(config, "layer_types", None) or ())


def sliding_window(config: PretrainedConfig) -> tuple[int | None, bool]:
    """Tokens that a layer with a sliding window sees, if there is one, and whether only some layers have it and take a mask by kind."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = layer_types(config)
    if kinds:
        return (window, True) if "sliding_attention" in kinds else (None, False)
    return (window, False) if getattr(config, "use_sliding_window", True) else (None, False)


def _static_reason(model: PreTrainedModel) -> str:
    """Why the configuration alone says that the model cannot be packed; empty if it does not."""
    if not model._supports_attention_backend:
        return "its attention cannot be replaced through the attention interface"
    config = model.config.get_text_config()
    kinds = layer_types(config) - {"full_attention"}
    if kinds:
        return f"it has layers of kind {', '.join(sorted(kinds))}"
    window, _ = sliding_window(config)
    if window:
        return f"it uses a sliding window of {window} tokens"
    return ""


PROBED_LAYERS = 2
"""Of a model whose numbers have few bits: what a way gets wrong shows in the first layer, and thirty of them turn roundings into anything."""

PROBED_TOKENS = 10
"""The probe's token ids are below it."""


def _probed(model: PreTrainedModel) -> PreTrainedModel:
    """What the ways are compared on: the model, or a copy of its first layers in float32 where its own numbers are coarser.

    A model whose layers are not found is probed as it is.
    """
    trunk = trunk_of(model)
    stacks = [
        module
        for module in trunk.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == model.config.get_text_config().num_hidden_layers
    ]
    if model.dtype not in (torch.bfloat16, torch.float16) or len(stacks) != 1:
        return model
    # What the copy shall not hold stands in the memo, as if it were copied already: heads, and all layers but the first.
    memo: dict[int, Any] = {id(part): nn.Identity() for part in model.children() if part is not trunk}
    embedding = model.get_input_embeddings()
    if type(embedding) is nn.Embedding:
        memo[id(embedding)] = nn.Embedding.from_pretrained(embedding.weight[:PROBED_TOKENS].clone())
    memo[id(stacks[0])] = copy.deepcopy(stacks[0][:PROBED_LAYERS], memo)
    probed = copy.deepcopy(model, memo)
    probed.config.get_text_config().num_hidden_layers = PROBED_LAYERS
    nn.Module.float(probed)  # transformers' own refuses a quantized model
    return probed


def packed_way(model: PreTrainedModel) -> tuple[Way, str]:
    """How the model can run: the fastest way whose hidden states on a small probe are those of the padded one, and why not packed if padded."""
    reason = _static_reason(model)
    if reason:
        return "padded", reason
    model = _probed(model)
    groups = [
        Group(prompt=[3, 1, 4], completions=([1, 5], [2, 6, 5, 3]), masks=([True] * 2, [True] * 4)),
        Group(prompt=[5], completions=([8], [9, 7]), masks=([True], [True] * 2)),
    ]
    batch = pack(groups, model.device)
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    with torch.no_grad():
        padded = hidden_rows(model, batch, "padded").float()
    ways: tuple[Way, ...] = ("fused", "packed") if has_known_blocks(model) else ("packed",)
    for way in ways:
        try:
            with torch.no_grad():
                packed = hidden_rows(model, batch, way).float()
        except (
            Exception
        ) as error:  # whatever an unknown architecture raises here means the same: run it padded
            reason = f"a packed forward pass failed ({type(error).__name__}: {error})"
            continue
        difference = ((packed - padded).norm() / padded.norm()).item()
        if difference < tolerance:
            return way, ""
        reason = f"packed and padded hidden states differ by {difference:.1e} on a probe"
    return "padded", reason
