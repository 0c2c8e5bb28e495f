"""Loading, making and saving the roles in Hugging Face formats. Weights are safetensors only; remote code stays off unless named."""

import copy
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefloop.configs.adapters import Adapter, adapter_of
from prefloop.configs.common import Compute
from prefloop.configs.model_names import ModelName, model_name
from prefloop.configs.pretrain import Architecture
from prefloop.errors import InputError
from prefloop.models import attention
from prefloop.models.adapters import adapter_layers
from prefloop.models.encoder_decoder import (
    AutoScorer,
    cannot_run,
    check_settings,
    has_encoder,
    settle_opening,
)
from prefloop.models.from_adapter import adapter_tensors, as_it_says, merged_in, put_in
from prefloop.models.from_adapter import score_head as head_among
from prefloop.models.generation import save_model, settle
from prefloop.models.packing import pack
from prefloop.models.quantize import quantisation_of, quantised, settle_quantised
from prefloop.models.quiet import hush, quiet
from prefloop.models.roles import Critic, Policy, Reading, RewardModel, scalar_head
from prefloop.models.trunk import Way, full_logits, hidden_rows, packed_way
from prefloop.models.weights import check_name
from prefloop.runtime.pace import pace
from prefloop.text.groups import Group

log = logging.getLogger(__name__)

_LAYER = re.compile(r"(model\.|transformer\.|gpt_neox\.)?(encoder\.|decoder\.)?(layers|h|block)\.\d+\.")
"""Weights of a language model's own layers."""

_ENCODED = {AutoModelForCausalLM: AutoModelForSeq2SeqLM, AutoModelForSequenceClassification: AutoScorer}
"""What loads an encoder-decoder instead."""

_CACHE_LINE = 64
"""Bytes; PyTorch allocates in multiples of it."""

KEPT = "kept"
"""Name of an adapter that stays beside a quantised base, frozen, instead of being merged into it."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device_of(compute: Compute) -> torch.device:
    """The device a configuration asks for; `InputError` if it asks for a GPU that is not there."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise InputError("compute.device is `cuda` but PyTorch sees no GPU here; use cpu or auto")
    use_cuda = compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")


