"""`prefloop run rounds`: the loop again and again, each turn on samples of the policy that the last one made.

One round: samples of the newest policy; comparisons of them, by the simulated annotator, an AI judge, the policy itself or people; a reward model
fitted again, from the model of round 0, on all comparisons so far; a policy trained from the newest one, by DPO on the comparisons or by PPO on the reward
model. With `judge self` a round is one of self-rewarding (arXiv:2401.10020), except that the scores are read from the answer's
probabilities and that DPO sees earlier rounds' comparisons as well.

Samples, comparisons and models of a round carry its number in the store, and each policy's start is the one before it: `prefloop lineage` prints the
whole way. Finished stages are kept when it is gone on with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefloop.algorithms import dpo, ppo, pretrain, reward, sft
from prefloop.algorithms.sample import sample_completions
from prefloop.configs.common import Data, Optim, RunSettings
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.recipes import RoundsConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sample import SampleConfig
from prefloop.feedback.simulate import SimulatedAnnotator
from prefloop.feedback.utility import find_gold
from prefloop.recipes import toy
from prefloop.recipes.clock import Clock
from prefloop.recipes.plan import Plan
from prefloop.recipes.rounds_feedback import RoundFeedback, feedback_of, simulated_annotator
from prefloop.recipes.rounds_results import evaluate, write_results
from prefloop.records import Prompt
from prefloop.runtime import World

GIVEN_LR = 5e-7
"""Of a policy that starts from a given model, as online methods on large models take it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundPlan:
    """The settings of one round."""

    number: int
    """From 1; round 0 is the policy that the first one starts from."""
    start: str
    """Policy that is sampled and trained on."""
    sample: SampleConfig
    reward: RewardConfig
    policy: DPOConfig | PPOConfig

    @property
    def made(self) -> str:
        """The folder of the round's policy."""
        return str(Path(self.policy.run.out) / "final")


def plan(config: RoundsConfig, project: Path) -> Plan:
    """The stages that rounds are made of. On the toy world its data is written into the project."""
    if not config.model:
        return replace(toy.plan(config, project), recipe="rounds")
    files = {"prompts": config.data, "texts": "", "demonstrations": ""}
    made = toy.stages(config, project, files)
    given = Optim(lr=GIVEN_LR, schedule="linear", warmup=0.1)
    return replace(
        made,
        recipe="rounds",
        pretrain=(),
        sample=replace(made.sample, model=config.model),
        reward=replace(made.reward, model=config.model, optim=replace(given, lr=1e-5)),
        ppo=replace(made.ppo, model=config.model, optim=given, critic=replace(made.ppo.critic, optim=given)),
        dpo=replace(made.dpo, model=config.model, optim=given),
    )


def first_policy(plan: Plan) -> str:
    """The policy of round 0."""
    return plan.sample.model


def turns(config: RoundsConfig, plan: Plan) -> tuple[RoundPlan, ...]:
    """Every round's settings, each starting from the policy of the round before."""
    stages: dict[str, DPOConfig | PPOConfig] = {"dpo": plan.dpo, "ppo": plan.ppo}
    result: list[RoundPlan] = []
    start = first_policy(plan)
    for number in range(1, config.rounds + 1):
        folder = plan.project / f"round-{number}"

        def run(
            stage: str, settings: RunSettings, folder: Path = folder, number: int = number
        ) -> RunSettings:
            return replace(
                settings, out=str(folder / stage), store=plan.sample.store, seed=config.seed + number
            )

        sampling = replace(
            plan.sample.sampling,
            max_new_tokens=min(plan.sample.sampling.max_new_tokens, config.completion_tokens),
        )
        stage = stages[config.policy]
        optim = replace(stage.optim, lr=config.lr or stage.optim.lr)
        policy = replace(stage, run=run("policy", stage.run), model=start, optim=optim)
        if isinstance(policy, PPOConfig):
            policy = replace(policy, reward_model=str(folder / "reward" / "final"), sampling=sampling)
        turn = RoundPlan(
            number=number,
            start=start,
            sample=replace(
                plan.sample,
                model=start,
                seed=config.seed + number,
                completions_per_prompt=config.completions_per_prompt,
                sampling=sampling,
            ),
            reward=replace(plan.reward, run=run("reward", plan.reward.run)),
            policy=policy,
        )
        result.append(turn if config.annotator != "studio" else _for_people(turn))
        start = turn.made
    return tuple(result)


