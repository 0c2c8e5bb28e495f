r"""LaTeX in Markdown, as models write it: `\( \)`, `\[ \]`, `$ $`, `$$ $$` and `\begin{align}`. Found here, drawn in the page by KaTeX (`texts.js`).

What is found stays as it was written, delimiters and all, within an element of class `math`; where KaTeX cannot read it, that is what is shown.
"""

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

_CLOSE = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}
"""Opening -> closing delimiter, in the order in which they are tried."""
_ENVIRONMENTS = (
    "equation",
    "align",
    "alignat",
    "gather",
    "multline",
    "aligned",
    "gathered",
    "cases",
    "array",
)
_ENVIRONMENTS += ("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix")
_BEGIN = {
    f"\\begin{{{name}{star}}}": f"\\end{{{name}{star}}}" for name in _ENVIRONMENTS for star in ("", "*")
}
_ESCAPED = frozenset("`*_[]<>#+-.!|~$\n")
"""What a backslash takes its meaning from in Markdown. Before anything else the backslash is a letter of LaTeX, or of a path."""


def with_formulas(reader: MarkdownIt) -> MarkdownIt:
    """The reader, which now finds formulas."""
    reader.inline.ruler.before("escape", "formula", _inline)
    reader.inline.ruler.before("escape", "backslash", _backslash)
    ends: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    reader.block.ruler.before("fence", "formula_block", _block, ends)
    reader.add_render_rule("formula", _render)
    return reader


def _inline(state: StateInline, silent: bool) -> bool:
    """A formula within a line of text."""
    text, at = state.src, state.pos
    opening = next((closing for closing in _CLOSE if text.startswith(closing, at)), "")
    if not opening:
        return False
    begin = at + len(opening)
    end = _closing(text, _CLOSE[opening], begin)
    if end < 0 or not text[begin:end].strip() or (opening == "\\[" and text.startswith("(", end + 2)):
        return False  # the last: a link whose brackets are escaped
    # A single dollar is more often money, or a variable of a shell.
    if opening == "$" and (
        text[begin].isspace()
        or text[end - 1].isspace()
        or text[at - 1 : at].isalnum()
        or text[end + 1 : end + 2].isalnum()
    ):
        return False
    state.pos = end + len(_CLOSE[opening])
    if not silent:
        token = state.push("formula", "span", 0)
        token.content = text[at : state.pos]
        token.meta = {"display": opening in ("\\[", "$$")}
    return True


def _closing(text: str, closing: str, begin: int) -> int:
    """Where a formula ends; -1 if nowhere. A dollar with a backslash before it does not end it."""
    end = text.find(closing, begin)
    while closing[0] == "$" and end > 0 and text[end - 1] == "\\":
        end = text.find(closing, end + 1)
    return end


def _backslash(state: StateInline, silent: bool) -> bool:
    r"""A backslash that is none of Markdown's: it stays, and of `\\` both do."""
    following = state.src[state.pos + 1 : state.pos + 2]
    if state.src[state.pos] != "\\" or not following or following in _ESCAPED or following.isalnum():
        return False
    if not silent:
        state.pending += "\\" + following
    state.pos += 2
    return True


def _block(state: StateBlock, begin: int, end: int, silent: bool) -> bool:
    """A formula in lines of its own, whatever else Markdown would see in them."""
    if state.is_code_block(begin):
        return False
    first = state.src[state.bMarks[begin] + state.tShift[begin] : state.eMarks[begin]]
    delimiters = {"\\[": "\\]", "$$": "$$"} | _BEGIN
    opening = next((delimiter for delimiter in delimiters if first.startswith(delimiter)), "")
    if not opening:
        return False
    closing, line = delimiters[opening], begin
    text = first[len(opening) :]
    while closing not in text:
        line += 1
        if line >= end or state.sCount[line] < state.blkIndent:
            return False
        text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
    if not text.rstrip().endswith(closing) or text.count(closing) > 1:
        return False  # there is text behind it: it is within a line
    if not silent:
        token = state.push("formula", "div", 0)
        token.block = True
        token.map = [begin, line + 1]
        token.meta = {"display": True}
        token.content = state.getLines(begin, line + 1, state.sCount[begin], False).strip()
    state.line = line + 1
    return True


def _render(self: RendererHTML, tokens: list, at: int, options: object, env: object) -> str:  # type: ignore[type-arg]
    tag = tokens[at].tag
    kind = "math display" if tokens[at].meta["display"] else "math"
    return f'<{tag} class="{kind}">{escapeHtml(tokens[at].content)}</{tag}>' + (
        "\n" if tokens[at].block else ""
    )
