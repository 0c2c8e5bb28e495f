"""Text to tokens and back, in batches, such that what is trained on reads as what was written.

A completion is tokenised apart from its prompt, because that is how a model meets it: the prompt's tokens are
given, the completion's are drawn one by one. Some tokenizers write a space before every text they are given
("Metaspace"); such a completion is tokenised behind a known piece of text, which is then cut off. Whichever
way is taken, the tokens are decoded after their prompt and must read as the text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefloop.errors import InputError
from prefloop.marks import refuse_images
from prefloop.text.chat import BREAK

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Texts given to the tokenizer at once: enough for its threads, few enough that its own copies stay small."""
_NEAR = 8
"""Tokens before a cut control token that are decoded with what follows; enough for a whole character."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuations:
    """Tokens of texts that go on from something."""

    ids: list[list[int]]
    altered: frozenset[int]
    """Texts the tokenizer cannot write exactly (unknown characters, a normaliser); it reads them so at inference too."""
    failed: frozenset[int]
    """Texts that no tokens were found for which read as they should; their `ids` are empty."""


def check_unicode(text: str, what: str) -> None:
    """Raise `InputError` for half a character (a lone surrogate, as JSON's escape codes can make)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} has a broken character at position {error.start} ({text[error.start]!r}, half of a surrogate pair); "
            "write the whole character or remove it"
        ) from error


def check_text(text: str, what: str) -> None:
    """The same; and raise `InputError` for a text that shows an image, which no tokens can say."""
    check_unicode(text, what)
    refuse_images([text], what, "a text model")


def encode_texts(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Tokens of escaped texts, each from its start, none added. Control tokens not escaped are read as such."""
    pieces = [text.split(BREAK) for text in texts]
    ids = _encode(tokenizer, [first for first, *_ in pieces])
    return [
        _go_on(tokenizer, encoded, rest) if rest else encoded
        for encoded, (_, *rest) in zip(ids, pieces, strict=True)
    ]


def encode_alone(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Continuations:
    """Tokens of escaped texts that a decoder writes from their start, as the tokenizer itself writes them."""
    ids = encode_texts(tokenizer, texts)
    read = decode(tokenizer, ids)
    altered = (index for index, text in enumerate(texts) if read[index] != text.replace(BREAK, ""))
    return Continuations(ids=ids, altered=frozenset(altered), failed=frozenset())


def encode_continuations(
    tokenizer: "PreTrainedTokenizerBase", contexts: Sequence[Sequence[int]], texts: Sequence[str]
) -> Continuations:
    """Tokens of escaped texts that go on from the tokens in `contexts`, start tokens left out.

    Tokens are accepted if the context and they, decoded together, read as the context followed by the text.
    """
    pieces = [text.split(BREAK) for text in texts]
    plain = _continue(tokenizer, contexts, [first for first, *_ in pieces])
    for index, (_, *rest) in enumerate(pieces):
        if rest and index not in plain.failed:
            before = [*contexts[index][-_NEAR:], *plain.ids[index]]
            added = _go_on(tokenizer, before, rest)[len(before) :]
            plain.ids[index].extend(added)
    return plain


def encode_after(tokenizer: "PreTrainedTokenizerBase", marker: str, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of escaped texts as the tokenizer writes them right behind `marker`, without the marker's own.

    Behind a control token this is exactly their part in the tokens of the whole. A token that spans the
    border is left out.
    """
    pieces = [text.split(BREAK) for text in texts]
    return [
        _go_on(tokenizer, encoded, rest) if rest else encoded
        for encoded, (_, *rest) in zip(
            _encode_behind(tokenizer, marker, [first for first, *_ in pieces]), pieces, strict=True
        )
    ]


def decode(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[Sequence[int]]) -> list[str]:
    """Text of each list of tokens, control tokens written out."""
    return _backend(tokenizer).decode_batch([list(row) for row in ids], skip_special_tokens=False)


def _go_on(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], pieces: Sequence[str]) -> list[int]:
    """`ids` and the tokens of the pieces of a text that was cut inside control tokens."""
    ids = list(ids)
    for piece in pieces:
        added = _continue(tokenizer, [ids[-_NEAR:]], [piece])
        if added.failed:
            raise InputError(
                f"the tokenizer {tokenizer.name_or_path!r} cannot write {piece[:40]!r} inside a text; remove the control token before it"
            )
        ids += added.ids[0]
    return ids


def _continue(
    tokenizer: "PreTrainedTokenizerBase", contexts: Sequence[Sequence[int]], texts: Sequence[str]
) -> Continuations:
    before = decode(tokenizer, contexts)
    ids: list[list[int]] = [[] for _ in texts]
    tried: dict[int, list[list[int]]] = {index: [] for index, text in enumerate(texts) if text}
    for marker in ("", str(tokenizer.eos_token), "\n", "."):
        pending = list(tried)
        encoded = _encode_behind(tokenizer, marker, [texts[index] for index in pending])
        rows = [[*contexts[index], *row] for index, row in zip(pending, encoded, strict=True)]
        for index, row, read in zip(pending, encoded, decode(tokenizer, rows), strict=True):
            if read == before[index] + texts[index]:
                ids[index] = row
                del tried[index]
            else:
                tried[index].append(row)
    return _settle(tokenizer, contexts, texts, ids, tried)


def _settle(
    tokenizer: "PreTrainedTokenizerBase",
    contexts: Sequence[Sequence[int]],
    texts: Sequence[str],
    ids: list[list[int]],
    tried: Mapping[int, Sequence[list[int]]],
) -> Continuations:
    """Settle the texts in `tried`, none of whose candidates reads exactly as the text after its context.

    A candidate does if it reads as the tokenizer itself reads that text in mid-sentence. That also serves a
    text at the very start, where decoders take a leading space away.
    """
    altered, failed = set(), set()
    (dot_ids,) = _encode(tokenizer, ["."])
    (dot,) = decode(tokenizer, [dot_ids])
    for index, candidates in tried.items():
        context = contexts[index] or dot_ids
        before, *read = decode(tokenizer, [context, *([*context, *row] for row in candidates)])
        (own,) = decode(tokenizer, _encode(tokenizer, ["." + texts[index]]))
        own = own.removeprefix(dot)
        if before + own in read:
            ids[index] = candidates[read.index(before + own)]
            altered |= {index} if own != texts[index] else set()
        else:
            failed.add(index)
    return Continuations(ids=ids, altered=frozenset(altered), failed=frozenset(failed))


def _encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    backend = _backend(tokenizer)
    return [
        encoding.ids
        for start in range(0, len(texts), BATCH)
        for encoding in backend.encode_batch_fast(
            list(texts[start : start + BATCH]), add_special_tokens=False
        )
    ]


def _encode_behind(
    tokenizer: "PreTrainedTokenizerBase", marker: str, texts: Sequence[str]
) -> list[list[int]]:
    """Tokens of what follows `marker` in marker + text, without those that begin inside the marker."""
    if not marker:
        return _encode(tokenizer, texts)
    backend = _backend(tokenizer)
    return [
        [
            token
            for token, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True)
            if begin >= len(marker)
        ]
        for start in range(0, len(texts), BATCH)
        for encoding in backend.encode_batch(
            [marker + text for text in texts[start : start + BATCH]], add_special_tokens=False
        )
    ]


def _backend(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """The Rust tokenizer, set to cut and pad nothing. Through transformers the same takes a fifth longer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no fast version (tokenizer.json); "
            "convert it with the tokenizers library, or use another model"
        )
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = False  # read the template's control tokens; a record's are cut by then
    return backend
