"""The commands of `prefloop label`."""

from collections.abc import Mapping

from prefloop.cli.command import Command

LABEL: Mapping[str, Command] = {
    "label simulate": Command(
        summary="pair completions and let a simulated annotator compare them",
        settings="prefloop.configs.label:SimulateConfig",
        work="prefloop.cli.label:simulate",
        single=True,
        examples=("prefloop label simulate --store runs/first/prefloop.db --utility toy --flip 0.1",),
        then="prefloop reward --model MODEL --data store --store {} --out RUNS/reward",
    ),
    "label serve": Command(
        summary="serve the studio: people compare completions in a browser",
        settings="prefloop.configs.label:ServeConfig",
        work="prefloop.studio.serve:serve",
        examples=(
            "prefloop label serve --demo",
            "prefloop label serve --store runs/first/prefloop.db",
            "prefloop label serve --store runs/first/prefloop.db --chat runs/first/dpo/final",
            "prefloop label serve --store postgresql://user:password@host/database --workers 4",
        ),
        single=True,
    ),
    "label import": Command(
        summary="import a file's completions into a project of the studio",
        settings="prefloop.configs.label:LabelImportConfig",
        work="prefloop.cli.label:import_items",
        positional=("source",),
        examples=(
            "prefloop label import samples.jsonl --store runs/first/prefloop.db --project Helpful --overlap 2",
        ),
        then="prefloop label serve --store {}",
        single=True,
    ),
    "label export": Command(
        summary="export judgements to a file, with a manifest",
        settings="prefloop.configs.label:LabelExportConfig",
        work="prefloop.cli.label:export",
        examples=(
            "prefloop label export --store runs/first/prefloop.db --judged_by human --out comparisons.jsonl",
        ),
        single=True,
    ),
    "label answers": Command(
        summary="write answers to further questions, and marked spans, to a file",
        settings="prefloop.configs.label_questions:AnswersConfig",
        work="prefloop.cli.questions:write_answers",
        examples=(
            "prefloop label answers --store runs/first/prefloop.db --kind spans --out spans.jsonl",
            "prefloop label answers --store runs/first/prefloop.db --kind steps --labels untrue --out steps.jsonl",
        ),
        single=True,
    ),
    "label questions": Command(
        summary="print or set the further questions of a studio project",
        settings="prefloop.configs.label_questions:QuestionsConfig",
        work="prefloop.cli.questions:set_questions",
        positional=("project",),
        examples=(
            "prefloop label questions Helpful --store runs/first/prefloop.db",
            "prefloop label questions Helpful --store runs/first/prefloop.db --file questions.yaml",
        ),
        single=True,
    ),
    "label project archive": Command(
        summary="archive a project of the studio, or open it again",
        settings="prefloop.configs.label:ProjectStateConfig",
        work="prefloop.cli.people:set_project_state",
        positional=("project",),
        examples=(
            "prefloop label project archive Helpful --store runs/first/prefloop.db",
            "prefloop label project archive Helpful --store runs/first/prefloop.db --state open",
        ),
        single=True,
    ),
    "label project members": Command(
        summary="add, change and remove the members of a studio project",
        settings="prefloop.configs.label:ProjectMembersConfig",
        work="prefloop.cli.people:set_members",
        positional=("project",),
        examples=(
            "prefloop label project members Helpful --store runs/first/prefloop.db",
            "prefloop label project members Helpful --store runs/first/prefloop.db --access members --add ann bea --role adjudicator",
        ),
        single=True,
    ),
    "label recruit": Command(
        summary="make a link by which Prolific or Mechanical Turk sends people to a studio project, and list who came",
        settings="prefloop.configs.label:RecruitConfig",
        work="prefloop.cli.people:recruit",
        positional=("project",),
        examples=(
            "prefloop label recruit Helpful --store runs/first/prefloop.db --platform prolific --answers 20 --places 50 --code C1A2B3 --public_url https://label.example.org",
            "prefloop label recruit Helpful --store runs/first/prefloop.db --out participants.csv",
        ),
        single=True,
    ),
    "label project delete": Command(
        summary="delete a project of the studio, and withdraw its answers",
        settings="prefloop.configs.label:ProjectDeleteConfig",
        work="prefloop.cli.people:delete_project",
        positional=("project",),
        examples=("prefloop label project delete Helpful --store runs/first/prefloop.db",),
        single=True,
    ),
    "label invite": Command(
        summary="make a link that lets people into the studio",
        settings="prefloop.configs.label:InviteConfig",
        work="prefloop.cli.people:invite",
        examples=(
            "prefloop label invite --store runs/first/prefloop.db --projects Helpful --uses 20 --public_url https://label.example.org",
        ),
        single=True,
    ),
    "label user reset": Command(
        summary="make a one-time link that sets a new password for somebody",
        settings="prefloop.configs.label:UserResetConfig",
        work="prefloop.cli.people:reset_password",
        positional=("login",),
        examples=("prefloop label user reset ann --store runs/first/prefloop.db",),
        single=True,
    ),
    "label user erase": Command(
        summary="erase a person and every word they wrote, with a proof",
        settings="prefloop.configs.label:UserEraseConfig",
        work="prefloop.cli.people:erase",
        positional=("login",),
        examples=("prefloop label user erase ann --store runs/first/prefloop.db --out proof.json",),
        single=True,
    ),
    "label user retain": Command(
        summary="delete the accounts of people who have done nothing for so many days",
        settings="prefloop.configs.label:UserRetainConfig",
        work="prefloop.cli.people:retain",
        examples=("prefloop label user retain --days 365 --store runs/first/prefloop.db --yes true",),
        single=True,
    ),
    "label image erase": Command(
        summary="erase an image from a store, wherever it is shown",
        settings="prefloop.configs.label:ImageEraseConfig",
        work="prefloop.cli.people:erase_image",
        positional=("image",),
        examples=("prefloop label image erase 9cc64d259d5d --store runs/first/prefloop.db",),
        single=True,
    ),
    "label remote projects": Command(
        summary="list the projects of a studio on another machine",
        settings="prefloop.configs.remote:RemoteProjectsConfig",
        work="prefloop.cli.remote:list_projects",
        examples=("prefloop label remote projects --url https://label.example.org",),
        single=True,
    ),
    "label remote import": Command(
        summary="send a file's completions to a studio on another machine",
        settings="prefloop.configs.remote:RemoteImportConfig",
        work="prefloop.cli.remote:import_items",
        positional=("source",),
        examples=(
            "prefloop label remote import samples.jsonl --url https://label.example.org --project Helpful --overlap 2",
        ),
        single=True,
    ),
    "label remote export": Command(
        summary="fetch what was judged in a studio on another machine",
        settings="prefloop.configs.remote:RemoteExportConfig",
        work="prefloop.cli.remote:export",
        positional=("project",),
        examples=(
            "prefloop label remote export Helpful --url https://label.example.org --out comparisons.jsonl",
        ),
        single=True,
    ),
    "label remote invite": Command(
        summary="make an invitation link of a studio on another machine",
        settings="prefloop.configs.remote:RemoteInviteConfig",
        work="prefloop.cli.remote:invite",
        examples=(
            "prefloop label remote invite --url https://label.example.org --projects Helpful --uses 20",
        ),
        single=True,
    ),
    "label remote call": Command(
        summary="send any request of the API to a studio on another machine",
        settings="prefloop.configs.remote:RemoteCallConfig",
        work="prefloop.cli.remote:call",
        positional=("method", "path"),
        examples=(
            "prefloop label remote call GET /audit --query limit=10 --url https://label.example.org",
            "prefloop label remote call PUT /people/3/active --body '{\"active\": false}'",
        ),
        single=True,
    ),
    "label backup": Command(
        summary="copy a store while it is in use",
        settings="prefloop.configs.label:BackupConfig",
        work="prefloop.cli.label:back_up",
        examples=("prefloop label backup --store runs/first/prefloop.db --out backup.db",),
        single=True,
    ),
    "label restore": Command(
        summary="restore a backup of a store",
        settings="prefloop.configs.label:RestoreConfig",
        work="prefloop.cli.label:restore",
        positional=("backup",),
        examples=("prefloop label restore backup.db --store runs/second/prefloop.db",),
        single=True,
    ),
    "label select": Command(
        summary="choose which pairs of stored completions to ask next",
        settings="prefloop.configs.select:SelectConfig",
        work="prefloop.cli.select:select",
        examples=(
            "prefloop label select --store runs/first/prefloop.db --strategy disagreement --scores scores.jsonl --count 200 --project Helpful",
            "prefloop label select --store runs/first/prefloop.db --strategy information --count 200",
        ),
        then="prefloop label serve --store {}",
        single=True,
    ),
    "label judge": Command(
        summary="let a model behind an OpenAI-compatible address compare the pairs in a store",
        settings="prefloop.configs.judge:JudgeConfig",
        work="prefloop.cli.judge:judge",
        examples=(
            "prefloop label judge --store runs/first/prefloop.db --base_url http://127.0.0.1:8000/v1 --model NAME --pairs random",
        ),
        then="prefloop label agreement --store {}",
        single=True,
    ),
    "label score": Command(
        summary="let a model score the completions in a store one by one",
        settings="prefloop.configs.judge:LabelScoreConfig",
        work="prefloop.cli.judge:score",
        examples=(
            "prefloop label score --store runs/first/prefloop.db --base_url http://127.0.0.1:8000/v1 --model NAME --out scores.jsonl --injection 50",
        ),
        single=True,
    ),
    "label annotate": Command(
        summary="let a reward model, or the density ratio of a strong and a weak model, compare the pairs in a store",
        settings="prefloop.configs.annotate:ScorePairsConfig",
        work="prefloop.algorithms.annotate:score_pairs",
        examples=(
            "prefloop label annotate --store runs/first/prefloop.db --reward_model runs/strong/final@runs/weak/final --annotator density_ratio",
        ),
        then="prefloop reward --model MODEL --data store --store {} --out RUNS/reward",
    ),
    "label agreement": Command(
        summary="measure how far labels can be trusted, and whose",
        settings="prefloop.configs.agreement:AgreementConfig",
        work="prefloop.cli.agreement:agreement",
        examples=(
            "prefloop label agreement --store runs/first/prefloop.db",
            "prefloop label agreement --store runs/first/prefloop.db --kinds human --aggregate dawid_skene --labels labels.jsonl",
        ),
        single=True,
    ),
}
