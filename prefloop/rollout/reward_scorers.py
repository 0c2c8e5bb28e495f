"""Scorers made of models: several reward models at once, and the reward that a policy itself stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Compute
from prefloop.errors import InputError
from prefloop.losses import implicit_reward
from prefloop.losses.reward_model import ENSEMBLES
from prefloop.models.load import load_policy, load_reward_model, reward_moments
from prefloop.models.roles import Policy, RewardModel
from prefloop.records import Prompt
from prefloop.rollout.scoring import score_groups, summed_logprobs
from prefloop.runtime import World
from prefloop.text import completions_group, load_tokenizer
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleScorer:
    """Several reward models as one (arXiv:2310.02743). Each one's scores are first brought to mean 0 and standard deviation 1 by the moments
    stored with it: what two reward models have in common is an order, not a scale."""

    models: tuple[RewardModel, ...]
    tokenizer: PreTrainedTokenizerBase
    rule: Literal["mean", "worst", "penalised"]
    tokens: int
    world: World

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        compute: Compute,
        world: World,
        *,
        rule: Literal["mean", "worst", "penalised"] = "mean",
    ) -> "EnsembleScorer":
        """From folders of reward models that share a tokenizer; they should differ in seed and order of data, or they agree for no reason.

        Raises `InputError` for no name, and for a rule that is none.
        """
        if not names:
            raise InputError("an ensemble needs the folder of one reward model or more")
        if rule not in ENSEMBLES:
            raise InputError(f"the ensemble's rule is {rule!r}; it must be one of {', '.join(ENSEMBLES)}")
        tokenizer = load_tokenizer(names[0], trust_remote_code=compute.trust_remote_code)
        models = tuple(load_reward_model(name, compute) for name in names)
        return cls(
            models=models, tokenizer=tokenizer, rule=rule, tokens=compute.micro_batch_tokens, world=world
        )

    def members(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Float[Tensor, "M B"]:
        """Every model's normalised score of every completion."""
        groups = _groups(self.tokenizer, prompts, completions)
        rows = []
        for model in self.models:
            mean, std = reward_moments(model)
            scores = score_groups(model, groups, tokens=self.tokens, world=self.world)
            rows.append((scores - mean) / std)
        return torch.stack(rows)

    def disagreement(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Standard deviation of each completion's scores over models: where it is large, a label teaches most."""
        return self.members(prompts, completions).std(dim=0, unbiased=False).tolist()

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One score for every completion, in their order."""
        return ENSEMBLES[self.rule](self.members(prompts, completions)).tolist()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImplicitRewardScorer:
    """β(log π - log π_ref), summed over a completion's tokens: the reward that a DPO policy is optimal for (arXiv:2305.18290).

    With a strong and a weak model in place of policy and reference it is a density ratio that annotates without labels.
    """

    policy: Policy
    reference: Policy
    tokenizer: PreTrainedTokenizerBase
    beta: float
    tokens: int
    world: World

    @classmethod
    def load(
        cls, policy: str, reference: str, compute: Compute, world: World, *, beta: float = 1.0
    ) -> "ImplicitRewardScorer":
        """From two folders or hub names that share a tokenizer, taken from the policy."""
        return cls(
            policy=load_policy(policy, compute),
            reference=load_policy(reference, compute),
            tokenizer=load_tokenizer(policy, trust_remote_code=compute.trust_remote_code),
            beta=beta,
            tokens=compute.micro_batch_tokens,
            world=world,
        )

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One score for every completion, in their order."""
        groups = _groups(self.tokenizer, prompts, completions)
        ours, theirs = (
            summed_logprobs(model, groups, tokens=self.tokens, world=self.world)
            for model in (self.policy, self.reference)
        )
        return implicit_reward(ours, theirs, beta=self.beta).tolist()


def _groups(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], completions: Sequence[str]
) -> list[Group]:
    """Each completion with its prompt and its stop token, as reward models are trained."""
    pairs = zip(prompts, completions, strict=True)
    return [completions_group(tokenizer, prompt, [completion]) for prompt, completion in pairs]
