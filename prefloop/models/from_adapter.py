"""Adapters that PEFT has saved, put into a model: merged into its weights, or as layers that continue to be trained."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from prefloop.configs.adapters import CONFIG, WEIGHTS, Adapter
from prefloop.errors import InputError
from prefloop.models.quiet import quiet
from prefloop.models.weights import read_tensors

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

log = logging.getLogger(__name__)

_HEADS = (".score.", ".classifier.")
_OUTPUT = "lm_head"
SCORED_BY = "SEQ_CLS, but its score is not read as transformers reads it"
"""`task_type` of a reward adapter that would give other scores on its base by itself. PEFT refuses it and prints it."""


def adapter_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """What the adapter's file holds. Raises `InputError` if it is not there, damaged or pickled."""
    file = adapter.folder / WEIGHTS
    if not file.is_file():
        pickled = (adapter.folder / "adapter_model.bin").exists()
        raise InputError(
            f"adapter {str(adapter.folder)!r} holds no {WEIGHTS}"
            + (
                "; its weights are pickled (adapter_model.bin): save it with safe_serialization=True"
                if pickled
                else ""
            )
        )
    return read_tensors(file)


def score_head(tensors: dict[str, Tensor]) -> Tensor | None:
    """The head that scores texts, among an adapter's tensors."""
    for name, tensor in tensors.items():
        if any(part in f".{name}" for part in _HEADS) and name.endswith("weight") and ".lora_" not in name:
            return tensor
    return None


def put_in(
    model: PreTrainedModel, adapter: Adapter, tensors: dict[str, Tensor], *, name: str = "default"
) -> "PeftModel":
    """The adapter's layers, with its weights, in a model that is its base; nothing of it is trained yet.

    Raises:
        InputError: The adapter is of a kind that cannot be merged, or does not fit the model: all that is wrong about names and shapes.
    """
    from peft import PeftModel
    from peft.utils import set_peft_model_state_dict

    peft_config = _peft_config(adapter)
    if (
        model.get_output_embeddings() is None
    ):  # a classifier's trunk has no output layer, nor needs the adapter's
        tensors = {key: value for key, value in tensors.items() if f".{_OUTPUT}." not in key}
        _without_output(peft_config)
    _fit_vocabulary(model, adapter, tensors)
    _untie(model, peft_config, tensors)
    with quiet(), _fitting(adapter):
        peft = PeftModel(model, peft_config, adapter_name=name)
        result = set_peft_model_state_dict(peft, tensors, adapter_name=name)
    wrong = list(result.unexpected_keys)
    if wrong:
        raise InputError(
            f"{_misfit(adapter)}: it has {wrong[0]} ({len(wrong)} such), which the base does not have"
        )
    own = (f".{name}.", f".{name}")
    lacking = sorted(
        key
        for key in result.missing_keys
        if ".lora_" in key and any(part in key or key.endswith(part) for part in own)
    )
    if lacking:
        raise InputError(
            f"{_misfit(adapter)}: its file lacks {lacking[0]} ({len(lacking)} such), which {CONFIG} lists"
        )
    return peft


def merged_in(model: PreTrainedModel, adapter: Adapter, tensors: dict[str, Tensor]) -> PreTrainedModel:
    """The model with the adapter's updates added to its weights, as a plain model that trains like any other."""
    peft = put_in(model, adapter, tensors)
    with quiet():
        try:
            merged: Any = peft.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise InputError(f"{adapter.folder / WEIGHTS}: {_line(error)}; the adapter is damaged") from error
    assert isinstance(merged, PreTrainedModel)
    merged.requires_grad_(True)
    return as_it_says(merged, adapter)


