"""The table of all objectives, from the code. `python -m tests.objectives` writes the page docs/objectives.md."""

from pathlib import Path

from bench.oracles.cases import CASES
from prefloop.losses.objectives import OBJECTIVES, Objective, call, only_mismatched, parameters
from tests.losses.audit import PROPERTIES
from tests.losses.test_tabular_offline import OPTIMA
from tests.tiny_tasks import LEVELS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "objectives.md"
FAMILIES = {
    "comparisons": ("Comparisons", "pairwise.md"),
    "rankings": ("Rankings", "listwise.md"),
    "labels": ("Labels", "unary.md"),
    "scores": ("Scores", "unary.md"),
}
_HEAD = """# All objectives of `prefloop prefer`

`python -m tests.objectives` writes this page from [`losses/objectives.py`](../prefloop/losses/objectives.py). The page of each family says
what an objective does.

- **reference**: `none` is never loaded. `kept` is computed once before training and read from disk. `live` stays in memory, because its
  whole next-token distribution is needed.
- **extra passes** are forward passes without gradient, in addition to the one forward and backward pass of every step. *Policy, if cut*:
  a step that is cut into several micro-batches or shared by processes first runs the policy once more.
- **memory** is in addition to the policy, its gradient and optimiser. Nothing of size tokens x vocabulary is ever held.
- **at start** is the loss before the first update, where policy = reference, at the default settings. Every run checks its first step
  against it and stops if it differs. *By example* is checked too: the formula takes lengths or labels. *Data* is not known beforehand.
- **settings** are given with `--settings`, as `beta=0.2`.
"""


def passes(objective: Objective) -> str:
    """Extra forward passes."""
    needs, parts = objective.needs, []
    if needs.prompt_odds:
        parts.append("policy on prompts, once")
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
    if needs.contrast:
        return "5 d numbers a token"
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
    return "\n".join([*lines, *audit()]) + "\n"


_CHECKED = """
## How each is checked

For every objective, tests on ragged examples with holes in their masks compare value and gradient with the paper's equation, written
again with Python's numbers and loops over tokens ([`tests/losses/objectives.py`](../tests/losses/objectives.py)). They vary padding and
its contents, the order of examples, and extreme log-ratios. Every setting must change the loss. A step from the reference must raise the
chosen side and lower the rejected one, or do what the method says instead. One row each:

- **start**: the formula that checks the first step of every run is tested against the loss.
- **property**: another property that must hold. *Optimum*: trained to the end on infinite data, it reaches the policy that theory names, on three seeds.
- **tiny task**: what a policy over 15 sequences must reach: of the way to the best sequence / of pairs in the right order ([tiny_tasks.md](tiny_tasks.md)).
- **beside**: another package's loss that agrees to 1e-6 ([oracles.md](oracles.md)).

An objective that lacks one of these fails [`tests/losses/test_audit.py`](../tests/losses/test_audit.py).

| `--loss` | start | property | tiny task | beside |
| --- | --- | --- | --- | --- |"""


def audit() -> list[str]:
    """What is checked of each objective."""
    lines: list[str] = [*_CHECKED.split("\n")]
    for name, each in OBJECTIVES.items():
        says = "; ".join(one.says for one in PROPERTIES[name]) + (" (optimum)" if name in OPTIMA else "")
        level = LEVELS[name]
        beside = [c.package for c in CASES if not c.differs and name in c.name.replace(",", " ").split()]
        start = "data" if each.start is None else "formula"
        reached = f"{level.gain:g} / {level.agreement:g}"
        lines.append(f"| `{name}` | {start} | {says} | {reached} | {'; '.join(beside)} |")
    return lines


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
