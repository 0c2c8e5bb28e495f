"""The four roles of PPO: how each is opened, scored, updated, saved and resumed. `ppo.py` tells the algorithm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefloop.configs.adapters import CONFIG, read_object
from prefloop.configs.ppo import PPOConfig, TRPOConfig
from prefloop.configs.scorers import scorers_named
from prefloop.errors import InputError
from prefloop.loop.adaptive import ScoreShaper
from prefloop.loop.inputs import Read, demonstrations, store_of, texts
from prefloop.loop.online import Score, frozen_reward_model, open_scorer, reference_of
from prefloop.loop.roles import adapted_policy, parameters_of
from prefloop.loop.session import Session
from prefloop.loop.supports import Supports, statistics_among
from prefloop.models.average import MovingAverage
from prefloop.models.generation import save_model
from prefloop.models.head import TokenStatistics
from prefloop.models.load import (
    critic_from_policy,
    critic_from_reward_model,
    load_critic,
    load_policy,
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
from prefloop.runtime import ParameterGroup, Run, StateTree, Updater, World
from prefloop.text import check_vocabulary, pretraining_blocks
from prefloop.text.groups import Group

if TYPE_CHECKING:
    from peft import PeftModel

CRITIC, EMA = "critic", "ema"
"""Parts of a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """Policy, reference, critic and scorer, with their optimisers."""

    policy: Policy
    reference: Policy
    critic: Critic
    score: Score
    shape: ScoreShaper
    policy_updater: Updater
    """Of the critic too where that is a head on the policy's trunk."""
    critic_updaters: tuple[Updater, ...]
    """None or one."""
    averages: tuple[MovingAverage, ...]
    """None or one, of the policy's weights."""
    save: Callable[[Path], None]

    @property
    def has_own_critic(self) -> bool:
        """Whether the critic learns by itself, and not as a head on the policy's trunk."""
        return bool(self.critic_updaters)

    def values(self, batch: Batch, hidden: Sequence[Tensor] = ()) -> Float[Tensor, "B T"]:
        """The critic's value of the state before each completion token.

        `hidden` are the policy's hidden states, none or one: a critic that is a head on the policy's trunk takes them instead of a pass.
        """
        for known in hidden if not self.has_own_critic else ():
            return self.critic.values_of(known, batch)
        return self.critic(batch)

    def learning_pass(
        self,
        batch: Batch,
        *,
        temperature: float,
        entropy: bool,
        exact_kl: bool,
        supports: Supports | None,
    ) -> tuple[TokenStatistics, Tensor | None]:
        """What an update needs of the policy, from one pass of its trunk; and the values where the critic is a head on it.

        Log-probabilities always; the entropy and the exact KL to the reference where they are asked for; all among the tokens of `supports`, one
        set for each group of the batch, where these are given.
        """
        policy, reference = self.policy, self.reference
        if self.has_own_critic and supports is None:
            if exact_kl:
                return policy.statistics_against(reference, batch, temperature=temperature), None
            return policy.statistics(batch, temperature=temperature, entropy=entropy), None
        with torch.no_grad():
            theirs = reference.hidden(batch) if exact_kl else None
        hidden = policy.hidden(batch)
        if theirs is not None:
            statistics = policy.statistics_between(hidden, reference, theirs, batch, temperature=temperature)
        elif supports is not None:
            statistics = statistics_among(policy, hidden, batch, supports, temperature=temperature)
        else:
            statistics = policy.statistics_of(hidden, batch, temperature=temperature, entropy=entropy)
        return statistics, None if self.has_own_critic else self.critic.values_of(hidden, batch)

    def follow(self) -> None:
        """After an update of the policy its average moves towards it."""
        for average in self.averages:
            average.update()

    def state(self) -> StateTree:
        """Optimisers, moving average, and a head that no saved model holds."""
        return {
            "policy": self.policy_updater.state(),
            "critic": [updater.state() for updater in self.critic_updaters],
            "averages": [average.values for average in self.averages],
            "value_head": {name: p.detach() for name, p in self.critic.value_head.named_parameters()},
        }

    def load_state(self, state: StateTree) -> None:
        """Go on from what `state` gave; the models were opened from the same checkpoint."""
        with torch.no_grad():
            for name, parameter in self.critic.value_head.named_parameters():
                parameter.copy_(state["value_head"][name])
        self.policy_updater.load_state(state["policy"])
        for updater, saved in zip(self.critic_updaters, state["critic"], strict=True):
            updater.load_state(saved)
        for average, values in zip(self.averages, state["averages"], strict=True):
            average.load(values)