def as_it_says(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """What an adapter says of its model beside weights: how a score is read, and where generation ends."""
    for key, value in adapter.about.get("config", {}).items():
        setattr(model.config.get_text_config() if key == "pad_token_id" else model.config, key, value)
    if (adapter.folder / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(str(adapter.folder))
    model.name_or_path = adapter.name
    return model


def trainable(adapter: Adapter, tensors: dict[str, Tensor], *, head: bool) -> None:
    """Raise `InputError` if an adapter cannot be trained further: where it is more than low-rank updates of linear layers."""
    settings = adapter.settings
    extra = [
        f"{key} is {settings[key]!r}"
        for key, plain in (("use_dora", False), ("bias", "none"), ("trainable_token_indices", None))
        if settings.get(key, plain) not in (plain, None)
    ]
    if str(settings.get("peft_type")) != "LORA":
        extra.append(f"peft_type is {settings.get('peft_type')!r}")
    other = sorted(
        key
        for key in tensors
        if ".lora_A." not in key and ".lora_B." not in key and not (head and any(h in key for h in _HEADS))
    )
    if other:
        extra.append(f"it holds {other[0]}")
    if extra:
        raise InputError(
            f"adapter {adapter.name!r} cannot be trained further ({'; '.join(extra)}): only plain LoRA of linear layers can; "
            "set lora.adapter to merge"
        )


def _peft_config(adapter: Adapter) -> "PeftConfig":
    """As PEFT reads it, without its task: the model's class is ours to choose."""
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    stated = {key: value for key, value in adapter.settings.items() if key != "runtime_config"}
    kind = str(stated.get("peft_type"))
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise InputError(
            f"{adapter.folder / CONFIG}: peft_type is {kind!r}, which this PEFT does not know; restore the file, or install the PEFT that wrote it"
        )
    if stated.get("layer_replication"):
        raise InputError(
            f"{adapter.folder / CONFIG}: layer_replication makes another model of the base, which cannot be merged; save a whole model instead"
        )
    of_kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind]  # pyright: ignore[reportArgumentType]
    known = {field.name for field in fields(of_kind)}
    unknown = sorted(key for key in stated if key not in known)
    if unknown:
        log.warning(
            "%s has settings that this PEFT does not know: %s. They are ignored.",
            adapter.folder / CONFIG,
            ", ".join(unknown),
        )
    stated["task_type"] = None
    if adapter.scores and not stated.get("modules_to_save"):
        stated["modules_to_save"] = ["classifier", "score"]
    stated["inference_mode"] = False
    stated["lora_dropout"] = 0.0
    try:
        peft_config = of_kind(**{key: value for key, value in stated.items() if key in known})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{adapter.folder / CONFIG}: {_line(error)}; restore the file, or save the adapter again"
        ) from error
    assert isinstance(peft_config, PeftConfig)
    if peft_config.is_prompt_learning or peft_config.is_adaption_prompt:
        raise InputError(
            f"adapter {adapter.name!r} is of kind {kind}, which adds to the prompt and cannot be merged into weights; "
            "use one that changes weights, such as LoRA"
        )
    peft_config.base_model_name_or_path = adapter.base
    return peft_config


def _without_output(peft_config: Any) -> None:
    for key in ("target_modules", "modules_to_save"):
        value = getattr(peft_config, key, None)
        if isinstance(value, list | set):
            setattr(peft_config, key, [part for part in value if part != _OUTPUT] or None)


def _embedding_rows(tensors: dict[str, Tensor], module: str) -> int:
    """Rows of an embedding that an adapter brings whole; 0 if it brings none."""
    found = [
        tensor.shape[0]
        for key, tensor in tensors.items()
        if f".{module}." in key and key.endswith("weight") and ".lora_" not in key and tensor.dim() == 2
    ]
    return found[0] if found else 0


def _module_name(model: PreTrainedModel, wanted: nn.Module | None) -> str:
    return next((name.split(".")[-1] for name, submodule in model.named_modules() if submodule is wanted), "")


def _fit_vocabulary(model: PreTrainedModel, adapter: Adapter, tensors: dict[str, Tensor]) -> None:
    """As many rows as the adapter's embeddings have, where it was trained with tokens added to the base's."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    have = getattr(inputs, "weight").shape[0]  # noqa: B009  not every embedding is declared to have one
    rows = _embedding_rows(tensors, _module_name(model, inputs))
    out = _embedding_rows(tensors, _module_name(model, outputs)) if outputs is not None else 0
    wanted = max(rows, out)
    if wanted in (0, have):
        return
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    if (not rows) or (outputs is not None and not out and not tied) or (rows and out and rows != out):
        raise InputError(
            f"adapter {adapter.name!r} has {rows or 'no'} rows of input embeddings and {out or 'no'} of output embeddings for the {have} tokens of its "
            f"base {adapter.base!r}: what added tokens mean is not in the file; save it with save_embedding_layers=True"
        )
    with quiet():
        model.resize_token_embeddings(wanted, mean_resizing=False)


def _untie(model: PreTrainedModel, peft_config: Any, tensors: dict[str, Tensor]) -> None:
    """Give the output layer weights of its own where the adapter changes it or the embedding alone: merged into one, it would change both."""
    of_text = model.config.get_text_config()
    outputs, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    if (
        not isinstance(outputs, nn.Module)
        or not getattr(of_text, "tie_word_embeddings", False)
        or getattr(peft_config, "ensure_weight_tying", False)
    ):
        return
    names = {_module_name(model, inputs), _module_name(model, outputs)}
    own = {key for key in tensors if any(f".{name}." in key for name in names)}
    changed = [key for key in own if "lora_" in key]  # of single tokens, PEFT changes both alike
    saved = set(getattr(peft_config, "modules_to_save", None) or ())
    if not changed and not (saved & names):
        return
    weight = getattr(outputs, "weight")  # noqa: B009  a linear layer's
    outputs.weight = nn.Parameter(weight.detach().clone())
    of_text.tie_word_embeddings = model.config.tie_word_embeddings = False


@contextmanager
def _fitting(adapter: Adapter) -> Iterator[None]:
    """What PEFT and PyTorch say of an adapter that does not fit, in one line."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{_misfit(adapter)}: {_line(error)}") from error


def _misfit(adapter: Adapter) -> str:
    return f"adapter {str(adapter.folder)!r} does not fit its base {adapter.base!r} (name another one as {adapter.folder}+BASE)"


def _line(error: Exception) -> str:
    """The line of an error that says what is wrong; PyTorch begins with one that says where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next((line for line in lines if "mismatch" in line), lines[0] if lines else type(error).__name__)
    return (line if len(line) <= 300 else f"{line[:300]} ...").rstrip(".")
