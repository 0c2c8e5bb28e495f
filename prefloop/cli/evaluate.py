"""`prefloop eval`."""

import time

from prefloop.configs.evaluate import EvalConfig
from prefloop.evaluation.measure import Measurements, measure, write_measurements
from prefloop.evaluation.tables import best_of_table, policy_table, reward_model_lines
from prefloop.runtime.world import start_world

PARTS = {"heldout": "held-out prompts", "train": "prompts it may have been trained on", "all": "all prompts"}


def evaluate(config: EvalConfig) -> str:
    """Measure, print the tables, and write summary.json and evaluation.json; the project folder."""
    began = time.monotonic()
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    found = measure(config, world)
    if world.is_main:
        print("\n".join(_lines(found)))
        write_measurements(config, found, time.monotonic() - began)
    return config.out


def _lines(found: Measurements) -> list[str]:
    lines: list[str] = []
    policies = found.results.policies
    if policies:
        lines.append(policy_table(policies))
    if found.results.best_of_n:
        lines.append(f"best of n by the reward model, {policies[0].name}:")
        lines.append(best_of_table(found.results.best_of_n))
    lines += [f"! {alarm}" for alarm in found.results.alarms]
    if found.quality:
        lines.append(f"reward model, {PARTS[found.data[-1].part]}: {reward_model_lines(found.quality)}")
    return [*lines, *map(str, found.data)]
