"""Text that somebody else wrote, made safe to look at: what a model says may be built to be read as something else."""

import unicodedata
from html import escape


def shown(text: str) -> str:
    """The text with characters that nobody sees (direction overrides, zero-width, control, broken) spelt out as ⟨U+202E⟩.

    What remains may stand in XML. New lines and tabs stay.
    """
    return "".join(_spelt(char) if is_hidden(char) else char for char in text.replace("\r\n", "\n"))


def shown_html(text: str) -> str:
    """The same as HTML: escaped, and each spelt-out character marked, with its Unicode name on hover."""
    return "".join(
        f'<span class="hidden-char" title="{escape(unicodedata.name(char, "control character"))}">{_spelt(char)}</span>'
        if is_hidden(char)
        else escape(char, quote=True)
        for char in text.replace("\r\n", "\n")
    )


def is_hidden(char: str) -> bool:
    """Whether a character changes what is read without being seen, or may not stand in XML at all."""
    if char in "\n\t":
        return False
    not_a_character = ord(char) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF
    return not_a_character or unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _spelt(char: str) -> str:
    return f"⟨U+{ord(char):04X}⟩"
