"""The commands of `prefloop data`."""

from collections.abc import Mapping

from prefloop.cli.command import Command

DATA: Mapping[str, Command] = {
    "data check": Command(
        summary="report what a source holds, and every bad row",
        settings="prefloop.configs.data:CheckConfig",
        work="prefloop.cli.data:check",
        single=True,
        positional=("source",),
        examples=("prefloop data check comparisons.jsonl --against test.jsonl",),
    ),
    "data import": Command(
        summary="import the records of a source into a store",
        settings="prefloop.configs.data:ImportConfig",
        work="prefloop.cli.data:import_records",
        single=True,
        positional=("source",),
        examples=("prefloop data import comparisons.jsonl --store runs/first/prefloop.db",),
    ),
    "data export": Command(
        summary="write a store's records of one kind to a file",
        settings="prefloop.configs.data:ExportConfig",
        work="prefloop.cli.data:export",
        single=True,
        examples=("prefloop data export --store runs/first/prefloop.db --out comparisons.jsonl",),
    ),
    "data save": Command(
        summary="save what was judged as a version of a dataset",
        settings="prefloop.configs.data:SaveConfig",
        work="prefloop.cli.datasets:save",
        single=True,
        positional=("name",),
        examples=(
            "prefloop data save helpful --store runs/first/prefloop.db --judged_by human --aggregate majority",
        ),
        then="{}",
    ),
    "data versions": Command(
        summary="list the dataset versions in a store",
        settings="prefloop.configs.data:VersionsConfig",
        work="prefloop.cli.datasets:versions",
        single=True,
        positional=("name",),
        examples=("prefloop data versions --store runs/first/prefloop.db",),
    ),
    "data diff": Command(
        summary="say how two dataset versions differ",
        settings="prefloop.configs.data:DiffConfig",
        work="prefloop.cli.datasets:diff",
        single=True,
        positional=("before", "after"),
        examples=("prefloop data diff helpful@2 helpful@3 --store runs/first/prefloop.db",),
    ),
    "data filter": Command(
        summary="leave out comparisons that are ambiguous by their labels, or that reward models find ambiguous or wrong",
        settings="prefloop.configs.filter:FilterConfig",
        work="prefloop.algorithms.filter:filter_comparisons",
        examples=(
            "prefloop data filter --data comparisons.jsonl --reward_models runs/first/reward/final --least_margin 0.2 --out kept.jsonl",
        ),
        then="prefloop reward --model MODEL --data {} --out RUNS/reward",
    ),
    "data score": Command(
        summary="score stored completions by models, for label select",
        settings="prefloop.configs.select:ScoreConfig",
        work="prefloop.algorithms.score:score_completions",
        examples=(
            "prefloop data score --store runs/first/prefloop.db --reward_model R1,R2,R3 --out scores.jsonl",
            "prefloop data score --store runs/first/prefloop.db --reward_model DPO@SFT --beta 0.1 --out scores.jsonl",
        ),
        then="prefloop label select --store {} --strategy disagreement --scores SCORES",
    ),
    "data rejection": Command(
        summary="make comparisons of stored completions by statistical rejection sampling",
        settings="prefloop.configs.filter:RejectionConfig",
        work="prefloop.algorithms.rejection:sample_by_rejection",
        examples=(
            "prefloop data rejection --store runs/first/prefloop.db --reward_models runs/first/reward/final --out pairs.jsonl",
        ),
        then="prefloop dpo --model MODEL --data {} --out RUNS/rso",
    ),
}