def _for_people(turn: RoundPlan) -> RoundPlan:
    """The round that reads what people said, in small batches, for they say less."""

    def read(data: Data) -> Data:
        return replace(data, select=replace(data.select, judged_by="human"))

    policy = turn.policy
    if isinstance(policy, DPOConfig):
        policy = replace(policy, data=read(policy.data), batch_size=min(policy.batch_size, 8))
    reward = replace(turn.reward, data=read(turn.reward.data), batch_size=min(turn.reward.batch_size, 8))
    return replace(turn, reward=reward, policy=policy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What rounds stand on: the toy world, or a given model."""

    annotator: SimulatedAnnotator | None
    """Who knows the truth; None if nobody does."""
    first: Mapping[str, Callable[[], object]]
    """Stages that make the policy of round 0, by name; nothing for a given one."""
    settings: Sequence[object]
    """Theirs."""

    @property
    def gold(self) -> Callable[[Prompt, str], float] | None:
        """The true preference."""
        return self.annotator.utility if self.annotator else None


def _toy_world(config: RoundsConfig, plan: Plan) -> Ground:
    (language_model,) = plan.pretrain
    return Ground(
        annotator=simulated_annotator(
            plan.gold.utility,
            flip=config.flip,
            seed=config.seed,
            temperature=plan.temperature,
            sha256=plan.gold.sha256,
        ),
        first={"pretrain": lambda: pretrain.train(language_model), "sft": lambda: sft.train(plan.sft)},
        settings=(language_model, plan.sft),
    )


def _given(config: RoundsConfig, plan: Plan) -> Ground:
    del plan
    gold = find_gold(config.utility)
    annotator = None if gold is None else simulated_annotator(gold, flip=config.flip, seed=config.seed)
    return Ground(annotator=annotator, first={}, settings=())


def loop(config: RoundsConfig, plan: Plan, clock: Clock, world: World, *, command: str) -> Path:
    """All rounds, what came of them, and the report."""
    ground = (_toy_world if plan.pretrain else _given)(config, plan)
    feedback = feedback_of(config, plan, ground.annotator)
    for name, work in ground.first.items():
        clock.train(name, plan.project / name, work, resume=config.resume)
    made = turns(config, plan)
    for turn in made:
        _one(config, turn, feedback, clock, world)
    policies = {f"round {n}": name for n, name in enumerate([first_policy(plan), *(t.made for t in made)])}
    reward_models = [str(Path(turn.reward.run.out) / "final") for turn in made]
    if feedback.arena:
        last = replace(made[-1].sample, model=made[-1].made, part="heldout", seed=config.seed + len(made) + 1)
        clock.stage("sample the last", lambda: sample_completions(last))
    results = clock.stage(
        "evaluate",
        lambda: evaluate(config, plan, policies, reward_models, feedback, gold=ground.gold, world=world),
    )
    settings = [*ground.settings, made[-1].sample, made[-1].reward, made[-1].policy]
    return world.on_main(
        lambda: write_results(plan, results, policies, settings, clock=clock, command=command)
    )


def _one(config: RoundsConfig, turn: RoundPlan, feedback: RoundFeedback, clock: Clock, world: World) -> None:
    """One round's stages."""
    name, project = f"round {turn.number}", Path(turn.reward.run.out)
    clock.stage(f"{name}: sample", lambda: sample_completions(turn.sample))
    clock.stage(f"{name}: compare", lambda: world.on_main(lambda: feedback.compare(turn.number, turn.start)))
    clock.train(f"{name}: reward", project, lambda: reward.train(turn.reward), resume=config.resume)
    policy, folder = turn.policy, Path(turn.policy.run.out)
    if isinstance(policy, DPOConfig):
        clock.train(f"{name}: dpo", folder, lambda: dpo.train(policy), resume=config.resume)
    else:
        clock.train(f"{name}: ppo", folder, lambda: ppo.train(policy), resume=config.resume)