def _from_pretrained(
    auto: Any, name: str, compute: Compute, **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    adapter = adapter_of(name)
    if adapter is not None:
        return _with_adapter(auto, adapter, compute, **kwargs)
    check_name(name)
    place = model_name(name)
    if place.gguf:
        if compute.quantize != "none":
            raise InputError(
                f"compute.quantize is {compute.quantize}, but {name!r} is a .gguf file, which is unpacked as it is read; name a folder of safetensors, or leave it out"
            )
        kwargs |= _dequantised()
    elif compute.quantize != "none":
        kwargs |= quantised(compute, DTYPES[compute.dtype], device_of(compute))
    try:
        with quiet():
            config = _config_of(place, compute)
            if has_encoder(config):
                check_settings(name, config, compute)
                auto, kwargs = _ENCODED[auto], {"config": config}
            model, info = auto.from_pretrained(
                place.source,
                dtype=DTYPES[compute.dtype],
                use_safetensors=True,
                trust_remote_code=compute.trust_remote_code,
                output_loading_info=True,
                **place.options,
                **kwargs,
            )
    except (
        Exception
    ) as error:  # what a damaged or strange configuration makes of a library is any kind of error
        if isinstance(error, MemoryError | InputError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise InputError(
            f"model {name!r} could not be loaded: {_reason(error)} (it must be a folder or hub name with config.json and safetensors weights, or a .gguf file)"
        ) from error
    layers = sorted(key for key in info["unexpected_keys"] if _LAYER.match(key))
    if layers:  # transformers leaves them out without an error
        raise InputError(
            f"model {name!r} holds weights of layers that its config.json has no place for ({layers[0]}, {len(layers)} such); restore config.json"
        )
    if place.gguf:  # a plain model from here on, which is saved as one
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
    settle_quantised(model)
    if compute.quantize != "none" and quantisation_of(model) == "none":
        raise InputError(
            f"compute.quantize is {compute.quantize}, but no layer of model {name!r} can be quantised; leave it out"
        )
    model.name_or_path = name
    if has_encoder(model.config):
        settle_opening(model, name)
    return model, info


def _dequantised() -> dict[str, Any]:
    """What makes transformers unpack every weight of a .gguf file; releases without the setting always do."""
    unpacking = getattr(transformers, "GgufConfig", None)
    return {} if unpacking is None else {"quantization_config": unpacking(dequantize=True)}


def load_config(name: str, compute: Compute) -> PretrainedConfig | None:
    """A model's configuration without its weights; None if it cannot be had by itself, which loading the model will explain."""
    adapter = adapter_of(name)
    if adapter is not None:
        return load_config(adapter.base, compute)
    try:
        return _config_of(model_name(name), compute)
    except (OSError, ValueError, KeyError):
        return None


def _config_of(place: ModelName, compute: Compute) -> PretrainedConfig:
    return AutoConfig.from_pretrained(
        place.source, trust_remote_code=compute.trust_remote_code, **place.options
    )


def _reason(error: Exception) -> str:
    """The line of a library's error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "mismatch" in line), lines[0] if lines else type(error).__name__)


def _with_adapter(
    auto: Any, adapter: Adapter, compute: Compute, **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The adapter's base with the adapter merged into its weights. A head that the adapter brings is not missing."""
    tensors = adapter_tensors(adapter)
    head = head_among(tensors)
    if auto is AutoModelForCausalLM and (adapter.scores or head is not None):
        raise InputError(
            f"model {adapter.name!r} is an adapter that scores texts; name a causal language model (a reward model is not a policy)"
        )
    if auto is AutoModelForSequenceClassification and head is not None:
        kwargs["num_labels"] = head.shape[0]
    try:
        model, info = _from_pretrained(auto, adapter.base, compute, **kwargs)
    except InputError as error:
        raise InputError(
            f"adapter {str(adapter.folder)!r}: its base could not be loaded: {error}; another place for the base is given as {adapter.folder}+BASE"
        ) from error
    if head is not None:
        info["missing_keys"] = {key for key in info["missing_keys"] if not key.endswith("score.weight")}
    if compute.quantize == "none":
        return merged_in(model, adapter, tensors), info
    if auto is not AutoModelForCausalLM:
        raise InputError(
            f"compute.quantize is {compute.quantize}, but {adapter.name!r} is an adapter with a score head; name the merged model in the folder above it, or leave compute.quantize out"
        )
    put_in(model, adapter, tensors, name=KEPT)  # not merged: the sum would have to be rounded again
    return as_it_says(model, adapter).requires_grad_(False), info


def prepare(model: PreTrainedModel, compute: Compute) -> Way:
    """Dropout off, attention through our interface, on the device; says how the trunk is to be run."""
    if compute.shard != "none" and pace() is None:
        raise InputError(
            f"compute.shard is {compute.shard}, but this command does not shard models; leave it out"
        )
    attention.register()
    hush()
    turn_off_dropout(model)
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding):
        # Its row would never learn from what is read; where padding is the end token, that is the row a score is read at.
        embedding.padding_idx = None
    if (
        compute.shard == "none"
    ):  # else the weights stay where the file is mapped until each process takes its part
        model.to(device_of(compute))  # pyright: ignore[reportArgumentType]
        align_weights(model)
    way: Way = "encoded" if has_encoder(model.config) else "padded"
    if compute.attention != "padded" and way == "padded":
        before = model.config._attn_implementation
        if model._supports_attention_backend:
            model.set_attn_implementation(attention.NAME)
        way, reason = packed_way(model)
        if way == "padded":
            if model._supports_attention_backend and before is not None:
                model.set_attn_implementation(before)
            text = f"{type(model).__name__} ({model.name_or_path or 'new model'}) cannot run packed: {reason}"
            if compute.attention == "packed":
                raise InputError(f"{text}; set compute.attention to auto or padded")
            log.warning("%s. It runs padded: correct, but slower and with more memory.", text)
    if compute.gradient_checkpointing:
        # transformers 5.20 renamed it; the older name warns there. Both default to the non-reentrant kind.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.train()  # transformers checkpoints in training mode only; dropout is off by itself
    return way


def turn_off_dropout(model: nn.Module) -> None:
    """Every dropout to zero, in modules and in attributes that attention reads, and evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "layerdrop",
            "attn_dropout",
            "hidden_dropout",
        ):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    model.eval()


def align_weights(model: nn.Module) -> None:
    """Move weights that begin off a cache line into memory of PyTorch's own.

    Weights read from a file begin wherever its header happens to end, and vectorised kernels add up in an order that depends on where a row
    begins: without this a model and its saved copy differ in the last bit, and a resumed run would drift from an unbroken one.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % _CACHE_LINE:
            tensor.data = tensor.data.clone()


def _head_is_linear(model: PreTrainedModel, way: Way) -> bool:
    """Whether the model's logits are its output embedding applied to the trunk, as the chunked head computes them."""
    if getattr(model.config.get_text_config(), "final_logit_softcapping", None):
        return False  # nearly linear on small logits, so the probe below would not see it
    batch = pack([Group(prompt=[3, 1], completions=([4, 1, 5],), masks=([True] * 3,))], model.device)
    policy = Policy(model, way=way)
    with torch.no_grad():
        head = policy.head()
        # The plain way computes the very states that the model's logits are made of: in few bits, others differ by every layer's roundings.
        plain: Way = "encoded" if way == "encoded" else "padded"
        rows = hidden_rows(model, batch, plain, batch.predictors)
        ours = (rows @ head.weight.T * head.scale).float()
        if head.bias.numel():
            ours = ours + head.bias.float()
        theirs = full_logits(model, batch).float()
    return ((ours - theirs).norm() / theirs.norm()).item() < (1e-4 if model.dtype == torch.float32 else 5e-2)


def as_policy(model: PreTrainedModel, compute: Compute) -> Policy:
    """A causal language model that is already in memory, as a policy."""
    way = prepare(model, compute)
    try:
        linear = _head_is_linear(model, way)
    except (AttributeError, TypeError, RuntimeError, KeyError) as error:
        if way != "encoded":
            raise
        refused = cannot_run(model.name_or_path or "", model.config)
        raise InputError(f"{refused} ({error})") from error
    if not linear:
        log.warning(
            "%s has a head that is more than a linear layer: its logits are computed in full.",
            type(model).__name__,
        )
    return Policy(model, way=way, linear_head=linear)


def load_policy(name: str, compute: Compute) -> Policy:
    """A causal language model by name. Raises `InputError` if it cannot be loaded."""
    model, info = _from_pretrained(AutoModelForCausalLM, name, compute)
    missing = sorted(
        key for key in info["missing_keys"] if "lm_head" not in key or not model.config.tie_word_embeddings
    )
    if missing:
        raise InputError(
            f"model {name!r} lacks weights for {', '.join(missing[:3])}; is it a causal language model? (a reward model is not a policy)"
        )
    heads = sorted(key for key in info["unexpected_keys"] if key.startswith(("score.", "classifier.")))
    if heads:  # with tied embeddings nothing is missing, and a trunk bent to scoring would pass for a policy
        raise InputError(
            f"model {name!r} has a head {heads[0]}, which scores texts; name a causal language model (a reward model is not a policy)"
        )
    settle(model.generation_config, name)
    policy = as_policy(model, compute)
    if adapter_layers(model):
        policy.adapter_name = policy.start = KEPT
    return policy


def new_language_model(
    architecture: Architecture, tokenizer: PreTrainedTokenizerBase, compute: Compute, *, seed: int
) -> Policy:
    """A Llama-shaped model with fresh weights: N(0, 0.02^2), output layers of a block scaled by 1/sqrt(2 layers) as in GPT-2."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.ffn_size,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.heads,
        max_position_embeddings=architecture.max_positions,
        tie_word_embeddings=architecture.tie_embeddings,
        use_cache=True,
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.mul_((2 * architecture.layers) ** -0.5)
    model = model.to(DTYPES[compute.dtype])  # pyright: ignore[reportArgumentType]
    return as_policy(model, compute)


def classifier_padding(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The padding id to store with a sequence classifier: transformers scores the last token that is not padding, so a padding id that
    also ends completions would make it score the wrong one. Then none is stored, and it refuses batches instead."""
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) and pad != tokenizer.eos_token_id else None


