"""The roles of the loop over Hugging Face models: policy (and reference), critic, reward model.

A role is an `nn.Module` that maps a packed batch to numbers: log-probabilities, values or a score. Roles may share one trunk; with LoRA
each then names the adapter that makes the trunk its own.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.losses.reward_model import TOKEN_READINGS
from prefloop.losses.rewards import residual_scores
from prefloop.models.adapters import adapter_layers
from prefloop.models.contrast import contrast_of_logits, token_contrast
from prefloop.models.gather import rows_once
from prefloop.models.gathering import gathered, gathers, runs_on, whole
from prefloop.models.head import Head, TokenStatistics, Want, token_statistics, token_statistics_with_kl
from prefloop.models.packing import Batch
from prefloop.models.trunk import Way, full_logits, hidden_rows

BASE = ""
"""The adapter name that means: the model's own weights, all adapters off."""


@contextlib.contextmanager
def adapter(model: nn.Module, name: str) -> Iterator[None]:
    """Run the model with one of its adapters, or with none (`BASE`). A model without adapters runs as it is."""
    layers = adapter_layers(model)
    if not layers:
        assert name == BASE, f"the model has no adapter {name!r}"
        yield
        return
    for layer in layers:
        if name == BASE:
            layer.enable_adapters(False)
        else:
            layer.set_adapter(name)
    try:
        yield
    finally:
        if name == BASE:
            for layer in layers:
                layer.enable_adapters(True)


def adapter_names(model: nn.Module) -> list[str]:
    """Of a model's adapters, `BASE` first."""
    return [
        BASE,
        *sorted({name for layer in adapter_layers(model) for name in getattr(layer, "scaling", ())}),
    ]


@contextlib.contextmanager
def _reading(model: nn.Module, name: str) -> Iterator[None]:
    """`adapter`, for one pass of the trunk."""
    dealt = gathered(model)
    if dealt is not None:
        dealt.tell_pass(adapter_names(model).index(name))
    with adapter(model, name):
        yield


def scatter_tokens(values: Float[Tensor, " M"], batch: Batch) -> Float[Tensor, "B T"]:
    """Predicted tokens' numbers to their places; 0 elsewhere."""
    flat = values.new_zeros(batch.completion_mask.numel()).scatter(0, batch.slots, values)
    return flat.view(batch.completion_mask.shape)


def scalar_head(width: int, *, std: float, generator: torch.Generator) -> nn.Linear:
    """A float32 `Linear(width, 1)` without bias, as Hugging Face sequence classifiers have; N(0, std^2) from the given generator."""
    head = nn.Linear(width, 1, bias=False, dtype=torch.float32)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, width, generator=generator) * std)
    return head


def vocabulary_size(role: "Policy | RewardModel") -> int:
    """Rows of the input embedding."""
    return role.model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportReturnType, reportAttributeAccessIssue, reportIndexIssue]


