"""The table of all objectives, from the code. `python -m tests.objectives` writes the page docs/objectives.md."""

from pathlib import Path

from prefloop.losses.objectives import OBJECTIVES, Objective, call, only_mismatched, parameters

PAGE = Path(__file__).resolve().parents[1] / "docs" / "objectives.md"
FAMILIES = {
    "comparisons": ("Comparisons", "pairwise.md"),
    "rankings": ("Rankings", "listwise.md"),
    "labels": ("Labels", "unary.md"),
    "scores": ("Scores", "unary.md"),
}
_HEAD = """# All objectives of `prefloop prefer`

This page is written by `python -m tests.objectives` from [`losses/objectives.py`](../prefloop/losses/objectives.py); what each one does is on the page of its family.

- **reference**: `none` is never loaded; `kept` is computed once before training and read from disk; `live` stays in memory, because its whole next-token distribution is needed.
- **extra passes** are forward passes without gradient, beside the one forward and backward pass of every step. *Policy, if cut*: a step that is cut into several micro-batches
  or shared by processes runs the policy once more beforehand; a step of one micro-batch does not.
- **memory** is beside the policy, its gradient and optimiser. Nothing of size tokens x vocabulary is ever held.
- **at start** is the loss before the first update, where policy = reference, at the default settings. Every run is checked against it on its first step and stops if it is off.
  *By example* is checked too: the formula takes lengths or labels. *Data* is not known beforehand.
- **settings** go behind `--settings`, as `beta=0.2`.
"""


def passes(objective: Objective) -> str:
    """Extra forward passes."""
    needs, parts = objective.needs, []
    if needs.forward_kl:
        parts.append("reference, every step")
    elif needs.reference:
        parts.append("reference, once")
    if only_mismatched(objective):
        parts.append("policy on other prompts' completions, every step")
    elif objective.prepare:
        parts.append("policy, if cut")
    return "; ".join(parts) or "none"


def memory(objective: Objective) -> str:
    """What is held beside policy, gradient and optimiser."""
    needs = objective.needs
    if needs.forward_kl:
        return "the reference model"
    if needs.value:
        return "a head; 4 bytes a token on disk"
    return "4 bytes a token on disk" if needs.reference else "nothing"


def at_start(objective: Objective) -> str:
    """The first loss."""
    if objective.start is None:
        return "data"
    if set(parameters(objective.start)) <= set(objective.settings):
        return f"{call(objective.start, objective.settings):.4g}"
    return "by example"


def reference(objective: Objective) -> str:
    """How the reference is had."""
    if not objective.needs.reference:
        return "none"
    return "live" if objective.needs.forward_kl else "kept"


def page() -> str:
    """The page, in Markdown."""
    lines = [_HEAD.rstrip()]
    for data, (title, family) in FAMILIES.items():
        lines += ["", f"## {title}: [{family}]({family})", ""]
        lines += ["| `--loss` | reference | extra passes | memory | at start | settings | source |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for name, each in OBJECTIVES.items():
            if each.data == data:
                settings = ", ".join(f"{key} {value:g}" for key, value in each.settings.items())
                cells = (f"`{name}`", reference(each), passes(each), memory(each), at_start(each), settings)
                lines.append(f"| {' | '.join(cells)} | {each.source} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
