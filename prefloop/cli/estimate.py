"""`prefloop estimate`: what a training needs on GPUs."""

from typing import Any

from prefloop.cli.trainings import require_engine, training_named
from prefloop.configs.estimate import EstimateConfig
from prefloop.errors import InputError


def show_estimate(config: EstimateConfig) -> None:
    """Print the estimate."""
    from prefloop.recipes.align.cost import Shape, shape_of
    from prefloop.recipes.gpus import estimate, report, require_known

    name, _, settings, _ = training_named(config.command, engine=config.engine_gpus > 0)
    require_known(settings)
    require_engine(config.engine_gpus, name, settings)

    def scorer(settings: Any, own: Shape) -> Shape | None:
        """The reward model's; as large as the policy where it is not there yet to be looked at."""
        named = getattr(settings, "reward_model", "")
        if not named or (":" in named and not named.startswith("http")):
            return None  # a function or a verifier
        try:
            return shape_of(named, settings.compute)
        except InputError:
            print(f"reward_model {named} cannot be read here; it is taken to be as large as the policy")
            return own

    shape = shape_of(settings.model, settings.compute)
    print(report(estimate(settings, shape, scorer(settings, shape), config), settings, config, shape))
