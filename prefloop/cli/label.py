"""`prefloop label`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.addresses import without_passwords
from prefloop.configs.label import (
    BackupConfig,
    LabelExportConfig,
    LabelImportConfig,
    RestoreConfig,
    SimulateConfig,
)
from prefloop.data import how, load_records
from prefloop.data.store import Filters, Store
from prefloop.data.store.values import AddedItems
from prefloop.errors import InputError
from prefloop.feedback.simulate import SimulatedAnnotator, agreement_ceiling, label_items
from prefloop.feedback.utility import find_utility

if TYPE_CHECKING:
    from prefloop.studio.values import ProjectSettings

GOLD_SHARE = 0.1
"""Share of the questions that are known answers, where these are imported into a project that asks for none."""


def simulate(config: SimulateConfig) -> str:
    """Pair stored completions, judge the pairs, and print what was made and how good the labels are; the store's name."""
    annotator = SimulatedAnnotator(
        name=config.annotator,
        utility=cache(find_utility(config.utility)),
        temperature=config.temperature,
        flip=config.flip,
        tie_width=config.tie_width,
        seed=config.seed,
    )
    with Store.open(config.store, create=False) as store:
        checkpoints = [store.find_checkpoint(name) for name in config.checkpoints]
        _check_before_writing(store, annotator, checkpoints)
        known = store.add_annotator(config.annotator, kind="simulated", settings=annotator.settings())
        added = _pairs(config, store, checkpoints)
        pairs = set(added.ids)
        new = [item for item in store.open_items(known, rounds=(config.round,)) if item.id in pairs]
        labelled = label_items(store, annotator, new)
        print(f"{store.label}: {len(added.ids)} pairs, {added.new} of them new")
        if added.identical or added.single:
            print(
                f"  no pair of {added.identical} twice the same text; {added.single} prompts without two different completions"
            )
        counts = (
            ", ".join(f"{choice} {count}" for choice, count in sorted(labelled.choices.items())) or "none"
        )
        print(f"  new judgements by {config.annotator}: {len(labelled.judgements)} ({counts})")
        _print_quality(store, annotator)
    return config.store


def _pairs(config: SimulateConfig, store: Store, checkpoints: Sequence[int]) -> AddedItems:
    """The pairs to judge, made where that is asked for."""
    if config.pairs != "none":
        return store.add_pairs(
            strategy=config.pairs, seed=config.seed, round=config.round, checkpoints=checkpoints
        )
    there = [item.id for item in store.items() if item.kind == "pair" and item.round == config.round]
    if not there:
        raise InputError(
            f"{store.label}: round {config.round} has no pair yet; make some with `prefloop label select`, or set pairs to all"
        )
    return AddedItems(ids=tuple(there), new=0, identical=0, single=0)


def _check_before_writing(store: Store, annotator: SimulatedAnnotator, checkpoints: Sequence[int]) -> None:
    """Raise `InputError` where there is nothing to compare, or the utility of a completion is no number."""
    texts = dict.fromkeys((one.prompt, one.text) for one in store.completions(checkpoints))
    if max(Counter(prompt for prompt, _ in texts).values(), default=0) < 2:
        raise InputError(
            f"{store.label}: no prompt has two different completions to compare; draw more with `prefloop sample`"
        )
    for prompt, text in texts:
        annotator.utility_of(prompt, text)


def _print_quality(store: Store, annotator: SimulatedAnnotator) -> None:
    """How often the annotator named the truly better one, and the best that a model can do on such labels."""
    comparisons = store.comparisons(Filters(annotators=(annotator.name,))).records
    if not comparisons:
        print("  all of them are ties; lower tie_width")
        return
    differences = [
        annotator.utility_of(c.prompt, c.chosen) - annotator.utility_of(c.prompt, c.rejected)
        for c in comparisons
    ]
    right = sum(1.0 if d > 0 else 0.5 * (d == 0) for d in differences) / len(differences)
    print(f"  all comparisons by {annotator.name}: {len(comparisons)}")
    print(f"  the truly better one was chosen: {right:.1%} (equally good counts half)")
    print(
        f"  best accuracy a reward model can be expected to have on such labels: {agreement_ceiling(comparisons, [annotator]):.1%}"
    )


