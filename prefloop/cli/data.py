"""`prefloop data`."""

from collections.abc import Callable
from typing import TypeVar

from prefloop import data
from prefloop.cli.printing import show, show_left_out, show_new
from prefloop.configs.common import require_effect
from prefloop.configs.data import CheckConfig, ExportConfig, ImportConfig
from prefloop.data.detect import column_words
from prefloop.data.vote_columns import ROLES
from prefloop.data.votes import read_votes, source_holds_votes

C = TypeVar("C", CheckConfig, ImportConfig)
T = TypeVar("T")


def check(config: CheckConfig) -> int:
    """Print what a source holds; 1 if there are bad rows in it."""
    return _by_content(config, votes=_check_votes, records=_check_records)


def _check_records(config: CheckConfig) -> int:
    if config.against:
        data.check_split(config.against, config.against_split, setting="against_split", usual="test")
    report = data.check(
        config.source,
        heldout=config.heldout,
        against=config.against,
        against_split=config.against_split,
        tokenizer=_counter(config.tokenizer),
        **data.how(config),
    )
    show(report.to_json(), lambda: str(report), as_json=config.json)
    return int(bool(report.summary.bad or (report.against and report.against.bad)))


def _by_content(config: C, *, votes: Callable[[C], T], records: Callable[[C], T]) -> T:
    """What is done with a source that holds votes, by its own columns or by what `columns` says they are; or with one that holds records."""
    data.check_split(config.source, config.split)
    named = {word.partition("=")[0].strip() for word in column_words(config.columns)}
    holds_votes = not config.format and source_holds_votes(
        config.source, split=config.split, columns=config.columns if named <= set(ROLES) else ()
    )
    return votes(config) if holds_votes else records(config)


def _check_votes(config: CheckConfig) -> int:
    """Print what a file of votes holds."""
    file = read_votes(config.source, split=config.split, columns=config.columns, skip_bad=True)
    facts = (f"  {name}: {count}" for name, count in file.facts.items())
    rows = (f"  {row}" for row in file.bad)
    lines = [str(file), *facts, *rows, f"  rate them: prefloop arena {config.source}"]
    show(file.to_json(), lambda: "\n".join(lines), as_json=config.json)
    return int(bool(file.bad))


def _counter(name: str) -> Callable[[str], int] | None:
    """Counts tokens as a model's tokenizer does; None if no model is named."""
    if not name:
        return None
    from prefloop.text import load_tokenizer

    tokenizer = load_tokenizer(name)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def import_records(config: ImportConfig) -> None:
    """Read a source and write it into a store."""
    _by_content(config, votes=_import_votes, records=_import_records)


def _import_records(config: ImportConfig) -> None:
    from prefloop.data.importing import import_records as write
    from prefloop.data.store import Store

    require_effect(
        config,
        (True, ("outputs",), f"which applies to votes between models, and {config.source} holds none"),
    )
    with data.Images() as images:
        loaded = data.load_records(
            config.source, skip_bad=config.skip_bad, limit=config.limit, images=images, **data.how(config)
        )
        with Store.open(config.store) as store:
            before = store.counts()
            made = write(
                store,
                loaded,
                author=config.author,
                annotator=config.annotator,
                annotator_kind=config.annotator_kind,
                round=config.round,
                tags=config.tags,
                skip_bad=config.skip_bad,
                images=images,
            )
            after, shown = store.counts(), len(images)
    print(loaded.summary)
    if loaded.summary.bad:
        print(loaded.summary.bad_rows())
    new = {table: after[table] - before[table] for table in after}
    show_new(
        (
            (made.prompts, "prompts", new["prompt"]),
            (made.completions, f"completions by {config.author}", new["completion"]),
            (made.comparisons, "comparisons", new["judgement"]),
            (made.rankings, "rankings", new["judgement"]),
            (shown, "images", new["image"]),
        ),
        where=store.label,
    )
    if made.repeated:
        print(f"  {made.repeated} rows repeat a judgement by the same annotator, which is counted once")
    for line in made.bad:
        print(f"  left out: {line}")


def _import_votes(config: ImportConfig) -> None:
    """Read a file of votes and write it into a store."""
    from prefloop.data.store import Store
    from prefloop.data.vote_import import import_votes, settle
    from prefloop.feedback.voted import read_vote_files

    require_effect(config, (True, ("author", "limit"), "which does not apply to votes between models"))
    (file,) = read_vote_files(
        [config.source],
        split=config.split,
        columns=config.columns,
        skip_bad=config.skip_bad,
        outputs=config.outputs,
    )
    settled = settle(file, annotator=config.annotator, skip_bad=config.skip_bad)
    with Store.open(config.store) as store:
        before = store.counts()
        made = import_votes(
            store, settled, annotator_kind=config.annotator_kind, round=config.round, tags=config.tags
        )
        after = store.counts()
    print(file)
    for row in file.bad:
        print(f"  {row}")
    new = {table: after[table] - before[table] for table in after}
    show_new(
        (
            (made.prompts, "prompts", new["prompt"]),
            (made.completions, f"completions by {len(made.models)} models", new["completion"]),
            (made.votes, "votes", new["judgement"]),
        ),
        where=store.label,
    )
    if settled.repeated:
        print(f"  {settled.repeated} rows repeat a vote by the same annotator, which is counted once")
    if settled.identical:
        print(f"  left out: {settled.identical} votes between equal answers or of one model with itself")
    for line in settled.bad:
        print(f"  left out: {line}")


def export(config: ExportConfig) -> None:
    """Write a file from a store."""
    from prefloop.data.store import Store
    from prefloop.feedback.datasets import take

    with Store.open(config.store, create=False) as store:
        made = take(
            store,
            config.kind,
            config,
            part=config.part,
            heldout=config.heldout,
            skip_bad=config.skip_bad,
            path=config.out,
        )
    for file, rows in made.files:
        print(f"{file}: {rows} {made.kind}, export {made.id}, sha256 {made.sha256}")
    show_left_out(made.left_out)
