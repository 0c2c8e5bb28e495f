"""The settings of all stages that learn from their own samples of a run's prompts, scored."""

from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.configs.games import NashMDConfig, SPPOConfig
from prefloop.configs.own_samples import ExpertConfig, OnlineDPOConfig
from prefloop.configs.ppo import PPOConfig, TRPOConfig

OnlineConfig = (
    PPOConfig | TRPOConfig | CriticFreeConfig | ExpertConfig | OnlineDPOConfig | NashMDConfig | SPPOConfig
)
