"""`prefloop reward`: train a reward model, then measure it on what was held out."""

from pathlib import Path

from prefloop.algorithms import reward as training
from prefloop.configs.reward import RewardConfig
from prefloop.evaluation.evaluate import TokenBudget, evaluate_reward_model
from prefloop.evaluation.json_files import encode, write_json
from prefloop.evaluation.parts import MeasuredPart, measured_data
from prefloop.evaluation.tables import reward_model_lines
from prefloop.loop.inputs import comparisons
from prefloop.loop.reading import bring_models, store_of
from prefloop.loop.scoring import bring_scorers
from prefloop.losses.reward_model import REWARD_LOSSES
from prefloop.runtime.world import start_world
from prefloop.text import load_tokenizer


def train_and_measure(config: RewardConfig) -> Path:
    """Train a reward model, then measure it on the comparisons that were held out; its folder.

    The numbers are printed and written to `heldout.json` in the run folder.
    """
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    reads = REWARD_LOSSES[config.loss].data
    if reads not in ("comparisons", "rankings"):
        folder = training.train(config)
        world.say(
            f"loss {config.loss} reads no comparisons; measure the model on some with `prefloop eval --comparisons`"
        )
        return folder
    data = config.data
    bring_models(world, config.model)
    # Read before the first step: whatever the evaluation would refuse is refused while nothing is lost.
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    inputs = comparisons(data, tokenizer, store_of(config.run.out, config.run.store), world)
    heldout = inputs.heldout.records
    folder = training.train(config)
    if not heldout:
        world.say("no comparison is held out, so the reward model is not measured; set data.heldout above 0")
        return folder
    bring_scorers(world, str(folder))
    quality = evaluate_reward_model(
        str(folder),
        heldout,
        budget=TokenBudget.of(data),
        compute=config.compute,
        world=world,
    )
    known = len(inputs.train) + len(heldout)
    measured = measured_data(
        "comparisons",
        data.source,
        inputs.read,
        MeasuredPart(part="heldout"),
        measured=len(heldout),
        known=known,
    )
    if world.is_main:
        write_json(Path(config.run.out) / "heldout.json", {**encode(quality), "data": encode(measured)})
        print(f"reward model, held-out prompts: {reward_model_lines(quality)}\n  {measured}")
    return folder
