"""`prefloop label agreement`."""

from pathlib import Path

from prefloop.configs.agreement import AgreementConfig
from prefloop.data.store import Filters, Store
from prefloop.evaluation.agreement_text import agreement_text
from prefloop.evaluation.json_files import encode, write_json
from prefloop.feedback.aggregated import write_aggregated
from prefloop.feedback.agreement_report import measure_agreement
from prefloop.feedback.judged import gold_choices, read_judged


def agreement(config: AgreementConfig) -> None:
    """Print agreement, annotators and disputed items; write the numbers and the aggregated labels where that is asked for."""
    with Store.open(config.store, create=False) as store:
        filters = Filters(annotators=config.annotators, rounds=config.rounds)
        judged = read_judged(store, filters, kinds=config.kinds)
        gold = gold_choices(store, annotator=config.gold, rounds=config.rounds)
    found = measure_agreement(
        [judgement for judgement in judged if judgement.annotator != config.gold],
        gold=gold,
        resamples=config.resamples,
        seed=config.seed,
    )
    print(agreement_text(found, disputed=config.disputed))
    if config.out:
        write_json(Path(config.out), encode(found.numbers()))
        print(f"wrote {config.out}")
    if config.labels:
        written, left_out = write_aggregated(found.table, config.aggregate, config.labels, soft=config.soft)
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items())) or "none"
        print(f"wrote {written} comparisons to {config.labels} ({config.aggregate}; left out: {reasons})")
