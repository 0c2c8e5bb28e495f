"""The model card that goes to the hub with a model: base, data, judges, settings, and results with their intervals, from the lineage.

It is public, so people who judged are counted and not named, and of folders of this machine only the last part is told.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from prefloop.addresses import without_passwords
from prefloop.data.store import Node
from prefloop.evaluation.intervals import Estimate

Kind = Literal["policy", "reward_model"]

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")
_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|\.\.?)?/(?:[^\s/,;@]+/)*([^\s/,;@]+)")
_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".db", ".gguf")
_TITLES = {
    "gold": "score of the gold judge",
    "proxy": "score of the reward model",
    "kl": "KL to the policy it is compared with",
    "win_rate_vs_sft": "win rate against the policy it is compared with",
    "length": "length",
    "repetition": "repetition",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelResults:
    """What an evaluation says of the model."""

    numbers: Mapping[str, Estimate]
    units: Mapping[str, str] = field(default_factory=dict)
    on: Sequence[str] = ()
    """What was measured on, a sentence each."""
    alarms: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a card is written from."""

    name: str
    """Repository."""
    kind: Kind
    encoder: bool
    """Whether it is an encoder-decoder."""
    base: str
    """What an adapter belongs to; empty for a whole model."""
    version: str
    """Of prefloop."""
    tree: Node | None
    """The lineage; None if no store knows the model."""
    settings: Mapping[str, Any]
    """Of the run that made it, those that are not the defaults."""
    measured: ModelResults | None
    files: Mapping[str, str]
    """SHA-256 of files with weights, by name."""


def write_card(card: Card) -> str:
    """The card: the hub's header, then Markdown."""
    parts = [_header(card), f"# {card.name.partition('/')[2]}", _first_sentence(card), _use(card)]
    parts += [_made(card), _judges(card), _settings(card), _results(card), _weights(card)]
    return "\n\n".join(part for part in parts if part) + "\n"


def public(text: str) -> str:
    """A name, or a sentence with names, without the folders of this machine, and without passwords."""
    if text.startswith(("/", "~/", "../")) and Path(text).exists():  # it may have spaces
        return Path(text).name
    return _FOLDERS.sub(r"\1", without_passwords(text))


def is_hub_name(name: str) -> bool:
    """Whether a name can only be one on the hub: it is not here."""
    return bool(_HUB.fullmatch(name)) and not name.endswith(_FILES) and not Path(name).exists()


def _header(card: Card) -> str:
    base = card.base or next(iter(_bases(card.tree)), "")
    head: dict[str, Any] = {}
    if is_hub_name(base):
        head["base_model"] = base.partition("@")[0]
        head["base_model_relation"] = "adapter" if card.base else "finetune"
    sources = [node.name for node in _all(card.tree, "source") if is_hub_name(node.name)]
    if sources:
        head["datasets"] = sorted(set(sources))
    head["library_name"] = "peft" if card.base else "transformers"
    head["pipeline_tag"] = "text-generation" if card.kind == "policy" else "text-classification"
    head["tags"] = list(dict.fromkeys(["prefloop", *_stages(card.tree)]))
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _first_sentence(card: Card) -> str:
    what = (
        "A language model" if card.kind == "policy" else "A reward model, which scores how good an answer is"
    )
    what += ", as an adapter (LoRA)" if card.base else ""
    stages = " → ".join(reversed(list(_stages(card.tree))))
    base = card.base or next(iter(_bases(card.tree)), "")
    of = f" from `{public(base)}`" if base else ""
    made = f", trained{of}" + (f" by {stages}" if stages else "")
    return f"{what}{made}, with prefloop {card.version}."


def _use(card: Card) -> str:
    auto = "AutoModelForCausalLM" if card.kind == "policy" else "AutoModelForSequenceClassification"
    if card.encoder:
        auto = "AutoModelForSeq2SeqLM"
    if card.encoder and card.kind == "reward_model":  # transformers has no class that scores with both halves
        lines = ["import prefloop as pl", "", f'scorer = pl.load_reward_model("{card.name}")']
        return "\n".join(["## Use", "", "```python", *lines, "```"])
    if card.base:
        base, _, revision = public(card.base).partition("@")
        at = f', revision="{revision}"' if revision else ""
        labels = "" if card.kind == "policy" else ", num_labels=1"
        lines = [
            "from peft import PeftModel",
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f'base = {auto}.from_pretrained("{base}"{at}{labels})',
            f'model = PeftModel.from_pretrained(base, "{card.name}")',
        ]
    else:
        lines = [
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f'model = {auto}.from_pretrained("{card.name}")',
        ]
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{card.name}")')
    return "\n".join(["## Use", "", "```python", *lines, "```"])


