"""`prefloop revise`."""

from prefloop.configs.judge import ReviseConfig
from prefloop.data.store import Store
from prefloop.data.write import write_rows
from prefloop.errors import InputError
from prefloop.feedback.judges import Cached, read_constitution
from prefloop.feedback.judges.revising import StoredRevisions
from prefloop.feedback.judges.wording import cost_lines, revised_lines
from prefloop.loop.asked import asking


def revise_completions(config: ReviseConfig) -> str:
    """Criticise and revise, write demonstrations, comparisons and steps, print what came of it; the file of demonstrations."""
    principles = read_constitution(config.constitution)
    with (
        Store.open(config.store, create=False) as store,
        asking(config, temperature=config.temperature, logprobs=False) as model,
    ):
        cached = Cached(model, config.cache or store.folder / "judge_cache.db")
        revisions = StoredRevisions(config, principles, store, cached)
        report = revisions.revise()
        for setting, file, rows in (
            ("demonstrations", config.demonstrations, revisions.demonstrations(report)),
            ("steps", config.steps, revisions.steps(report)),
        ):
            if file and rows:
                write_rows(file, rows, setting=setting)
        print("\n".join([*revised_lines(config, revisions, report), *cost_lines(model, cached, report)]))
        tried_again = revisions.try_injection(report, config.injection)
        if tried_again:
            obeyed, tried = tried_again
            print(f"  an instruction injected into a completion took over {obeyed} of {tried} revisions")
        if not report.steps:
            raise InputError(f"nothing was revised: {report.why}")
    return config.demonstrations
