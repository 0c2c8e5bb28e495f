"""`prefloop data`."""

import json
from collections.abc import Callable, Mapping

from prefloop import data
from prefloop.configs.data import CheckConfig, ExportConfig, ImportConfig
from prefloop.data.detect import column_words
from prefloop.data.vote_answers import with_answers
from prefloop.data.votes import ROLES, read_votes, source_holds_votes
from prefloop.errors import InputError


def check(config: CheckConfig) -> int:
    """Print what a source holds; 1 if there are bad rows in it."""
    if _holds_votes(config):
        return _check_votes(config)
    report = data.check(
        config.source,
        heldout=config.heldout,
        against=config.against,
        against_split=config.against_split,
        tokenizer=_counter(config.tokenizer) if config.tokenizer else None,
        **data.how(config),
    )
    print(json.dumps(report.to_json(), indent=1, ensure_ascii=False) if config.json else report)
    return int(bool(report.summary.bad or (report.against and report.against.bad)))


def _holds_votes(config: CheckConfig | ImportConfig) -> bool:
    """Whether a source holds votes, by its own columns or by what `columns` says they are."""
    if config.format:
        return False
    named = {each.partition("=")[0].strip() for each in column_words(config.columns)}
    return source_holds_votes(
        config.source, split=config.split, columns=config.columns if named <= set(ROLES) else ()
    )


def _check_votes(config: CheckConfig) -> int:
    """Print what a file of votes holds."""
    file = read_votes(config.source, split=config.split, columns=config.columns, skip_bad=True)
    if config.json:
        print(json.dumps(file.to_json(), indent=1, ensure_ascii=False))
    else:
        print(file)
        print("\n".join(f"  {name}: {count}" for name, count in file.facts.items()))
        for row in file.bad:
            print(f"  {row}")
        print(f"  rate them: prefloop arena {config.source}")
    return int(bool(file.bad))


def _counter(name: str) -> Callable[[str], int]:
    """Counts tokens as a model's tokenizer does."""
    from prefloop.text import load_tokenizer

    tokenizer = load_tokenizer(name)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def import_records(config: ImportConfig) -> None:
    """Read a source and write it into a store."""
    from prefloop.data.importing import import_records as write
    from prefloop.data.store import Store

    if _holds_votes(config):
        _import_votes(config)
        return
    if config.outputs:
        raise InputError(
            f"outputs applies to votes between models, and {config.source} holds none; leave it out"
        )
    loaded = data.load_records(
        config.source, skip_bad=config.skip_bad, limit=config.limit, **data.how(config)
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
        )
        after = store.counts()
    print(loaded.summary)
    if loaded.summary.bad:
        print(loaded.summary.bad_rows())
    for count, one, table in (
        (made.prompts, "prompts", "prompt"),
        (made.completions, f"completions by {config.author}", "completion"),
        (made.comparisons, "comparisons", "judgement"),
        (made.rankings, "rankings", "judgement"),
    ):
        if count:
            print(f"  {count} {one}, {after[table] - before[table]} of them new in {store.label}")
    if made.repeated:
        print(f"  {made.repeated} rows repeat a judgement by the same annotator, which is taken once")
    for line in made.bad:
        print(f"  left out: {line}")


def _import_votes(config: ImportConfig) -> None:
    """Read a file of votes and write it into a store."""
    from prefloop.data.store import Store
    from prefloop.data.vote_import import import_votes, settle

    for name, standard in (("author", "human"), ("limit", 0)):
        if getattr(config, name) != standard:
            raise InputError(
                f"{name} is {getattr(config, name)!r}, which does not apply to votes between models; leave it out"
            )
    file = read_votes(config.source, split=config.split, columns=config.columns, skip_bad=config.skip_bad)
    if config.outputs:
        file = with_answers(file, config.outputs)
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
    for count, one, table in (
        (made.prompts, "prompts", "prompt"),
        (made.completions, f"completions by {len(made.models)} models", "completion"),
        (made.votes, "votes", "judgement"),
    ):
        print(f"  {count} {one}, {after[table] - before[table]} of them new in {config.store}")
    if settled.repeated:
        print(f"  {settled.repeated} rows repeat a vote by the same annotator, which is taken once")
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
    _print_left_out(made.left_out)


def _print_left_out(counts: Mapping[str, int]) -> None:
    left_out = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
    if left_out:
        print(f"  left out: {left_out}")