def _made(card: Card) -> str:
    if card.tree is None:
        return (
            "## How it was made\n\nNo prefloop store knows this model, so its runs and data are not listed."
        )
    lines = []
    for run in reversed(list(_all(card.tree, "training_run"))):
        stage = run.name.partition(": ")[2]
        models = [
            f"{_role(child.role)} `{public(child.name)}`"
            for child in run.children
            if child.kind == "checkpoint"
        ]
        read = [
            f"`{public(child.name)}` ({child.facts['rows']} rows, sha256 {child.facts['sha256'][:12]})"
            for child in run.children
            if child.kind == "source"
        ]
        read += [
            f"{child.facts['rows']} {child.name.partition(': ')[2]} judged in a store (sha256 {child.facts['sha256'][:12]})"
            for child in run.children
            if child.kind == "export"
        ]
        day = str(run.facts["started"])[:10]
        line = f"**{stage}** ({day}, prefloop {run.facts['version']})"
        lines.append(
            "; ".join(filter(None, [line, ", ".join(models), f"data: {', '.join(read)}" if read else ""]))
        )
    return "## How it was made\n\n" + "\n".join(f"{number}. {line}." for number, line in enumerate(lines, 1))


def _role(role: str) -> str:
    return {"start": "from"}.get(role, role.replace("_", " "))


def _judges(card: Card) -> str:
    people, lines = Counter[str](), []
    for node in _all(card.tree, "annotator"):
        kind, count = str(node.facts["kind"]), int(node.facts["judgements"])
        if kind == "human":
            people.update(people=1, judgements=count)
        else:
            model = (node.facts.get("settings") or {}).get("model")
            by = f", model `{public(str(model))}`" if model else ""
            lines.append(
                f"{'an AI judge' if kind == 'ai' else 'a simulated annotator'}, `{node.name}`{by}: {count} judgements"
            )
    if people:
        who = f"{people['people']} people" if people["people"] > 1 else "one person"
        lines.insert(0, f"{who}: {people['judgements']} judgements")
    return "## Judges\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _settings(card: Card) -> str:
    if not card.settings:
        return ""
    text = yaml.safe_dump(_public(dict(card.settings)), sort_keys=False, allow_unicode=True)
    return f"## Settings\n\nSettings that differ from prefloop's defaults.\n\n```yaml\n{text}```"


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_public(inner) for inner in value]
    return public(value) if isinstance(value, str) else value


def _results(card: Card) -> str:
    if card.measured is None or not card.measured.numbers:
        return "## Results\n\nNot measured: no prefloop evaluation includes this model."
    rows = ["| | value | 95 % interval | n | unit |", "| --- | --- | --- | --- | --- |"]
    for name, estimate in card.measured.numbers.items():
        sure = math.isfinite(estimate.low) and math.isfinite(estimate.high)
        interval = f"{estimate.low:.4g} to {estimate.high:.4g}" if sure else "not known"
        title = _TITLES.get(name, name.replace("_", " "))
        rows.append(
            f"| {title} | {estimate.value:.4g} | {interval} | {estimate.n} | {card.measured.units.get(name, '')} |"
        )
    notes = [*card.measured.on, *(f"**Alarm:** {alarm}" for alarm in card.measured.alarms)]
    return "\n\n".join(["## Results", "\n".join(rows), *(_public(note) for note in notes)])


def _weights(card: Card) -> str:
    lines = [f"- `{name}`: sha256 `{digest}`" for name, digest in card.files.items()]
    return "## Weights\n\n" + "\n".join(lines) if lines else ""


def _all(tree: Node | None, kind: str) -> Iterator[Node]:
    return (node for node in tree.walk() if node.kind == kind) if tree else iter(())


def _stages(tree: Node | None) -> Iterator[str]:
    """Stages of the runs from this model back to its base, the last one first."""
    node = tree
    while node is not None:
        run = next((child for child in node.children if child.kind == "training_run"), None)
        if run is not None:
            yield run.name.partition(": ")[2]
        node = next((child for child in (run or node).children if child.role == "start"), None)


def _bases(tree: Node | None) -> Iterator[str]:
    """What the line of models began with; nothing if the model itself is the beginning."""
    node, last = tree, ""
    while node is not None:
        run = next((child for child in node.children if child.kind == "training_run"), None)
        node = next((child for child in (run or node).children if child.role == "start"), None)
        last = node.name if node is not None else last
    if last:
        yield last
