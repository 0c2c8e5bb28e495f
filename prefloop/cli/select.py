"""`prefloop label select`."""

from collections import Counter
from collections.abc import Sequence

from prefloop.configs.select import SelectConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.select import stored
from prefloop.feedback.select.choose import ChosenPair, choose
from prefloop.feedback.select.scores import read_scores


def select(config: SelectConfig) -> str:
    """Choose pairs, make items of them, put them into a project where one is named, and say what was chosen; the store's name."""
    with Store.open(config.store, create=False) as store:
        offered, best_first = _offered(config, store)
        chosen = choose(
            [each.key for each in offered],
            best_first,
            strategy=config.strategy,
            count=config.count,
            uniform=config.uniform,
            seed=config.seed,
        )
        ids = stored.add(store, offered, chosen, round=config.round)
        counts = Counter(each.strategy for each in chosen)
        said = ", ".join(f"{strategy} {count}" for strategy, count in counts.items())
        print(f"{store.label}: {len(ids)} of {len(offered)} pairs chosen ({said}), in round {config.round}")
        if len(ids) < config.count:
            print(f"  {config.count} were asked for; {config.strategy} names no more")
        if config.project:
            print(f"  {_ask(config, store, ids, chosen)} new in project {config.project!r}")
    return config.store


def _offered(config: SelectConfig, store: Store) -> tuple[list[stored.CandidatePair], list[int]]:
    """The pairs that could be asked, and places among them, the strategy's best first. `InputError` where there is none."""
    if config.strategy == "conflict":
        offered, order = stored.conflicts(store, round=config.round)
        if not offered:
            raise InputError(
                f"{store.label}: no pair was judged by people and by an AI judge and is not in round {config.round} already; "
                "let `prefloop label judge` judge the pairs that people did, and name a new round"
            )
        return offered, order
    checkpoints = [store.find_checkpoint(name) for name in config.checkpoints]
    offered = stored.candidates(store, checkpoints=checkpoints)
    if not offered:
        raise InputError(
            f"{store.label}: no two different completions of a prompt are left to ask about; draw more with `prefloop sample`"
        )
    if config.strategy == "disagreement":
        return offered, stored.by_disagreement(offered, read_scores(config.scores))
    if config.strategy == "margin":
        return offered, stored.by_margin(offered, read_scores(config.scores))
    if config.strategy == "information":
        # As many more as the uniform draw may take of them.
        return offered, stored.by_information(store, offered, 2 * config.count, prior=config.prior)
    return offered, []


def _ask(config: SelectConfig, store: Store, ids: Sequence[int], chosen: Sequence[ChosenPair]) -> int:
    """Put the items into the project; how many are new there."""
    from prefloop.studio.service import Studio
    from prefloop.studio.values import NotFound, ProjectSettings

    studio = Studio(store)
    try:
        project = studio.find_project(config.project)
    except NotFound:
        project = studio.create_project(ProjectSettings(name=config.project, overlap=config.overlap))
    else:
        if config.overlap not in (1, project.settings.overlap):
            raise InputError(
                f"overlap is {config.overlap}, but project {project.settings.name!r} is there already, with overlap {project.settings.overlap}; "
                "leave overlap out, or change the project under Admin, Settings"
            )
    return studio.add_tasks(project.id, list(ids))
