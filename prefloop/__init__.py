"""prefloop: the whole human-preference loop as one tool.

    import prefloop as pl

    run = pl.dpo(model="MODEL", data=rows, lora=16)
    run.policy.generate("How do I make tea?")
    run.metrics.column("loss"), run.report, run.lineage()

Every training command is a function here, and its settings are keyword arguments: groups as dicts (`optim=dict(lr=1e-5)`), `lora=16` for the rank,
`data` as rows, a frame, a data set or a name, `model` as a name or a finished run, losses and reward functions by value. Nothing is imported before
it is used. See `docs/python.md`. The names in `__all__` are public.
"""

from typing import Any

__version__ = "0.1.0"

STAGE_NAMES = (  # functions of `prefloop.api.stages`, a command each
    "pretrain",
    "sft",
    "reward",
    "dpo",
    "prefer",
    "ppo",
    "nlpo",
    "a2c",
    "trpo",
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "rloo",
    "reinforce",
    "reinforce_pp",
    "remax",
    "online_dpo",
    "nash_md",
    "sppo",
    "expert",
    "ilql",
    "distill_context",
)
_ATTRIBUTES = {
    "align": "prefloop.api.aligning:align",
    "plan": "prefloop.api.aligning:plan",
    "study": "prefloop.api.studying:study",
    "evaluate": "prefloop.api.evaluating:evaluate",
    "load_policy": "prefloop.api.texts:load_policy",
    "load_reward_model": "prefloop.api.texts:load_reward_model",
    "open_run": "prefloop.api.results:open_run",
    "ratings": "prefloop.api.measures:ratings",
    "agreement": "prefloop.api.measures:agreement",
    "verifier": "prefloop.api.measures:verifier",
    "win_rate": "prefloop.api.measures:win_rate",
    "Store": "prefloop.data.store:Store",
    "Studio": "prefloop.studio.client:RemoteStudio",
    "InputError": "prefloop.errors:InputError",
}

__all__ = [*STAGE_NAMES, *_ATTRIBUTES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in STAGE_NAMES:
        value = import_module("prefloop.api.stages").stage(name)
    elif name in _ATTRIBUTES:
        module, _, attribute = _ATTRIBUTES[name].partition(":")
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'prefloop' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