def open_roles(config: PPOConfig, session: Session) -> Roles:
    """All roles, separate models or one LoRA trunk, from the start or from the checkpoint the run goes on from."""
    run, tokenizer = session.run, session.tokenizer
    own_critic = config.critic.start != "shared"
    if config.lora.on:
        policy, critic, reward_models, save = _on_one_trunk(config, tokenizer, run)
    else:
        policy, critic, reward_models, save = _separate(config, tokenizer, run)
    check_vocabulary(tokenizer, vocabulary_size(policy))
    if not own_critic and not policy.linear_head:
        raise InputError(
            f"critic.start is `shared`, but {config.model} has a head that is more than a linear layer; set critic.start to reward or policy"
        )
    score, stored = open_scorer(config, tokenizer, run.world, loaded=reward_models)
    reference = reference_of(config, policy, tokenizer, run)

    per_step = config.epochs * config.minibatches
    policy_groups = [parameters_of(policy, config.optim, name="policy")]
    if not own_critic:
        policy_groups.append(_head_group(config, critic))
    warmup = config.critic.warmup_steps if own_critic else 0
    averages = ()
    if config.ema:
        average = MovingAverage(dict(policy_groups[0].parameters), decay=config.ema)
        averages = (average,)
        save = _with_average(save, policy, average, tokenizer)

    return Roles(
        policy=policy,
        reference=reference,
        critic=critic,
        score=score,
        shape=ScoreShaper(
            config.reward, stored=stored, longest=config.sampling.max_new_tokens, world=run.world
        ),
        policy_updater=session.updater(
            *policy_groups, updates=max(1, (config.steps - warmup) * per_step), name="policy"
        ),
        critic_updaters=(
            session.updater(
                parameters_of(critic, config.critic.optim, name="critic"),
                updates=max(1, config.steps * per_step),
                name="critic",
            ),
        )
        if own_critic
        else (),
        averages=averages,
        save=save,
    )


Opened = tuple[Policy, Critic, list[RewardModel], Callable[[Path], None]]
"""Policy, critic, the reward models among the scorers, and what saves the first two."""


def _separate(config: PPOConfig, tokenizer: PreTrainedTokenizerBase, run: Run) -> Opened:
    """A model for each role."""
    compute = config.compute
    policy = load_policy(run.source(config.model), compute)
    reward_models = frozen_reward_models(config)
    if config.critic.start == "shared":
        critic = _head_on(policy)
        return policy, critic, reward_models, lambda folder: save_policy(policy, tokenizer, folder)
    critic = open_critic(config, tokenizer, run, policy, reward_models)

    def save(folder: Path) -> None:
        save_policy(policy, tokenizer, folder)
        save_classifier(critic, tokenizer, folder / CRITIC)

    return policy, critic, reward_models, save


def frozen_reward_models(config: PPOConfig | TRPOConfig) -> list[RewardModel]:
    """Those among the scorers, each a model of its own."""
    names = scorers_named(config.reward_model)
    return [frozen_reward_model(config, each.name) for each in names if each.kind == "model"]


def open_critic(
    config: PPOConfig | TRPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    policy: Policy,
    reward_models: Sequence[RewardModel],
) -> Critic:
    """A critic that is a model of its own, from the start or from the checkpoint the run goes on from."""
    if run.start:
        return load_critic(run.source("", CRITIC), config.compute)
    if config.critic.start == "policy":
        return critic_from_policy(config.model, tokenizer, config.compute)
    reward_model = reward_models[0]  # the settings see to it that the first scorer is one
    _check_read_at_last(reward_model.reading, config.reward_model)
    critic = critic_from_reward_model(reward_model, normalised=config.reward.normalise)
    if vocabulary_size(reward_model) != vocabulary_size(policy):
        raise InputError(
            f"critic.start is `reward`, but {config.reward_model} has a vocabulary of {vocabulary_size(reward_model)} and the "
            f"policy one of {vocabulary_size(policy)}; set critic.start to policy"
        )
    return critic


def _check_read_at_last(reading: Reading, name: str) -> None:
    """A critic predicts from the head at one token what the score will be: that begins right only where the score is the head at the last."""
    if reading.at != "last":
        raise InputError(
            f"critic.start is `reward`, but the score of {name} is read over several tokens ({reading.at}); set critic.start to policy or shared"
        )