class Policy(nn.Module):
    """A causal language model or an encoder-decoder, as policy or reference."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        way: Way,
        linear_head: bool = True,
        adapter_name: str = BASE,
        start: str = BASE,
    ) -> None:
        super().__init__()
        self.model = model
        self.way: Way = way
        self.linear_head = linear_head
        self.adapter_name = adapter_name
        self.start = start
        """With an adapter: the adapter of its reference, none if the policy began as the trunk."""

    @property
    def device(self) -> torch.device:
        return runs_on(self.model)

    @contextlib.contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        """The model as this role runs it, for the sampler: all of it, on every process."""
        with whole(self.model), adapter(self.model, self.adapter_name):
            yield self.model

    def head(self) -> Head:
        """The output head; tied or not, with or without bias or a constant scale."""
        output = self.model.get_output_embeddings()
        weight = getattr(output, "weight", None)
        assert isinstance(weight, Tensor), f"{type(self.model).__name__} has no output embedding"
        bias = getattr(output, "bias", None)
        if bias is None and (of_logits := getattr(self.model, "final_logits_bias", None)) is not None:
            bias = of_logits[0]  # BART and its like
        config = self.model.config.get_text_config()
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        if getattr(config, "scale_decoder_outputs", False):  # T5 with a tied head
            scale *= config.d_model**-0.5
        return Head(weight=weight, bias=weight.new_empty(0) if bias is None else bias, scale=scale)

    @gathers
    def hidden(self, batch: Batch) -> Float[Tensor, "M d"]:
        """Final hidden states that the M predicted tokens are predicted from."""
        with _reading(self.model, self.adapter_name):
            return hidden_rows(self.model, batch, self.way, batch.predictors)

    @gathers
    def statistics(
        self, batch: Batch, *, temperature: float = 1.0, entropy: bool = False, log_collision: bool = False
    ) -> TokenStatistics:
        """Log-probability, and entropy and collision probability if asked, of the M predicted tokens."""
        if self.linear_head:
            return self.statistics_of(
                self.hidden(batch),
                batch,
                temperature=temperature,
                entropy=entropy,
                log_collision=log_collision,
            )
        return self._full_statistics(batch, temperature)

    @gathers
    def statistics_of(
        self,
        hidden: Float[Tensor, "M d"],
        batch: Batch,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        log_collision: bool = False,
    ) -> TokenStatistics:
        """As `statistics`, from hidden states that are already there (a trunk shared with the critic)."""
        return token_statistics(
            hidden,
            self.head(),
            batch.targets,
            temperature=temperature,
            entropy=entropy,
            log_collision=log_collision,
        )

    @gathers
    def statistics_against(
        self,
        reference: "Policy",
        batch: Batch,
        *,
        temperature: float = 1.0,
        want: Want = Want(entropy=True, kl=True),  # noqa: B008  a frozen value
        reference_batch: Batch | None = None,
    ) -> TokenStatistics:
        """As `statistics` with what is wanted of every predicted token: by default entropy and the exact KL to the reference.

        The reference reads `reference_batch` where that is given: the same completions in the same order, behind other prompts.
        """
        theirs = batch if reference_batch is None else reference_batch
        assert len(theirs.targets) == len(batch.targets), "the two batches hold different completions"
        if not (self.linear_head and reference.linear_head):
            return self._full_statistics(batch, temperature, (reference, theirs))
        with torch.no_grad():
            reference_hidden = reference.hidden(theirs)
        return self.statistics_between(
            self.hidden(batch), reference, reference_hidden, batch, temperature=temperature, want=want
        )

    @gathers
    def statistics_between(
        self,
        hidden: Float[Tensor, "M d"],
        reference: "Policy",
        reference_hidden: Float[Tensor, "M e"],
        batch: Batch,
        *,
        temperature: float = 1.0,
        want: Want = Want(entropy=True, kl=True),  # noqa: B008  a frozen value
    ) -> TokenStatistics:
        """As `statistics_against`, from hidden states that are already there; the reference's too."""

        def between() -> TokenStatistics:
            return token_statistics_with_kl(
                hidden,
                self.head(),
                batch.targets,
                temperature=temperature,
                reference_hidden=reference_hidden,
                reference_head=reference.head(),
                want=want,
            )

        dealt = gathered(reference.model)  # its head is read, in the backward pass too
        return between() if dealt is None else dealt(between)

    @gathers
    def contrast(self, batch: Batch, hidden: Float[Tensor, "M d"] | None = None) -> Float[Tensor, " M"]:
        """`token_contrast` of the M predicted tokens; `hidden` where the row's states are already there."""
        if not self.linear_head:
            return contrast_of_logits(self._full_log_softmax(batch, 1.0), batch.targets)
        rows = self.hidden(batch) if hidden is None else hidden
        return token_contrast(rows, self.head(), batch.targets)

    @gathers
    def _full_log_softmax(self, batch: Batch, temperature: float) -> Float[Tensor, "M V"]:
        with _reading(self.model, self.adapter_name):
            rows = full_logits(self.model, batch)
        return torch.log_softmax(rows.float() / temperature, dim=-1)

    def _full_statistics(
        self, batch: Batch, temperature: float, against: "tuple[Policy, Batch] | None" = None
    ) -> TokenStatistics:
        """For heads that are more than a linear layer: the model's own logits of every position, in full."""
        logp = self._full_log_softmax(batch, temperature)
        kl = forward_kl = logp.new_empty(0)
        if against is not None:
            reference, theirs = against
            with torch.no_grad():
                logq = reference._full_log_softmax(theirs, temperature)
            kl = (logp.exp() * (logp - logq)).sum(-1)
            forward_kl = (logq.exp() * (logq - logp)).sum(-1)
        return TokenStatistics(
            logprobs=logp.gather(1, batch.targets[:, None]).squeeze(1),
            entropy=-(logp.exp() * logp).sum(-1),
            kl=kl,
            forward_kl=forward_kl,
            log_collision=torch.logsumexp(2 * logp.detach(), dim=-1),
        )

    def forward(self, batch: Batch, *, temperature: float = 1.0) -> Float[Tensor, "B T"]:
        """log p(completion token t | prompt, completion[<t]), float32; 0 where `completion_mask` is False."""
        return scatter_tokens(self.statistics(batch, temperature=temperature).logprobs, batch)

    def frozen_copy(self) -> "Policy":
        """A reference: with an adapter the same trunk as that began, otherwise a copy that will not change."""
        if self.adapter_name != BASE:
            return Policy(self.model, way=self.way, linear_head=self.linear_head, adapter_name=self.start)
        model = copy.deepcopy(self.model).requires_grad_(False)
        return Policy(model, way=self.way, linear_head=self.linear_head)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a reward model's score comes from its head; stored with the model."""

    at: Literal["last", "sum", "steps"] = "last"
    """At the completion's last token; summed over its tokens; or where its steps end, taken together by `rule`."""
    rule: Literal["minimum", "product", "last"] = "minimum"
    """Of steps."""
    separator: str = "\n"
    """What stands between two steps."""
    length_slope: float = 0.0
    """Taken off for every token more than `mean_length`; 0 takes nothing off."""
    mean_length: float = 0.0