def new_reward_model(
    name: str, tokenizer: PreTrainedTokenizerBase, compute: Compute, *, seed: int
) -> RewardModel:
    """A reward model on a language model's trunk, with a fresh head N(0, 1/(d+1)), drawn from the seed."""
    model, info = _from_pretrained(AutoModelForSequenceClassification, name, compute, num_labels=1)
    strange = sorted(key for key in info["missing_keys"] if not key.endswith("score.weight"))
    if strange:
        raise InputError(
            f"model {name!r} lacks weights for {', '.join(strange[:3])}; a reward model needs a whole trunk to start from"
        )
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise InputError(
            f"{type(model).__name__} has no `score` head that a reward model could use; start from a causal language model"
        )
    if not info["missing_keys"]:
        log.warning("%s has a trained head, which is replaced by a new random one. keep_head keeps it.", name)
    width = score_head(model).in_features
    model.score = scalar_head(width, std=(width + 1) ** -0.5, generator=torch.Generator().manual_seed(seed))
    settings = model.config.get_text_config()
    before = settings.pad_token_id
    if not has_encoder(model.config):  # which reads no padding to find a completion's end
        settings.pad_token_id = classifier_padding(tokenizer)
    way = prepare(model, compute)
    reward_model = RewardModel(model, score_head(model), way=way)
    reward_model.base_padding = before
    return reward_model