def _on_one_trunk(config: PPOConfig, tokenizer: PreTrainedTokenizerBase, run: Run) -> Opened:
    """One frozen trunk, an adapter for each role; the reward model joins it if it was trained as an adapter of the same trunk."""
    seed, lora = run.settings.seed, config.lora
    policy, peft = adapted_policy(config.model, tokenizer, lora, config.compute, run)
    if not lora.rank and config.critic.start != "shared":
        lora = settings_of_adapter(peft, policy.adapter_name)
    first, *others = scorers_named(config.reward_model)
    adapter = Path(first.name) / ADAPTER
    if first.kind == "model" and not others and _is_of_trunk(adapter, config.model):
        reward_models = [reward_model_on_trunk(peft, policy, lora, adapter)]
        reward_models[0].reading = stored_reading(first.name)
        run.say(f"{first.name} is an adapter of the policy's trunk and shares it")
    else:
        reward_models = frozen_reward_models(config)
    critic = (
        _head_on(policy)
        if config.critic.start == "shared"
        else critic_on_trunk(peft, policy, lora, seed=seed + 1)
    )
    if config.critic.start == "reward":
        _start_from_reward_adapter(config, peft, critic)
    if run.start:
        load_adapter_weights(peft, policy.adapter_name, Path(run.source("", ADAPTER)))
        if config.critic.start != "shared":
            load_adapter_weights(peft, critic.adapter_name, Path(run.source("", CRITIC)))

    def save(folder: Path) -> None:
        save_merged(policy, peft, tokenizer, folder)
        if critic.adapter_name != policy.adapter_name:
            save_adapter(peft, critic.adapter_name, folder / CRITIC)

    return policy, critic, reward_models, save


def _start_from_reward_adapter(config: PPOConfig, peft: "PeftModel", critic: Critic) -> None:
    """The critic's adapter and head begin as the reward model's."""
    name = scorers_named(config.reward_model)[0].name
    adapter = Path(name) / ADAPTER
    if not _is_of_trunk(adapter, config.model):
        raise InputError(
            f"critic.start is `reward` with lora.rank {config.lora.rank}, but {name} is no adapter of {config.model}; train it "
            "with `prefloop reward` from that model with the same lora settings, or set critic.start to policy or shared"
        )
    _check_read_at_last(stored_reading(name), name)
    rest = load_adapter_weights(peft, critic.adapter_name, adapter)
    (weight,) = (value for key, value in rest.items() if key.endswith("score.weight"))
    with torch.no_grad():
        next(critic.value_head.parameters()).copy_(weight)
    if config.reward.normalise:
        critic.normalise(*stored_reward_moments(name))


def _is_of_trunk(adapter: Path, model: str) -> bool:
    """Whether a saved adapter says that it was trained on this model."""
    file = adapter / CONFIG
    if not file.exists():
        return False
    base = str(read_object(file).get("base_model_name_or_path") or "")
    return base == model or (Path(base).exists() and Path(base).resolve() == Path(model).resolve())


def _head_on(policy: Policy) -> Critic:
    """A critic that is a head of zeros on the policy's own trunk."""
    head = scalar_head(policy.head().weight.shape[1], std=0.0, generator=torch.Generator()).to(policy.device)
    return Critic(policy.model, head, way=policy.way, adapter_name=policy.adapter_name)


def _head_group(config: PPOConfig, critic: Critic) -> ParameterGroup:
    optim = replace(config.critic.optim, max_grad_norm=config.optim.max_grad_norm)  # one norm for one update
    return ParameterGroup.of(critic.value_head, optim, name="critic")


def _with_average(
    save: Callable[[Path], None], policy: Policy, average: MovingAverage, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        save(folder)
        save_model(policy.model, tokenizer, folder / EMA, average.of(policy))

    return both


def open_ptx(
    config: PPOConfig, tokenizer: PreTrainedTokenizerBase, world: World
) -> tuple[list[Group], dict[str, Read]]:
    """Groups of the pretraining mix, from texts or from demonstrations; none where it is off."""
    if not config.ptx:
        return [], {}
    data = replace(config.data, source=config.ptx, heldout=0.0, limit=0)

    def documents() -> tuple[list[Group], dict[str, Read]]:
        records, _, read = texts(data)
        block = config.data.max_prompt_tokens + config.sampling.max_new_tokens
        return pretraining_blocks(tokenizer, [record.text for record in records], block), {"ptx_data": read}

    try:
        inputs = demonstrations(data, tokenizer, store_of(config.run.out, config.run.store), world)
    except InputError as not_demonstrations:
        try:
            return world.on_main(documents)
        except InputError as not_texts:
            raise InputError(
                f"ptx {config.ptx!r} is neither demonstrations ({not_demonstrations}) nor texts ({not_texts})"
            ) from not_texts
    return inputs.train.groups, {"ptx_data": inputs.read}
