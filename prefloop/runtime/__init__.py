"""The processes of a run, its folder, its steps and its checkpoints."""

from prefloop.runtime.metrics import Metrics
from prefloop.runtime.optim import ParameterGroup
from prefloop.runtime.run import Run
from prefloop.runtime.state import StateTree
from prefloop.runtime.update import StepResult, Updater
from prefloop.runtime.world import World, start_world

__all__ = ["Metrics", "ParameterGroup", "Run", "StateTree", "StepResult", "Updater", "World", "start_world"]