def score_head(model: PreTrainedModel) -> nn.Linear:
    """The `score` layer that transformers gives every sequence classifier."""
    head = model.score
    assert isinstance(head, nn.Linear)
    return head


def load_reward_model(name: str, compute: Compute) -> RewardModel:
    """A trained reward model. Raises `InputError` if its head is missing or has several labels, instead of making one up."""
    model, info = _from_pretrained(AutoModelForSequenceClassification, name, compute)
    if info["missing_keys"]:
        raise InputError(
            f"reward model {name!r} has no weights for {', '.join(sorted(info['missing_keys'])[:3])}; train one with `prefloop reward`"
        )
    score = getattr(model, "score", None)
    if not isinstance(score, nn.Linear) or score.out_features != 1:
        raise InputError(
            f"reward model {name!r} must have a head `score` with one label; its configuration says otherwise"
        )
    model.score = score.float()
    way = prepare(model, compute)
    reward_model = RewardModel(model, score_head(model), way=way)
    reward_model.reading = _reading(model.config)
    return reward_model


def critic_from_reward_model(reward_model: RewardModel, *, normalised: bool = False) -> Critic:
    """A critic that starts as a copy of the reward model, head included; `normalised` where it is to predict normalised scores."""
    model = copy.deepcopy(reward_model.model).requires_grad_(True)
    critic = Critic(model, score_head(model), way=reward_model.way)
    if normalised:
        critic.normalise(*reward_moments(reward_model))
        model.config.value_offset = critic.offset
    return critic


def load_critic(name: str, compute: Compute) -> Critic:
    """A critic saved by `save_classifier`."""
    loaded = load_reward_model(name, compute)
    offset = float(getattr(loaded.model.config, "value_offset", 0.0))
    return Critic(loaded.model, loaded.score_head, way=loaded.way, offset=offset)


def critic_from_policy(name: str, tokenizer: PreTrainedTokenizerBase, compute: Compute) -> Critic:
    """A critic on the policy's weights with a head of zeros: it begins by predicting nothing."""
    fresh = new_reward_model(name, tokenizer, compute, seed=0)
    with torch.no_grad():
        score_head(fresh.model).weight.zero_()
    return Critic(fresh.model, fresh.score_head, way=fresh.way)


def save_policy(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """As a plain causal language model that `AutoModelForCausalLM` loads."""
    save_model(policy.model, tokenizer, folder)


def save_classifier(role: RewardModel | Critic, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """As a sequence classifier with one label that `AutoModelForSequenceClassification` loads, with the same scores."""
    save_model(role.model, tokenizer, folder)


def set_reward_moments(reward_model: RewardModel, mean: float, std: float) -> None:
    """Keep the mean and standard deviation of scores on reference completions with the model; saved scores stay as they are."""
    reward_model.model.config.reward_mean = mean
    reward_model.model.config.reward_std = std


def reward_moments(reward_model: RewardModel) -> tuple[float, float]:
    """The stored mean and standard deviation; 0 and 1 if none were stored."""
    return _moments(reward_model.model.config)


def stored_reward_moments(folder: str) -> tuple[float, float]:
    """The same, of a saved reward model that is not loaded."""
    return _moments(_stored_config(folder))


def set_reading(reward_model: RewardModel, reading: Reading) -> None:
    """How the score is read, from now on and after loading."""
    reward_model.reading = reading
    reward_model.model.config.reward_reading = asdict(reading)


def stored_reading(folder: str) -> Reading:
    """How the score of a saved reward model is read."""
    return _reading(_stored_config(folder))


def _stored_config(name: str) -> PretrainedConfig:
    """The configuration of a saved model, or what an adapter says in its place."""
    adapter = adapter_of(name)
    if adapter is not None:
        return PretrainedConfig(**adapter.about.get("config", {}))
    check_name(name)
    with quiet():
        place = model_name(name)
        return AutoConfig.from_pretrained(place.source, **place.options)


def set_thresholds(reward_model: RewardModel, levels: Sequence[float], thresholds: Sequence[float]) -> None:
    """Keep an ordinal reward model's levels and the thresholds between them: P(above level k) = sigmoid(score - threshold k)."""
    reward_model.model.config.reward_levels = list(levels)
    reward_model.model.config.reward_thresholds = list(thresholds)


def _reading(config: PretrainedConfig) -> Reading:
    return Reading(**getattr(config, "reward_reading", {}))


def _moments(config: PretrainedConfig) -> tuple[float, float]:
    return float(getattr(config, "reward_mean", 0.0)), float(getattr(config, "reward_std", 1.0))