class RewardModel(nn.Module):
    """A sequence classifier with one label: the score of a completion is its head at the completion's last token, unless `reading` says otherwise."""

    def __init__(
        self, model: PreTrainedModel, head: nn.Module, *, way: Way, adapter_name: str = BASE
    ) -> None:
        super().__init__()
        self.model = model
        self.score_head = head
        self.way: Way = way
        self.adapter_name = adapter_name
        self.reading = Reading()
        self.base_padding: int | None = None
        """The padding id that the model had before it became a reward model: by it, an adapter alone on its base is read."""

    @property
    def device(self) -> torch.device:
        return runs_on(self.model)

    @gathers
    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """Scores, float32, one per completion. Where steps are read, the batch's masks must be True where they end."""
        reading = self.reading
        if reading.at == "last":
            with _reading(self.model, self.adapter_name):
                hidden = hidden_rows(self.model, batch, self.way, rows_once(batch.last, batch.tokens))
            scores = self.score_head(hidden.float()).squeeze(-1)
        else:
            rule = TOKEN_READINGS["sum" if reading.at == "sum" else reading.rule]
            scores = rule(self.token_scores(batch), batch.completion_mask)
        if reading.length_slope:
            lengths = self.completion_lengths(batch).to(scores.dtype)
            scores = residual_scores(
                scores, lengths, slope=reading.length_slope, mean_length=reading.mean_length
            )
        return scores

    def completion_lengths(self, batch: Batch) -> Int[Tensor, " B"]:
        """Tokens of each completion, under the mask or not."""
        first = batch.last.new_full((1,), batch.layout.prompt_tokens - 1)
        return batch.last - torch.cat([first, batch.last[:-1]])

    @gathers
    def token_scores(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The head at every completion token, float32, having read it; 0 where `completion_mask` is False.

        At the last token it is `forward`, where that one is under the mask.
        """
        # Completions stand in the row one after another, behind the prompts.
        starts = torch.cat([batch.last.new_full((1,), batch.layout.prompt_tokens), batch.last[:-1] + 1])
        width = batch.completion_mask.shape[1]
        rows = starts.index_select(0, batch.slots // width) + batch.slots % width
        with _reading(self.model, self.adapter_name):
            hidden = hidden_rows(self.model, batch, self.way, rows_once(rows, batch.tokens))
        return scatter_tokens(self.score_head(hidden.float()).squeeze(-1), batch)


class Critic(nn.Module):
    """Gives the value of the state before each completion token is chosen."""

    def __init__(
        self,
        model: PreTrainedModel,
        head: nn.Module,
        *,
        way: Way,
        adapter_name: str = BASE,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.value_head = head
        self.way: Way = way
        self.adapter_name = adapter_name
        self.offset = offset
        """Added to every value: sequence classifiers have no bias to hold it."""

    def normalise(self, mean: float, std: float) -> None:
        """From now on predict (what it predicted - mean) / std."""
        with torch.no_grad():
            for parameter in self.value_head.parameters():
                if parameter.requires_grad:
                    parameter.div_(std)
        self.offset = (self.offset - mean) / std

    @property
    def device(self) -> torch.device:
        return runs_on(self.model)

    @gathers
    def forward(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Values, float32, one per completion token; 0 where `completion_mask` is False."""
        with _reading(self.model, self.adapter_name):
            hidden = hidden_rows(self.model, batch, self.way, batch.predictors)
        return self.values_of(hidden, batch)

    def values_of(self, hidden: Float[Tensor, "M d"], batch: Batch) -> Float[Tensor, "B T"]:
        """As `forward`, from hidden states that are already there."""
        return scatter_tokens(self.value_head(hidden.float()).squeeze(-1) + self.offset, batch)
