"""Loading tokenizers, and training one of our own: byte-level BPE that writes any text and a chat template
with one token per role.

transformers is imported inside the functions: it takes a second, and who imports this module may only want
its names.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.configs.adapters import adapter_of, read_object
from prefloop.configs.model_names import ModelName, model_name
from prefloop.errors import InputError
from prefloop.text.template import conventions, declare_encoder, declare_stops, reads_apart
from prefloop.text.tokens import check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (BOS, EOS, PAD, *ROLE_TOKENS)
"""Of the tokenizers trained here, in the order of their ids."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|assistant|>' + message['content'] + eos_token }}
    {%- elif message['role'] == 'user' or message['role'] == 'system' %}
        {{- '<|' + message['role'] + '|>' + message['content'] }}
    {%- else %}
        {{- raise_exception('the roles of this template are system, user and assistant') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""
"""Each turn is its role's token and its content, nothing trimmed. The end token closes the assistant's turns,
so that chats, plain completions and pretraining documents all end in the same token and there is one way to
stop; other turns end where the next role's token stands."""

_EXACT_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_SMALLEST = 256 + len(SPECIAL_TOKENS)


def load_tokenizer(name_or_path: str | Path, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model by its name; of an adapter its own, or its base's where none was saved with it.

    Raises `InputError` if there is none, where it has no end token, or where it is not a fast one (we need
    to know which characters a token covers).
    """
    name = str(name_or_path)
    adapter = adapter_of(name)
    if adapter is not None and not adapter.has_tokenizer:
        return load_tokenizer(adapter.base, trust_remote_code=trust_remote_code)
    place = model_name(name) if adapter is None else ModelName(source=str(adapter.folder))
    folder = Path(place.source).expanduser()
    if place.is_path and not folder.exists():
        raise InputError(
            f"there is no folder {name!r} to load a tokenizer from; give an existing folder or a hub name"
        )
    try:
        tokenizer = _load(place, folder, trust_remote_code)
    except Exception as error:  # the library raises bare Exception for a broken tokenizer.json
        for file in sorted(folder.glob("*token*.json")) if folder.is_dir() else ():
            read_object(file)  # a damaged one is named
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"no tokenizer could be loaded from {name!r} ({reason}); give a hub name or a folder with tokenizer.json, "
            "and set trust_remote_code if the model brings Python code that you have read"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of {name!r} has no fast version (tokenizer.json); convert it with the tokenizers library, or use another model"
        )
    declare_stops(tokenizer, _declared_stops(tokenizer, place, folder))
    if _has_encoder(name):
        declare_encoder(tokenizer)
    conventions(tokenizer)
    return tokenizer


def _has_encoder(name: str) -> bool:
    """Whether the model of this name is an encoder-decoder, by its config.json; an adapter's base is asked."""
    adapter = adapter_of(name)
    if adapter is not None:
        return _has_encoder(adapter.base)
    place = model_name(name)
    if place.gguf:
        return False
    settings = _read_settings(place, Path(place.source).expanduser(), "config.json")
    return bool(settings.get("is_encoder_decoder"))


def _declared_stops(tokenizer: "PreTrainedTokenizerBase", place: ModelName, folder: Path) -> list[int]:
    """The `eos_token_id` of the model's files, a number or a list. Ordinary words are left out, with a warning: configurations
    come with a default, 2, that may be any token."""
    if place.gguf:  # it says its end token itself
        return []
    name, known = place.source, {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    stops: list[int] = []
    for file in ("generation_config.json", "config.json"):
        values = _read_settings(place, folder, file)
        text = values.get("text_config")
        found = values.get("eos_token_id", text.get("eos_token_id") if isinstance(text, dict) else None)
        for token in found if isinstance(found, list) else [] if found is None else [found]:
            if isinstance(token, bool) or not isinstance(token, int):
                raise InputError(
                    f"{name}: eos_token_id in {file} is {found!r}; it must be a token's number, or a list of them"
                )
            if token in known:
                stops.append(token)
            else:
                log.warning(
                    "%s: eos_token_id %d in %s is not a control token of the tokenizer, so it is ignored.",
                    name,
                    token,
                    file,
                )
    return list(dict.fromkeys(stops))


def _read_settings(place: ModelName, folder: Path, file: str) -> dict[str, Any]:
    """A file of settings beside the tokenizer's, in the folder or on the hub; empty if there is none."""
    path = folder / file if folder.exists() else _from_hub(place, file)
    if path is None or not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); write it again, or remove it") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__}, not an object with settings; write it again")
    return values


def _from_hub(place: ModelName, file: str) -> Path | None:
    from transformers.utils.hub import cached_file

    found = cached_file(
        place.source,
        file,
        revision=place.revision or None,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _load(place: ModelName, folder: Path, trust_remote_code: bool) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    about = folder / "tokenizer_config.json"
    if not place.gguf and about.is_file() and (folder / "tokenizer.json").is_file():
        declared = read_object(about).get("tokenizer_class")
        if declared in _EXACT_CLASSES:
            # AutoTokenizer would let the model's architecture choose a class, which rebuilds the tokenizer its own way
            return PreTrainedTokenizerFast.from_pretrained(str(folder))
    loaded = AutoTokenizer.from_pretrained(
        str(folder) if folder.exists() else place.source, trust_remote_code=trust_remote_code, **place.options
    )
    return _as_the_file_has_it(loaded) if place.gguf else loaded


def _as_the_file_has_it(tokenizer: Any) -> "PreTrainedTokenizerBase":
    """Without the end token of GPT-2, which transformers adds to the tokens of any .gguf file: the model has no embedding for it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    written = json.loads(tokenizer.backend_tokenizer.to_str())
    size = len(written["model"]["vocab"])  # a file's control tokens stand among the others
    own = [token for token in written["added_tokens"] if token["id"] < size]
    if len(own) == len(written["added_tokens"]):
        return tokenizer
    written["added_tokens"] = own
    roles = {f"{role}_token": getattr(tokenizer, f"{role}_token") for role in ("bos", "eos", "pad")}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(written)),
        chat_template=tokenizer.chat_template,
        **roles,
    )


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer of at most `vocab_size` tokens; the same texts give the same
    tokenizer.

    It writes any text exactly, begins each with `<|bos|>`, and has its own end, pad and role tokens and a
    chat template. `texts` is read once, one at a time. `save_pretrained` writes a folder that `AutoTokenizer`
    loads.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < _SMALLEST:
        raise InputError(
            f"vocab_size is {vocab_size}; it must be {_SMALLEST} or more: one token per byte and {len(SPECIAL_TOKENS)} special ones"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_readable(texts), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL_TOKENS.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=list(ROLE_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _readable(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for number, text in enumerate(texts, 1):
        check_unicode(text, f"text {number}")
        empty = empty and not text
        yield text
    if empty:
        raise InputError("there is no text to train a tokenizer on; check data.source and data.limit")


def stop_token_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Tokens at which sampling stops and which decoding takes off: the end token, the chat template's end of turn, and
    all that `eos_token_id` names in the model's generation_config.json and config.json."""
    return conventions(tokenizer).stops


def check_same_tokens(
    tokenizer: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase", *, what: str
) -> None:
    """Raise `InputError` if two tokenizers give tokens other ids: log-probabilities of the same ids would be those of different texts.

    `what` names the model that `other` belongs to.
    """
    if reads_apart(tokenizer) != reads_apart(other):
        raise InputError(
            f"of {what} and the model of {tokenizer.name_or_path!r} one is an encoder-decoder and the other is not, so their log-probabilities "
            "cannot be compared; name two of a kind"
        )
    if tokenizer.get_vocab() != other.get_vocab():
        raise InputError(
            f"{what} has a different tokenizer from {tokenizer.name_or_path!r}, so their log-probabilities cannot be compared; "
            "name a model with the same tokenizer"
        )


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", model_vocab_size: int) -> None:
    """Raise `InputError` if the tokenizer has tokens that a model with `model_vocab_size` embeddings has no
    row for.

    More embeddings than tokens are fine; many models round their number up.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= model_vocab_size:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has token {token!r} with id {largest}, but the model has {model_vocab_size} embeddings; "
            "use the model's own tokenizer, or resize its embeddings before training"
        )
