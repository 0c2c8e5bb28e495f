"""Small tokenizers of every kind in use and the chat templates of the field's families, built here: no downloads."""

from collections.abc import Sequence
from functools import cache

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from prefloop.text.tokenizer import train_tokenizer

CORPUS = [
    "The cat sat on the mat, and the dog sat by the door.",
    "Question: what is the capital of France? Answer: Paris is the capital of France.",
    "  Indented text\n\nwith blank lines\tand tabs,  double  spaces and CAPITALS.",
    "Héllo wörld! Straße, naïve café; 12345 + 67 = 412? (yes) [no] {maybe} <tag>text</tag>",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n",
    "日本語のテキストです。 Русский текст. 🙂🙂 emoji",
] * 4

CHATML = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# the last turn gets an empty block of thoughts; earlier ones lose theirs
THINKING = """{%- for message in messages %}
{%- set said = message.content.split('</think>')[-1].lstrip('\\n') if message.role == 'assistant' else message.content %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.last %}
{%- set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\\n') if '</think>' in message.content else '' %}
{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}
{{- said + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA2 = """{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if message.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + message.content.strip() + ' [/INST]' }}
{%- else %}{{ ' ' + message.content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""
LLAMA3 = """{{- bos_token }}{% for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
ZEPHYR = """{% for message in messages %}
{{- '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
GEMMA = """{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
# no token ends a turn: the next role's does
GLM = """{{ '[gMASK]<sop>' }}{% for message in messages %}
{{- '<|' + message.role + '|>\\n' + message.content }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
PLAIN_WORDS = """{% for message in messages %}{{ '\\n\\n' + message.role + ': ' + message.content }}{% endfor %}
{%- if add_generation_prompt %}{{ '\\n\\nassistant:' }}{% endif %}"""
NO_GENERATION_PROMPT = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}"""


def _byte_level(
    specials: list[str],
    *,
    prefix_space: bool = False,
    nfc: bool = False,
    llama3: bool = False,
    start: str = "",
) -> Tokenizer:
    backend = Tokenizer(models.BPE(ignore_merges=llama3))
    if nfc:
        backend.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=not llama3)
    if llama3:
        words = Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), byte_level])
    else:
        backend.pre_tokenizer = byte_level
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    if start:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, backend.token_to_id(start))]
        )
    return backend


def _sentencepiece_bpe(
    specials: list[str],
    *,
    normalizer: normalizers.Normalizer | None,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None,
    strip: bool,
) -> Tokenizer:
    """BPE over characters with spaces as ▁ and unknown characters as bytes, the start token written before every text."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(CORPUS[:5], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learned = learner.get_vocab()
    vocab = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>"])}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for token, _ in sorted(learned.items(), key=lambda item: item[1]):
        if token != "\n":
            vocab.setdefault(token, len(vocab))
    merges = [
        (a, b)
        for _, token in sorted((place, token) for token, place in vocab.items() if len(token) > 1)
        for a, b in ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        if a in learned and b in learned and token in learned and "\n" not in token
    ]
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in ["<unk>", "<s>", "</s>", *specials]]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return backend


def _unigram() -> Tokenizer:
    learner = Tokenizer(models.Unigram())
    learner.normalizer = normalizers.NFKC()
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    learner.train_from_iterator(CORPUS, trainer)
    return learner


def _wrap(backend: Tokenizer, template: str | None = None, **tokens: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, clean_up_tokenization_spaces=False, **tokens
    )


def _gpt2() -> PreTrainedTokenizerFast:
    end = "<|endoftext|>"
    return _wrap(_byte_level([end]), bos_token=end, eos_token=end, pad_token=end)


def _gpt2_prefix_space() -> PreTrainedTokenizerFast:
    end = "<|endoftext|>"
    return _wrap(_byte_level([end], prefix_space=True), eos_token=end)


def _qwen(template: str) -> PreTrainedTokenizerFast:
    backend = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], nfc=True)
    backend.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return _wrap(backend, template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _llama3() -> PreTrainedTokenizerFast:
    specials = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    backend = _byte_level(specials, llama3=True, start="<|begin_of_text|>")
    return _wrap(backend, LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def _llama2(template: str) -> PreTrainedTokenizerFast:
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend = _sentencepiece_bpe([], normalizer=legacy, pre_tokenizer=None, strip=True)
    return _wrap(backend, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")


def _mistral(template: str) -> PreTrainedTokenizerFast:
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend = _sentencepiece_bpe(["[INST]", "[/INST]"], normalizer=None, pre_tokenizer=metaspace, strip=True)
    return _wrap(backend, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _gemma() -> PreTrainedTokenizerFast:
    backend = _sentencepiece_bpe(
        ["<start_of_turn>", "<end_of_turn>"],
        normalizer=normalizers.Replace(" ", "▁"),
        pre_tokenizer=None,
        strip=False,
    )
    backend.add_tokens([AddedToken(token, normalized=False) for token in ("\n", "\n\n", "▁▁")])
    return _wrap(backend, GEMMA, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")


def _glm() -> PreTrainedTokenizerFast:
    specials = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"]
    return _wrap(_byte_level(specials), GLM, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def _untrained_chatml() -> PreTrainedTokenizerFast:
    """Turn tokens that somebody added without saying that they are special."""
    backend = _byte_level(["<|endoftext|>"])
    backend.add_tokens([AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>")])
    return _wrap(backend, CHATML, eos_token="<|endoftext|>")


BUILDERS = {
    "ours": lambda: train_tokenizer(CORPUS, vocab_size=450),
    "gpt2": _gpt2,
    "gpt2 prefix space": _gpt2_prefix_space,
    "qwen chatml": lambda: _qwen(CHATML),
    "qwen thinking": lambda: _qwen(THINKING),
    "llama2": lambda: _llama2(LLAMA2),
    "llama2 zephyr": lambda: _llama2(ZEPHYR),
    "llama3": _llama3,
    "mistral": lambda: _mistral(LLAMA2),
    "mistral zephyr": lambda: _mistral(ZEPHYR),
    "gemma": _gemma,
    "glm": _glm,
    "added chatml": _untrained_chatml,
    "unigram": lambda: _wrap(_unigram(), PLAIN_WORDS, bos_token="<s>", eos_token="</s>", unk_token="<unk>"),
}
KINDS = tuple(BUILDERS)
CHAT_KINDS = tuple(kind for kind in KINDS if kind not in ("gpt2", "gpt2 prefix space"))


@cache
def build(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer of that kind; do not change it, tests share it."""
    return BUILDERS[kind]()


def read(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of tokens, by the library's decoder, control tokens written out."""
    text = tokenizer.decode(list(ids))
    assert isinstance(text, str)
    return text


def spell(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> bytes:
    """What tokens spell, read off the vocabulary by hand and not by the library's decoder. A prefixed space is kept."""
    byte_level = "Ġ" in tokenizer.get_vocab()
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    spelled = b""
    for token in tokenizer.convert_ids_to_tokens(list(ids)):
        if token in added:
            spelled += token.replace("▁", " ").encode()
        elif byte_level:
            spelled += bytes(_BYTE_OF[character] for character in token)
        elif len(token) == 6 and token.startswith("<0x"):
            spelled += bytes([int(token[3:5], 16)])
        else:
            spelled += token.replace("▁", " ").encode()
    return spelled


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the other bytes follow from U+0100 on."""
    printable = [byte for byte in range(256) if chr(byte).isprintable() and byte not in (0x20, 0xA0, 0xAD)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def token_id(tokenizer: PreTrainedTokenizerFast, token: object) -> int:
    """Its id, or -1 (which no token has) for None."""
    if token is None:
        return -1
    found = tokenizer.convert_tokens_to_ids(str(token))
    assert isinstance(found, int)
    return found


def control_ids(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Special tokens and ChatML's two, which one of the kinds has as ordinary added tokens; not the unknown token."""
    found = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found |= {"<|im_start|>", "<|im_end|>"} & set(tokenizer.get_vocab())
    return {token_id(tokenizer, token) for token in found} - {token_id(tokenizer, tokenizer.unk_token)}
