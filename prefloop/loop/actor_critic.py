"""The four roles of PPO: how each is opened, scored, updated, saved and resumed. `ppo.py` tells the algorithm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefloop.configs.adapters import CONFIG, adapter_of, base_named, read_object
from prefloop.configs.common import LoRA
from prefloop.configs.copies import here
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.scorers import scorers_named
from prefloop.errors import InputError
from prefloop.loop.adaptive import ScoreShaper
from prefloop.loop.roles import adapted_policy, check_trains_whole, parameters_of, reference_of, shard_roles
from prefloop.loop.scoring import open_shaped_scorer
from prefloop.loop.session import Session
from prefloop.loop.supports import Supports, statistics_among
from prefloop.models.average import MovingAverage
from prefloop.models.generation import save_model
from prefloop.models.head import TokenStatistics, Want
from prefloop.models.load import (
    critic_from_policy,
    critic_from_reward_model,
    load_critic,
    load_policy,
    load_reward_model,
    save_classifier,
    save_policy,
    stored_reading,
    stored_reward_moments,
)
from prefloop.models.lora import (
    ADAPTER,
    critic_on_trunk,
    load_adapter_weights,
    reward_model_on_trunk,
    save_adapter,
    save_merged,
    settings_of_adapter,
)
from prefloop.models.packing import Batch
from prefloop.models.roles import Critic, Policy, Reading, RewardModel, scalar_head, vocabulary_size
from prefloop.rollout.reward_scorers import RolloutScorer
from prefloop.runtime import ParameterGroup, StateTree, Updater
from prefloop.text import check_vocabulary

if TYPE_CHECKING:
    from peft import PeftModel

CRITIC, EMA = "critic", "ema"
"""Parts of a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorCritic:
    """Policy, reference, critic and scorer."""

    policy: Policy
    reference: Policy
    critic: Critic
    on_trunk: bool
    """Whether the critic is a head on the policy's trunk, and not a model of its own."""
    score: RolloutScorer
    shape: ScoreShaper

    def values(self, batch: Batch, hidden: Tensor | None = None) -> Float[Tensor, "B T"]:
        """The critic's value of the state before each completion token; a head on the policy's trunk takes its `hidden` states instead of a pass."""
        if self.on_trunk and hidden is not None:
            return self.critic.values_of(hidden, batch)
        return self.critic(batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles(ActorCritic):
    """The same with their optimisers."""

    policy_updater: Updater
    """Of the critic too where that is a head on the policy's trunk."""
    critic_updater: Updater | None
    """Of a critic of its own."""
    average: MovingAverage | None
    """Of the policy's weights."""
    save: Callable[[Path], None]

    def learning_pass(
        self, batch: Batch, want: Want, *, temperature: float, supports: Supports | None
    ) -> tuple[TokenStatistics, Tensor | None]:
        """What an update needs of the policy, from one pass of its trunk; and the values where the critic is a head on it.

        Log-probabilities always; the entropy and the exact KL to the reference where they are wanted; all among the tokens of `supports`, one
        set for each group of the batch, where these are given.
        """
        policy, reference = self.policy, self.reference
        if not self.on_trunk and supports is None:
            if want.kl:
                return policy.statistics_against(reference, batch, temperature=temperature, want=want), None
            return policy.statistics(batch, temperature=temperature, entropy=want.entropy), None
        with torch.no_grad():
            theirs = reference.hidden(batch) if want.kl else None
        hidden = policy.hidden(batch)
        if theirs is not None:
            statistics = policy.statistics_between(
                hidden, reference, theirs, batch, temperature=temperature, want=want
            )
        elif supports is not None:
            statistics = statistics_among(policy, hidden, batch, supports, temperature=temperature)
        else:
            statistics = policy.statistics_of(hidden, batch, temperature=temperature, entropy=want.entropy)
        return statistics, self.critic.values_of(hidden, batch) if self.on_trunk else None

    def follow(self) -> None:
        """After an update of the policy its average moves towards it."""
        if self.average:
            self.average.update()

    def state(self) -> StateTree:
        """Optimisers, moving average, and a head that no saved model holds."""
        state: dict[str, StateTree] = {
            "policy": self.policy_updater.state(),
            "value_head": {name: p.detach() for name, p in self.critic.value_head.named_parameters()},
        }
        if self.critic_updater:
            state["critic"] = self.critic_updater.state()
        if self.average:
            state["average"] = self.average.values
        return state

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned; the models were opened from the same checkpoint."""
        with torch.no_grad():
            for name, parameter in self.critic.value_head.named_parameters():
                parameter.copy_(state["value_head"][name])
        self.policy_updater.load_state(state["policy"])
        if self.critic_updater:
            self.critic_updater.load_state(state["critic"])
        if self.average:
            self.average.load(state["average"])


def open_roles(config: PPOConfig, session: Session) -> Roles:
    """All roles, separate models or one LoRA trunk, from the start or from the checkpoint that the run resumes from."""
    tokenizer, critic_settings = session.tokenizer, config.critic
    on_trunk = critic_settings.start == "shared"
    opened = (_on_one_trunk if config.lora.on else _separate)(config, session)
    policy, critic, save = opened.policy, opened.critic, opened.save
    check_vocabulary(tokenizer, vocabulary_size(policy))
    if on_trunk and not policy.linear_head:
        raise InputError(
            f"critic.start is `shared`, but {config.model} has a head that is more than a linear layer; set critic.start to reward or policy"
        )
    score, shape = open_shaped_scorer(
        session,
        config.reward_model,
        config.reward,
        longest=config.most_tokens,
        environment=config.environment.name,
        loaded=opened.reward_models,
    )
    reference = reference_of(session, policy, config.model, config.reference)

    shard_roles(session, policy, critic)
    per_step = config.epochs * config.minibatches
    of_policy, of_critic = parameters_of(policy, config.optim, name="policy"), None
    average = MovingAverage(dict(of_policy.parameters), decay=config.ema) if config.ema else None
    if on_trunk:
        # One norm for one update.
        optim = replace(critic_settings.optim, max_grad_norm=config.optim.max_grad_norm)
        groups = (of_policy, ParameterGroup.of(critic.value_head, optim, name="critic"))
    else:
        groups, of_critic = (of_policy,), parameters_of(critic, critic_settings.optim, name="critic")
    return Roles(
        policy=policy,
        reference=reference,
        critic=critic,
        on_trunk=on_trunk,
        score=score,
        shape=shape,
        policy_updater=session.updater(
            *groups, updates=(config.steps - critic_settings.warmup_steps) * per_step, name="policy"
        ),
        critic_updater=of_critic
        and session.updater(of_critic, updates=config.steps * per_step, name="critic"),
        average=average,
        save=_with_average(save, policy, average, tokenizer) if average else save,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyAndCritic:
    """Policy and critic, what saves both, and the reward models among the scorers."""

    policy: Policy
    critic: Critic
    reward_models: list[RewardModel]
    save: Callable[[Path], None]


def _separate(config: PPOConfig, session: Session) -> PolicyAndCritic:
    """A model for each role."""
    tokenizer = session.tokenizer
    check_trains_whole(session.compute)
    policy = load_policy(session.run.source(config.model), session.learning)
    reward_models = frozen_reward_models(session, config.reward_model)
    critic = open_critic(
        session,
        policy,
        reward_models,
        start=config.critic.start,
        model=config.model,
        reward_model=config.reward_model,
        normalise=config.reward.normalise,
    )

    def save(folder: Path) -> None:
        save_policy(policy, tokenizer, folder)
        if critic.model is not policy.model:
            save_classifier(critic, tokenizer, folder / CRITIC)

    return PolicyAndCritic(policy=policy, critic=critic, reward_models=reward_models, save=save)


def frozen_reward_models(session: Session, names: str) -> list[RewardModel]:
    """Those among the scorers, each a model of its own."""
    return [
        load_reward_model(named.name, session.compute).requires_grad_(False)
        for named in (scorers_named(names) if names else ())
        if named.kind == "model"
    ]


def open_critic(
    session: Session,
    policy: Policy,
    reward_models: Sequence[RewardModel],
    *,
    start: Literal["reward", "policy", "shared"],
    model: str,
    reward_model: str,
    normalise: bool,
) -> Critic:
    """A critic of its own, by `critic.start`: from the first reward model, or from the model that the policy starts from; or from the checkpoint that
    the run resumes from. `shared` is a head of zeros on the policy's own trunk."""
    if start == "shared":
        return _head_on(policy)
    if session.run.start:
        return load_critic(session.run.source("", CRITIC), session.learning)
    if start == "policy":
        return critic_from_policy(model, session.tokenizer, session.compute)
    first = reward_models[0]  # the settings see to it that the first scorer is one
    _check_read_at_last(first.reading, reward_model)
    critic = critic_from_reward_model(first, normalised=normalise)
    if vocabulary_size(first) != vocabulary_size(policy):
        raise InputError(
            f"critic.start is `reward`, but {reward_model} has a vocabulary of {vocabulary_size(first)} and the "
            f"policy one of {vocabulary_size(policy)}; set critic.start to policy"
        )
    return critic


def _check_read_at_last(reading: Reading, name: str) -> None:
    """A critic predicts from the head at one token what the score will be: that begins right only where the score is the head at the last."""
    if reading.at != "last":
        raise InputError(
            f"critic.start is `reward`, but the score of {name} is read over several tokens ({reading.at}); set critic.start to policy or shared"
        )


def _on_one_trunk(config: PPOConfig, session: Session) -> PolicyAndCritic:
    """One frozen trunk, an adapter for each role; the reward model joins it if it was trained as an adapter of the same trunk."""
    run, seed, start = session.run, session.settings.seed, config.critic.start
    policy, peft = adapted_policy(session, config.model, config.lora)
    lora = config.lora if config.lora.rank else settings_of_adapter(peft, policy.adapter_name)
    named = list(scorers_named(config.reward_model)) if config.reward_model else []
    alone = named[0].name if len(named) == 1 and named[0].kind == "model" else ""
    trunk = _trunk(config.model, config.lora)
    joining = _adapter_of_trunk(alone, trunk) if alone else None
    if joining:
        reward_models = [reward_model_on_trunk(peft, policy, lora, joining)]
        reward_models[0].reading = stored_reading(alone)
        run.say(f"{alone} is an adapter of the policy's trunk and shares it")
    else:
        reward_models = frozen_reward_models(session, config.reward_model)
    own = start != "shared"
    critic = critic_on_trunk(peft, policy, lora, seed=seed + 1) if own else _head_on(policy)
    if start == "reward":
        _start_from_reward_adapter(critic, peft, trunk, named[0].name, normalise=config.reward.normalise)
    if run.start:
        load_adapter_weights(peft, policy.adapter_name, Path(run.source("", ADAPTER)))
        if own:
            load_adapter_weights(peft, critic.adapter_name, Path(run.source("", CRITIC)))

    def save(folder: Path) -> None:
        save_merged(policy, peft, session.tokenizer, folder)
        if own:
            save_adapter(peft, critic.adapter_name, folder / CRITIC)

    return PolicyAndCritic(policy=policy, critic=critic, reward_models=reward_models, save=save)


def _start_from_reward_adapter(
    critic: Critic, peft: "PeftModel", trunk: str, name: str, *, normalise: bool
) -> None:
    """The critic's adapter and head begin as those of the reward model of this name."""
    adapter = _adapter_of_trunk(name, trunk)
    if adapter is None:
        raise InputError(
            f"critic.start is `reward` with an adapter to train, but {name} is not an adapter of {trunk}; train it "
            "with `prefloop reward` from that model with the same lora settings, or set critic.start to policy or shared"
        )
    _check_read_at_last(stored_reading(name), name)
    rest = load_adapter_weights(peft, critic.adapter_name, adapter)
    (weight,) = (value for key, value in rest.items() if key.endswith("score.weight"))
    with torch.no_grad():
        next(critic.value_head.parameters()).copy_(weight)
    if normalise:
        critic.normalise(*stored_reward_moments(name))


def _trunk(model: str, lora: LoRA) -> str:
    """The model under the policy's adapter: its own base where that adapter goes on being trained."""
    adapter = adapter_of(model) if lora.adapter == "train" else None
    return adapter.base if adapter else model


def _adapter_of_trunk(name: str, trunk: str) -> Path | None:
    """The folder of the adapter that a reward model is, or was saved with, where it says that it was trained on this trunk."""
    named = adapter_of(name)
    folder = named.folder if named else Path(here(name)) / ADAPTER
    if not (folder / CONFIG).exists():
        return None
    base = named.base if named else base_named(read_object(folder / CONFIG))
    ours, theirs = Path(here(base)), Path(here(trunk))
    same = base == trunk or (ours.exists() and ours.resolve() == theirs.resolve())
    return folder if same else None


def _head_on(policy: Policy) -> Critic:
    """A critic that is a head of zeros on the policy's own trunk."""
    head = scalar_head(policy.head().weight.shape[1], std=0.0, generator=torch.Generator()).to(policy.device)
    return Critic(policy.model, head, way=policy.way, adapter_name=policy.adapter_name)


def _with_average(
    save: Callable[[Path], None], policy: Policy, average: MovingAverage, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        save(folder)
        save_model(policy.model, tokenizer, folder / EMA, average.of(policy))

    return both
