"""`prefloop label`."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop.addresses import without_passwords
from prefloop.cli.printing import show_left_out
from prefloop.configs.label import (
    BackupConfig,
    LabelExportConfig,
    LabelImportConfig,
    RestoreConfig,
    SimulateConfig,
)
from prefloop.data import Images, how, load_records
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.simulate import SimulatedAnnotator
from prefloop.feedback.simulated_labels import LabelQuality, label_quality, label_stored
from prefloop.feedback.utility import find_utility

if TYPE_CHECKING:
    from prefloop.studio.values import ProjectSettings, Stage


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
        added, labelled = label_stored(
            store, annotator, pairs=config.pairs, checkpoints=config.checkpoints, round=config.round
        )
        print(f"{store.label}: {len(added.ids)} pairs, {added.new} of them new")
        if added.identical or added.single:
            print(
                f"  no pair of {added.identical} twice the same text; {added.single} prompts without two different completions"
            )
        counts = (
            ", ".join(f"{choice} {count}" for choice, count in sorted(labelled.choices.items())) or "none"
        )
        print(f"  new judgements by {config.annotator}: {len(labelled.judgements)} ({counts})")
        print(_quality_line(annotator.name, label_quality(store, annotator)))
    return config.store


def _quality_line(name: str, quality: LabelQuality | None) -> str:
    """How often the annotator named the truly better one, and the best that a model can do on such labels."""
    if quality is None:
        return "  all of them are ties; lower tie_width"
    return (
        f"  all comparisons by {name}: {quality.comparisons}\n"
        f"  the better completion was chosen: {quality.right:.1%} (equally good counts half)\n"
        f"  highest accuracy that a reward model can reach on such labels: {quality.ceiling:.1%}"
    )


STAGES: "Mapping[str, Stage]" = {"work": "", "practice": "practice", "qualification": "qualification"}
"""What `gold_stage` is called in a project."""
_AGGREGATED = {"each": "", "majority": ", majority", "dawid_skene": ", dawid_skene", "one_coin": ", one_coin"}
"""How labels were aggregated, in words."""


def import_items(config: LabelImportConfig) -> str:
    """Put a file's completions into a project; the store's name."""
    from prefloop.studio.exchange import ImportOptions
    from prefloop.studio.into_project import import_into
    from prefloop.studio.service import Studio

    asked = {
        "kind": config.kind,
        "overlap": config.overlap,
        "render": config.render,
        "guidelines": _read(config.guidelines),
    }
    with Images() as images:
        loaded = load_records(
            config.source, skip_bad=config.skip_bad, limit=config.limit, images=images, **how(config)
        )
        with Store.open(config.store) as store:
            studio = Studio(store)
            settings, made = import_into(
                studio,
                config.project,
                loaded,
                given={name: value for name, value in asked.items() if value is not None},
                gold_share=config.gold_share,
                options=ImportOptions(
                    author=config.author,
                    gold=config.gold,
                    stage=STAGES[config.gold_stage],
                    round=config.round,
                ),
                images=images,
            )
            plain = studio.progress([made.project])[made.project].items
            shown = len(images)
    print(
        f"{config.source}: {made.rows} records, {made.items} items in project {settings.name!r}, {made.new} of them new"
    )
    if made.known:
        print(
            f"  {made.known} of them with a known answer; {_when_asked(settings, config.gold_stage, plain)}"
        )
    for count, what in (
        (made.bad, "bad rows left out"),
        (made.left_out, "prompts without two different completions"),
        (shown, "images"),
    ):
        if count:
            print(f"  {count} {what}")
    return config.store


def _when_asked(settings: "ProjectSettings", stage: str, plain: int) -> str:
    """When items with a known answer are asked, in words."""
    if stage == "practice":
        return "they come before the work, and the right answer is shown"
    if stage == "qualification":
        return f"{settings.qualify_items} such items come before the work, and {settings.qualify_share:.0%} must be right"
    others = "" if plain else ", once the project has others too: import those without --gold"
    return f"{settings.gold_share:.0%} of the questions are such items{others}"


def _read(path: str) -> str | None:
    """A file of guidelines; None if none is named."""
    if not path:
        return None
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
            split=exchange.Split(part=config.part, heldout=config.heldout),
            format=config.format or None,
            skip_bad=config.skip_bad,
            images=config.images,
        )
    for manifest in manifests:
        made = f"export {manifest['export']}{_AGGREGATED[config.aggregate]}"
        file = Path(config.out).with_name(manifest["file"])
        print(f"{file}: {manifest['rows']} {config.kind}, {made}, sha256 {manifest['content_sha256']}")
    if len(manifests) > 1:
        print(
            "  chats and plain texts are in separate files, because other readers refuse a column that holds both"
        )
    show_left_out(manifests[0]["left_out"])


def back_up(config: BackupConfig) -> None:
    """Copy a store."""
    from prefloop.studio.backup import back_up as work

    print(f"wrote {work(config.store, config.out)}; restore it with `prefloop label restore`")


def restore(config: RestoreConfig) -> None:
    """Bring a copy back."""
    from prefloop.studio.backup import restore as work

    work(config.backup, config.store)
    print(f"{without_passwords(config.store)}: restored from {config.backup}")