def import_items(config: LabelImportConfig) -> str:
    """Put a file's completions into a project; the store's name."""
    from prefloop.studio import exchange
    from prefloop.studio.service import Studio
    from prefloop.studio.values import NotFound, Project, ProjectSettings

    given: dict[str, Any] = {
        name: value for name in ("kind", "overlap", "render") if (value := getattr(config, name)) is not None
    }
    if config.guidelines:
        given["guidelines"] = _read(config.guidelines)
    loaded = load_records(config.source, skip_bad=config.skip_bad, limit=config.limit, **how(config))
    with Store.open(config.store) as store:
        studio = Studio(store)
        into: Project | ProjectSettings
        try:
            into = studio.find_project(config.project)
        except NotFound:
            share = (config.gold_share or GOLD_SHARE) if config.gold else 0.0
            into = settings = ProjectSettings(name=config.project, gold_share=share, **given)
        else:
            settings = _with_gold(_unchanged(into.settings, given), config)
            into = replace(into, settings=settings)
        made = exchange.import_loaded(
            studio, into, loaded, author=config.author, gold=config.gold, round=config.round
        )
        plain = studio.progress([made.project])[made.project].items
    print(
        f"{config.source}: {made.rows} records, {made.items} items in project {settings.name!r}, {made.new} of them new"
    )
    if made.known:
        print(
            f"  {made.known} of them with a known answer; {settings.gold_share:.0%} of the questions are such items"
            + ("" if plain else ", once the project has others too: import those without --gold")
        )
    for count, what in (
        (made.bad, "bad rows left out"),
        (made.left_out, "prompts without two different completions"),
    ):
        if count:
            print(f"  {count} {what}")
    return config.store


def _unchanged(settings: "ProjectSettings", given: Mapping[str, Any]) -> "ProjectSettings":
    """The settings of a project that is there. What was given for a new one, and differs, is an error: it would have no effect."""
    for name, value in given.items():
        if (has := getattr(settings, name)) != value:
            told = "other guidelines" if name == "guidelines" else f"{name} {has}"
            raise InputError(
                f"{name} is given, but project {settings.name!r} is there already, with {told}; leave --{name} out, "
                "name a new project, or change this one under Admin, Settings"
            )
    return settings


def _with_gold(settings: "ProjectSettings", config: LabelImportConfig) -> "ProjectSettings":
    """The settings, with a share of known answers where they are imported into a project that asks for none."""
    if not config.gold:
        return settings
    if settings.gold_share and config.gold_share not in (None, settings.gold_share):
        raise InputError(
            f"gold_share is {config.gold_share}, but project {settings.name!r} has {settings.gold_share}; leave it out, "
            "or change it under Admin, Settings"
        )
    return replace(settings, gold_share=settings.gold_share or config.gold_share or GOLD_SHARE)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"guidelines: {path} cannot be read ({error})") from error


def export(config: LabelExportConfig) -> None:
    """Write judgements to a file, with a manifest."""
    from prefloop.studio import exchange
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        manifests = exchange.export_files(
            Studio(store),
            config.kind,
            config.out,
            chosen=config,
            part=config.part,
            heldout=config.heldout,
            format=config.format or None,
            skip_bad=config.skip_bad,
        )
    for manifest in manifests:
        made = f"export {manifest['export']}" + (
            f", {config.aggregate}" if config.aggregate != "each" else ""
        )
        file = Path(config.out).with_name(manifest["file"])
        print(f"{file}: {manifest['rows']} {config.kind}, {made}, sha256 {manifest['content_sha256']}")
    if len(manifests) > 1:
        print(
            "  chats and plain texts are in separate files, because other readers refuse a column that holds both"
        )
    left_out = ", ".join(f"{reason} {count}" for reason, count in manifests[0]["left_out"].items() if count)
    if left_out:
        print(f"  left out: {left_out}")


def back_up(config: BackupConfig) -> None:
    """Copy a store."""
    from prefloop.studio.backup import back_up as work

    print(f"wrote {work(config.store, config.out)}; restore it with `prefloop label restore`")


def restore(config: RestoreConfig) -> None:
    """Bring a copy back."""
    from prefloop.studio.backup import restore as work

    work(config.backup, config.store)
    print(f"{without_passwords(config.store)}: restored from {config.backup}")
