"""What a recipe is: the settings of every stage, and the judge who knows the truth."""

from dataclasses import dataclass, field
from pathlib import Path

from prefloop.configs.common import Sampling
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.pretrain import PretrainConfig
from prefloop.configs.recipes import LoopSettings
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sample import SampleConfig
from prefloop.configs.sft import SFTConfig
from prefloop.feedback.gold import GoldJudge


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The stages of the loop in order. Each stage's `run.out` is a folder of its own in the project."""

    recipe: str
    settings: LoopSettings
    project: Path
    pretrain: tuple[PretrainConfig, ...]
    """None if the loop starts from a given model."""
    sft: SFTConfig
    sample: SampleConfig
    pairs: int
    gold: GoldJudge
    temperature: float
    """Bradley-Terry noise of the simulated annotator, in units of the gold utility."""
    reward: RewardConfig
    ppo: PPOConfig
    dpo: DPOConfig
    evaluation: Sampling
    best_of: int
    """Completions of each prompt for the best-of-n curve; 0 leaves it out."""
    grpo: tuple[GRPOConfig, ...] = ()
    """One, where the recipe trains with it too."""
    gold_is_log_odds: bool = False
    """A utility above 0 means a positive text."""
    notes: tuple[str, ...] = field(default=())
    """What a reader of the report must know."""
