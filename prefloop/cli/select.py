"""`prefloop label select`."""

from collections import Counter

from prefloop.configs.select import SelectConfig
from prefloop.data.store import Store
from prefloop.feedback.select import stored
from prefloop.feedback.select.choose import choose
from prefloop.feedback.select.offer import offer


def select(config: SelectConfig) -> str:
    """Choose pairs, make items of them, put them into a project where one is named, and say what was chosen; the store's name."""
    with Store.open(config.store, create=False) as store:
        offered, best_first = offer(
            store,
            config.strategy,
            checkpoints=config.checkpoints,
            round=config.round,
            count=config.count,
            scores=config.scores,
            prior=config.prior,
        )
        chosen = choose(
            [pair.key for pair in offered],
            best_first,
            strategy=config.strategy,
            count=config.count,
            uniform=config.uniform,
            seed=config.seed,
        )
        ids = stored.add(store, offered, chosen, round=config.round)
        counts = Counter(pair.strategy for pair in chosen)
        shown = ", ".join(f"{strategy} {count}" for strategy, count in counts.items())
        print(f"{store.label}: {len(ids)} of {len(offered)} pairs chosen ({shown}), in round {config.round}")
        missing = config.count - len(ids)
        if missing > 0:
            print(f"  {config.count} were asked for; {config.strategy} names no more")
        if config.project:
            from prefloop.studio.service import Studio

            new = Studio(store).ask(ids, project=config.project, overlap=config.overlap)
            print(f"  {new} new in project {config.project!r}")
    return config.store
