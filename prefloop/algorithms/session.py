"""What every stage that learns from its own samples does before its first step and after its last one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from transformers import PreTrainedTokenizerBase

from prefloop.algorithms.batches import Batches
from prefloop.algorithms.inputs import Prompts, Read, prompts, store_of
from prefloop.algorithms.online import draw_rollout, models_of, require_prompts
from prefloop.algorithms.opening import check_prompt_room
from prefloop.algorithms.provenance import Models, RunRecord
from prefloop.configs.common import Compute, Data, RunSettings, Sampling
from prefloop.models.roles import Critic, Policy
from prefloop.rollout import Rollout
from prefloop.rollout.steered import Drawer
from prefloop.runtime import Run, World, start_world
from prefloop.text import decode_completion, load_tokenizer, stop_token_ids


class SessionSettings(Protocol):
    """The settings that a session reads."""

    STAGE: ClassVar[str]

    @property
    def run(self) -> RunSettings: ...
    @property
    def data(self) -> Data: ...
    @property
    def model(self) -> str: ...
    @property
    def reward_model(self) -> str: ...
    @property
    def sampling(self) -> Sampling: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_prompts(self) -> int: ...
    @property
    def compute(self) -> Compute: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A run on prompts: its folder and record, its processes, and how completions of its prompts are drawn."""

    config: SessionSettings
    world: World
    run: Run
    record: RunRecord
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    read: Read
    models: Models
    batches: Batches
    stop_ids: tuple[int, ...]

    def begin(self, *roles: Policy | Critic) -> None:
        """Check that each role has room for the prompts with their completions, and write down that the run begins."""
        for role in roles:
            check_prompt_room(role, self.prompts, new_tokens=self.config.sampling.max_new_tokens)
        self.record.begin(models=self.models, reads=[self.read])

    def draw(
        self,
        policy: Drawer,
        chosen: Sequence[int],
        *,
        k: int,
        first_key: int,
        sampling: Sampling | None = None,
    ) -> Rollout:
        """k completions of this process's share of the prompts `chosen`, see `draw_rollout`; by other than the run's `sampling` if given."""
        return draw_rollout(
            policy,
            self.prompts,
            chosen,
            k=k,
            first_key=first_key,
            sampling=sampling or self.config.sampling,
            seed=self.config.run.seed,
            stop_ids=self.stop_ids,
            decode=lambda ids: decode_completion(self.tokenizer, ids),
            world=self.world,
        )

    def finish(self) -> Path:
        """Write down that the run is done; the folder of the finished policy."""
        self.record.finish(
            self.run.final, kind="policy", step=self.run.total_steps, metrics=self.run.last_metrics
        )
        return self.run.final


@contextmanager
def open_session(
    config: SessionSettings, *, reference: str = "", headline: tuple[str, ...]
) -> Iterator[Session]:
    """Read tokenizer and prompts and open the run; `reference` is the name of another model that is read. All processes together."""
    world = start_world(config.compute.device)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    store = store_of(config.run.out, config.run.store)
    train_prompts, _, read = world.on_main(lambda: prompts(config.data, tokenizer, store))
    require_prompts(train_prompts, config.data.source)
    models = models_of(config, world, reference=reference)
    with (
        Run.open(
            config.run,
            stage=config.STAGE,
            config=config,
            total_steps=config.steps,
            world=world,
            headline=headline,
            reads={"data": read.content, **models.contents},
        ) as run,
        RunRecord(stage=config.STAGE, config=config, settings=config.run, world=world) as record,
    ):
        run.say(read.summary)
        yield Session(
            config=config,
            world=world,
            run=run,
            record=record,
            tokenizer=tokenizer,
            prompts=train_prompts,
            read=read,
            models=models,
            batches=Batches(count=len(train_prompts), size=config.batch_prompts, seed=config.run.seed),
            stop_ids=stop_token_ids(tokenizer),
        )
