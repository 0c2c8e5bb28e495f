"""`prefloop run toy`: from nothing to PPO and DPO policies in minutes on two cores.

A seeded generator writes the world; a byte-level BPE tokenizer and a language model of about a million weights are trained on it; SFT is on
demonstrations that are good, middling and bad, as real ones are; a simulated annotator with 10 % flipped answers compares samples.
"""

from pathlib import Path

from prefloop.configs.common import Data, Optim, RunSettings, Sampling
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig, RewardShaping
from prefloop.configs.pretrain import Architecture, PretrainConfig
from prefloop.configs.recipes import ToyConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sample import SampleConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data import write_jsonl
from prefloop.data.toy_world import ToyWorld
from prefloop.feedback.gold import ToyJudge
from prefloop.recipes.plan import Plan
from prefloop.records import Text

HELDOUT = 0.2
"""Share of questions, by hash, that nothing is trained on."""


def plan(config: ToyConfig, project: Path) -> Plan:
    """Write the world's texts, demonstrations and prompts into the project, and say how each stage is run."""
    return stages(config, project, world_files(config, project))


def world_files(config: ToyConfig, project: Path) -> dict[str, str]:
    """The files `texts`, `demonstrations` and `prompts`, written where one of them is not there."""
    data = project / "data"
    files = {name: str(data / f"{name}.jsonl") for name in ("texts", "demonstrations", "prompts")}
    if not all(Path(file).exists() for file in files.values()):
        world = ToyWorld(config.seed)
        data.mkdir(parents=True, exist_ok=True)
        demonstrations = world.demonstrations(config.demonstrations)
        # Replies as documents too: how a reply begins must be in the tokenizer's vocabulary and the language model's experience.
        replies = [Text(text=demonstration.completion) for demonstration in demonstrations]
        write_jsonl([*world.texts(config.texts), *replies], files["texts"])
        write_jsonl(demonstrations, files["demonstrations"])
        write_jsonl(world.prompts(config.prompts), files["prompts"])
    return files


def stages(config: ToyConfig, project: Path, files: dict[str, str]) -> Plan:
    """The settings of every stage, on data in these files."""
    sft = str(project / "sft" / "final")
    prompts = Data(source=files["prompts"], heldout=HELDOUT)
    online = OnlineSampling(max_new_tokens=48, batch_size=128)
    sampling = Sampling(max_new_tokens=online.max_new_tokens, batch_size=online.batch_size)
    return Plan(
        recipe="toy",
        settings=config,
        project=project,
        pretrain=(_pretrain(config, project, files["texts"]),),
        sft=SFTConfig(
            run=_run(config, project, "sft"),
            data=Data(source=files["demonstrations"], heldout=HELDOUT),
            model=str(project / "pretrain" / "final"),
            batch_size=32,
            epochs=2,
            optim=Optim(lr=1e-3, schedule="cosine", warmup=0.03),
            compute=config.compute,
        ),
        sample=SampleConfig(
            model=sft,
            data=prompts,
            store=str(project / "prefloop.db"),
            completions_per_prompt=2,
            part="all",
            seed=config.seed,
            sampling=sampling,
            compute=config.compute,
        ),
        pairs=config.pairs,
        gold=ToyJudge(),
        temperature=0.25,
        reward=RewardConfig(
            run=_run(config, project, "reward"),
            data=Data(source="store", heldout=HELDOUT),
            model=sft,
            batch_size=32,
            epochs=1,
            optim=Optim(lr=5e-4, schedule="linear", warmup=0.1),
            compute=config.compute,
        ),
        ppo=_ppo(config, project, prompts, online),
        dpo=DPOConfig(
            run=_run(config, project, "dpo"),
            data=Data(source="store", heldout=HELDOUT),
            model=sft,
            beta=0.1,
            batch_size=32,
            epochs=1,
            optim=Optim(lr=2e-4, schedule="linear", warmup=0.1),
            compute=config.compute,
        ),
        evaluation=sampling,
        best_of=16,
    )


def _run(config: ToyConfig, project: Path, stage: str) -> RunSettings:
    return RunSettings(out=str(project / stage), seed=config.seed, resume=config.resume, save_every=100)


def _pretrain(config: ToyConfig, project: Path, texts: str) -> PretrainConfig:
    return PretrainConfig(
        run=_run(config, project, "pretrain"),
        data=Data(source=texts, heldout=0.02),
        architecture=Architecture(
            hidden_size=128, layers=4, heads=4, ffn_size=352, vocab_size=1536, max_positions=256
        ),
        block_tokens=128,
        batch_blocks=16,
        epochs=1,
        optim=Optim(lr=3e-3, schedule="cosine", warmup=0.05, weight_decay=0.1),
        compute=config.compute,
    )


def _ppo(config: ToyConfig, project: Path, prompts: Data, sampling: OnlineSampling) -> PPOConfig:
    return PPOConfig(
        run=_run(config, project, "ppo"),
        data=prompts,
        model=str(project / "sft" / "final"),
        reward_model=str(project / "reward" / "final"),
        sampling=sampling,
        steps=24,
        batch_prompts=128,
        epochs=2,
        minibatches=2,
        kl=KL(coef=0.15),
        reward=RewardShaping(missing_eos=1.0),
        critic=CriticSettings(optim=Optim(lr=1e-3, schedule="constant")),
        optim=Optim(lr=3e-4, schedule="linear", warmup=0.05),
        compute=config.compute,
    )
