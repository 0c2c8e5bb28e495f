"""Near duplicates: texts that are the same but for a word here and there, found in time that grows with their length alone.

A text is the set of its pieces of eight characters, folded (letters and digits, in one case, single spaces). Two texts are near where they share
at least 80 % of both sets' pieces (Jaccard). Candidates share three of their eight pieces of least hash (minhash: near texts share six or seven of
them on average), and the share itself is then computed on the whole sets.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

PIECE = 8
NEAR = 0.8
LONGEST = 4_000
"""Characters of a text that are looked at, from its beginning."""
_SKETCH = 8
_SHARED = 3
"""Of the pieces of least hash, how many a candidate has too."""
_CANDIDATES = 16
"""Texts kept for one hash, and compared with one text, at most: what stands in very many texts tells none apart."""
_BETWEEN = re.compile(r"[\W_]+")
_MIX = np.uint64(0x9E3779B97F4A7C15)


def near_pairs(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """(place in `right`, place in `left`) of each text of the right with a near one on the left, the nearest of those found."""
    known: defaultdict[int, list[int]] = defaultdict(list)
    whole: dict[str, int] = {}
    for place, text in enumerate(left):
        words = folded(text)
        if whole.setdefault(words, place) == place:
            for least in _sketch(_hashes(words)):
                if len(known[least]) < _CANDIDATES:
                    known[least].append(place)
    pairs: list[tuple[int, int]] = []
    for place, text in enumerate(right):
        words = folded(text)
        near = whole.get(words) if words else None
        if near is None:
            near = _nearest(words, left, known)
        if near is not None:
            pairs.append((place, near))
    return pairs


def folded(text: str) -> str:
    """Letters and digits of a text's beginning in one case, with single spaces for all between them."""
    plain = text[:LONGEST] if text.isascii() else unicodedata.normalize("NFKC", text[:LONGEST])
    return _BETWEEN.sub(" ", plain.casefold()).strip()


def _nearest(words: str, left: Sequence[str], known: dict[int, list[int]]) -> int | None:
    hashes = _hashes(words)
    pieces = np.unique(hashes)
    candidates = Counter(place for least in _sketch(hashes) for place in known.get(least, ()))
    best, nearest = NEAR, None
    for place, shared in candidates.most_common(_CANDIDATES):
        if shared < min(_SHARED, len(pieces)):
            break
        other = np.unique(_hashes(folded(left[place])))
        both = len(np.intersect1d(pieces, other, assume_unique=True))
        share = both / (len(pieces) + len(other) - both)
        if share >= best and (nearest is None or share > best):
            best, nearest = share, place
    return nearest


def _hashes(words: str) -> np.ndarray:
    """The hash of each piece; of a text shorter than three pieces none, for a word makes it another."""
    if len(words) < 3 * PIECE:
        return np.empty(0, np.uint64)
    letters = np.frombuffer(words.encode("utf-32-le"), np.uint32).astype(np.uint64)
    hashes = np.zeros(len(letters) - PIECE + 1, np.uint64)
    for at in range(PIECE):  # a polynomial in the letters, modulo 2^64, then mixed
        hashes = hashes * _MIX + letters[at : at + len(hashes)]
    hashes ^= hashes >> np.uint64(31)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _sketch(hashes: np.ndarray) -> list[int]:
    """The least hashes, each once."""
    few = 8 * _SKETCH
    least = np.unique(np.partition(hashes, few)[:few] if len(hashes) > few else hashes)
    return least[:_SKETCH].tolist()
