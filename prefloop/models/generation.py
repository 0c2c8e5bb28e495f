"""What a saved model says of how it generates: `config.json` and `generation_config.json`.

`transformers.generate` stops at the `eos_token_id` that these files name, whatever the tokenizer and its chat template
say. So every model is saved with the tokens that it was trained to end with. The base's other settings are kept.
"""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefloop.configs.common import Sampling
from prefloop.errors import InputError
from prefloop.models.gathering import gathered, save_weights
from prefloop.text import stop_token_ids

log = logging.getLogger(__name__)

_DRAWS: dict[str, float | None] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Settings that only drawing reads, with the values that transformers takes for not set."""
_BEAMS: dict[str, Any] = {"early_stopping": False, "length_penalty": 1.0}
_ELSEWHERE = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "do_sample",
    "max_length",
    "max_new_tokens",
    "use_cache",
    "transformers_version",
)
"""Settings of the file that prefloop follows, or asks for itself."""
_NEUTRAL = (None, False, 0, 1, [], {})
"""Values of others that change nothing: switched off, a penalty of 1, one beam."""


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Model and tokenizer in Hugging Face's format, with the stop tokens that were trained; `weights` are saved instead of its own."""
    stops = stop_token_ids(tokenizer)
    named = stops[0] if len(stops) == 1 else list(stops)
    generation = getattr(model, "generation_config", None)
    for holder in (model.config, model.config.get_text_config(), generation):
        if holder is not None:
            holder.eos_token_id = named
    if generation is not None:
        for name in ("pad_token_id", "bos_token_id"):
            if getattr(generation, name) is None:
                setattr(generation, name, getattr(tokenizer, name))
    dealt = gathered(model)
    if dealt is None:
        model.save_pretrained(folder, state_dict=weights)
    else:
        save_weights(model, weights, folder, dealt.world)
    tokenizer.save_pretrained(folder)


def settle(generation: GenerationConfig, name: str) -> None:
    """Make a base's settings agree with one another: transformers loads what does not, and refuses to save it.

    Settings for drawing turn drawing on, as whoever wrote them meant it; a temperature of 0 turns it off. Settings that
    nothing reads are taken out.
    """
    if _fault(generation) is None:
        return
    before = generation.to_diff_dict()
    drawn = [key for key, unset in _DRAWS.items() if getattr(generation, key, None) not in (None, unset)]
    if generation.temperature == 0:
        generation.do_sample = False
        for key in drawn:
            setattr(generation, key, None)
    elif drawn and not generation.do_sample:
        generation.do_sample = True
    if (generation.num_beams or 1) == 1:
        for key, unset in _BEAMS.items():
            if getattr(generation, key) not in (None, unset):
                setattr(generation, key, None)
    if not generation.return_dict_in_generate:
        for flag in generation.extra_output_flags:
            setattr(generation, flag, None)
    if generation.use_cache is False:
        generation.cache_implementation = None
    if generation.pad_token_id is not None and generation.pad_token_id < 0:
        generation.pad_token_id = None
    fault = _fault(generation)
    if fault is not None:
        raise InputError(
            f"generation_config.json of {name!r} cannot be saved with a trained model: {fault}; correct it, or remove the file"
        )
    after = generation.to_diff_dict()
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    log.warning(
        "generation_config.json of %s contradicts itself; saved models say %s.",
        name,
        ", ".join(f"{key} = {after.get(key, 'nothing')}" for key in sorted(changed)),
    )


def _fault(generation: GenerationConfig) -> str | None:
    try:
        generation.validate(strict=True)
    except (ValueError, TypeError) as error:
        return " ".join(str(error).split())
    return None


def say_what_is_not_taken(model: PreTrainedModel, sampling: Sampling) -> None:
    """Log what `what_is_not_taken` finds."""
    if not_taken := what_is_not_taken(model, sampling):
        log.warning("%s", not_taken)


def what_is_not_taken(model: PreTrainedModel, sampling: Sampling) -> str:
    """The settings of the model's `generation_config.json` that sampling does not follow, as it has settings of its own; empty where
    there are none."""
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return ""
    asked = {
        key: value
        for key, value in generation.to_diff_dict().items()
        if key not in _ELSEWHERE and not key.startswith("_") and value not in _NEUTRAL
    }
    flags = {key: value for key, value in asked.items() if key in ("temperature", "top_p", "top_k")}
    flags = {key: value for key, value in flags.items() if value != getattr(sampling, key)}
    others = [key for key in asked if key not in ("temperature", "top_p", "top_k")]
    not_taken = []
    if flags:
        not_taken.append(
            "samples with "
            + ", ".join(f"{key} {getattr(sampling, key):g}" for key in flags)
            + ", not with the model's own settings; to use those: "
            + " ".join(f"--sampling.{key} {value:g}" for key, value in flags.items())
        )
    if others:
        not_taken.append(f"does not know {', '.join(f'{key} = {asked[key]}' for key in others)}")
    if not not_taken:
        return ""
    return f"generation_config.json of {model.name_or_path}: prefloop {'; it '.join(not_taken)}."
