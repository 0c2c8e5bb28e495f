"""The commands: for each its settings, what does the work, and how it is used. Both are named, not imported, until they are needed."""

import difflib
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from prefloop.cli.command import Command
from prefloop.cli.data_commands import DATA
from prefloop.cli.label_commands import LABEL
from prefloop.errors import InputError

CRITIC_FREE = (
    ("grpo", "GRPOConfig", "no critic: rewards standardised in each prompt's group of completions"),
    ("dr_grpo", "DrGRPOConfig", "GRPO without its divisions by deviation and by length"),
    ("dapo", "DAPOConfig", "GRPO with a higher upper clip, token mean and dynamic sampling"),
    ("gspo", "GSPOConfig", "GRPO with one probability ratio for each completion"),
    ("cispo", "CISPOConfig", "GRPO with the clipped ratio as a weight, so every token keeps its gradient"),
    ("rloo", "RLOOConfig", "REINFORCE, each completion against the mean of its prompt's others"),
    ("reinforce", "REINFORCEConfig", "REINFORCE with a running baseline"),
    ("reinforce++", "REINFORCEPlusConfig", "REINFORCE with whitened returns and PPO's clip"),
    ("remax", "ReMaxConfig", "REINFORCE with the greedy completion's score as baseline"),
)
"""Presets of one algorithm: command, settings, summary."""

RECIPES = (
    (
        "toy",
        "ToyConfig",
        "the whole loop in minutes, with nothing to download: a small world of readable English whose gold preference is a formula",
        "",
    ),
    (
        "imdb",
        "IMDBConfig",
        "positive film reviews: real text, and a gold judge fitted on the stars that people gave",
        "--data DATA ",
    ),
    (
        "rounds",
        "RoundsConfig",
        "several rounds of the loop, each with new samples, new comparisons, a new reward model and a new policy",
        "",
    ),
)
"""Of `run`: recipe, settings, summary, flags that must be given besides the project folder."""

STAGES: Mapping[str, Command] = {
    "align": Command(
        summary="make a model better with a file of comparisons, and report whether it is",
        settings="prefloop.configs.align:AlignConfig",
        work="prefloop.recipes.align.run:align",
        examples=(
            "prefloop align --model MODEL --data comparisons.jsonl --out runs/aligned",
            "prefloop align --model MODEL --data comparisons.jsonl --method dpo grpo --minutes 60 --yes true --out runs/aligned",
            "prefloop align --config runs/aligned/config.yaml --resume true",
        ),
    ),
    "plan": Command(
        summary="say what `align` would do with a model and a file of comparisons, and what it would cost",
        settings="prefloop.configs.align:PlanConfig",
        work="prefloop.recipes.align.run:show_plan",
        single=True,
        examples=(
            "prefloop plan --model MODEL --data comparisons.jsonl",
            "prefloop plan --model MODEL --data comparisons.jsonl --method dpo ppo --minutes 60",
        ),
    ),
    "pretrain": Command(
        summary="train a tokenizer and a language model from scratch, on plain text",
        settings="prefloop.configs.pretrain:PretrainConfig",
        work="prefloop.algorithms.pretrain:train",
        examples=("prefloop pretrain --data reviews.parquet --out runs/first/pretrain",),
        then="prefloop sft --model {} --data DEMONSTRATIONS --out RUNS/sft",
    ),
    "sft": Command(
        summary="fine-tune a model on demonstrations and chats",
        settings="prefloop.configs.sft:SFTConfig",
        work="prefloop.algorithms.sft:train",
        examples=("prefloop sft --model runs/first/pretrain/final --data chats.jsonl --out runs/first/sft",),
        then="prefloop sample --model {} --data PROMPTS --store RUNS/prefloop.db",
    ),
    "sample": Command(
        summary="draw completions from a model into the store",
        settings="prefloop.configs.sample:SampleConfig",
        work="prefloop.algorithms.sample:sample_completions",
        examples=(
            "prefloop sample --model runs/first/sft/final --data prompts.jsonl --store runs/first/prefloop.db",
        ),
        then="prefloop label simulate --store {} --utility toy|MODULE:FUNCTION",
    ),
    **LABEL,
    "revise": Command(
        summary="let a model criticise and rewrite completions by a constitution, as demonstrations and comparisons",
        settings="prefloop.configs.judge:ReviseConfig",
        work="prefloop.cli.revise:revise_completions",
        examples=(
            "prefloop revise --store runs/first/prefloop.db --policy runs/first/sft/final --constitution principles.txt "
            "--base_url http://127.0.0.1:8000/v1 --model NAME --demonstrations revised.jsonl",
        ),
        then="prefloop sft --model MODEL --data {} --out RUNS/sl_cai",
        single=True,
    ),
    "reward": Command(
        summary="train a reward model on comparisons",
        settings="prefloop.configs.reward:RewardConfig",
        work="prefloop.recipes.reward:train_and_measure",
        examples=(
            "prefloop reward --model runs/first/sft/final --data store --out runs/first/reward",
            "prefloop reward --model MODEL --data comparisons.jsonl --out runs/first/reward",
            "prefloop reward --loss process --model MODEL --data steps.jsonl --out runs/first/prm",
        ),
        then="prefloop ppo --model MODEL --reward_model {} --data PROMPTS --out RUNS/ppo",
    ),
    "ppo": Command(
        summary="train a policy against a reward model",
        settings="prefloop.configs.ppo:PPOConfig",
        work="prefloop.algorithms.ppo:train",
        examples=(
            "prefloop ppo --model runs/first/sft/final --reward_model runs/first/reward/final "
            "--data prompts.jsonl --out runs/first/ppo",
        ),
        then="prefloop chat {}",
    ),
    "nlpo": Command(
        summary="train a policy against a reward model by PPO restricted to likely tokens",
        settings="prefloop.configs.ppo:NLPOConfig",
        work="prefloop.algorithms.nlpo:train",
        examples=(
            "prefloop nlpo --model SFT --reward_model REWARD --data prompts.jsonl --out runs/first/nlpo",
        ),
        then="prefloop chat {}",
    ),
    "a2c": Command(
        summary="train a policy against a reward model by advantage actor-critic: PPO with one update per batch",
        settings="prefloop.configs.ppo:A2CConfig",
        work="prefloop.algorithms.ppo:train",
        examples=(
            "prefloop a2c --model SFT --reward_model REWARD --data prompts.jsonl --out runs/first/a2c",
        ),
        then="prefloop chat {}",
    ),
    "trpo": Command(
        summary="train a policy against a reward model by natural-gradient steps of bounded KL",
        settings="prefloop.configs.ppo:TRPOConfig",
        work="prefloop.algorithms.trpo:train",
        examples=(
            "prefloop trpo --model SFT --reward_model REWARD --data prompts.jsonl --out runs/first/trpo",
        ),
        then="prefloop chat {}",
    ),
    **{
        name: Command(
            summary=summary,
            settings=f"prefloop.configs.critic_free:{settings}",
            work="prefloop.algorithms.critic_free:train",
            examples=(
                f"prefloop {name} --model SFT --reward_model REWARD --data prompts.jsonl --out runs/first/{name}",
                f"prefloop {name} --model SFT --reward_model rewards:helpful --data prompts.jsonl --out runs/first/{name}",
            ),
            then="prefloop chat {}",
        )
        for name, settings, summary in CRITIC_FREE
    },
    "online_dpo": Command(
        summary="train a policy by DPO on its own pairs, judged by a reward model as they are drawn",
        settings="prefloop.configs.own_samples:OnlineDPOConfig",
        work="prefloop.algorithms.online_dpo:train",
        examples=(
            "prefloop online_dpo --model SFT --reward_model REWARD --data prompts.jsonl --out runs/first/online_dpo",
        ),
        then="prefloop chat {}",
    ),
    "nash_md": Command(
        summary="train a policy to be preferred to a mixture of itself and the reference (Nash mirror descent)",
        settings="prefloop.configs.games:NashMDConfig",
        work="prefloop.algorithms.nash_md:train",
        examples=(
            "prefloop nash_md --model SFT --preference judges:better --data prompts.jsonl --out runs/first/nash_md",
            "prefloop nash_md --model SFT --reward_model REWARD --data prompts.jsonl --out runs/first/nash_md",
        ),
        then="prefloop chat {}",
    ),
    "sppo": Command(
        summary="train a policy on win rates among its own samples, in rounds (self-play preference optimisation)",
        settings="prefloop.configs.games:SPPOConfig",
        work="prefloop.algorithms.sppo:train",
        examples=(
            "prefloop sppo --model SFT --preference judges:better --data prompts.jsonl --out runs/first/sppo",
            "prefloop sppo --model SFT --reward_model REWARD --data prompts.jsonl --out runs/first/sppo",
        ),
        then="prefloop chat {}",
    ),
    "ilql": Command(
        summary="train a policy and Q heads on scored completions (offline reinforcement learning)",
        settings="prefloop.configs.ilql:ILQLConfig",
        work="prefloop.algorithms.ilql:train",
        examples=("prefloop ilql --model SFT --data scores.jsonl --out runs/first/ilql",),
        then="prefloop sample --model {} --ilql_beta 1 --sampling.top_k 20 --data PROMPTS --store RUNS/prefloop.db",
    ),
    "expert": Command(
        summary="train a policy on the best of its own samples (expert iteration, rejection sampling)",
        settings="prefloop.configs.own_samples:ExpertConfig",
        work="prefloop.algorithms.expert:train",
        examples=(
            "prefloop expert --model SFT --reward_model REWARD --data prompts.jsonl --out runs/first/expert",
        ),
        then="prefloop chat {}",
    ),
    "dpo": Command(
        summary="train a policy directly on comparisons",
        settings="prefloop.configs.dpo:DPOConfig",
        work="prefloop.algorithms.dpo:train",
        examples=("prefloop dpo --model runs/first/sft/final --data store --out runs/first/dpo",),
        then="prefloop chat {}",
    ),
    "distill_context": Command(
        summary="train a policy to answer without a context as it does with it",
        settings="prefloop.configs.distill_context:DistillContextConfig",
        work="prefloop.algorithms.distill_context:train",
        examples=(
            "prefloop distill_context --model runs/first/sft/final --context_file principles.txt --data prompts.jsonl --out runs/first/distilled",
        ),
        then="prefloop chat {}",
    ),
    "prefer": Command(
        summary="train a policy directly on comparisons, rankings, labels or scores, by any objective",
        settings="prefloop.configs.prefer:PreferConfig",
        work="prefloop.algorithms.prefer:train",
        examples=(
            "prefloop prefer --loss ipo_sum --model runs/first/sft/final --data store --out runs/first/ipo",
            "prefloop prefer --loss simpo --settings beta=2.5 gamma=1 --model MODEL --data comparisons.jsonl --out runs/first/simpo",
            "prefloop prefer --loss kto --model MODEL --data labels.jsonl --out runs/first/kto",
        ),
        then="prefloop chat {}",
    ),
    "merge": Command(
        summary="merge trainings of one base model, such as SFT and preferences trained separately (PAFT)",
        settings="prefloop.configs.merge:MergeConfig",
        work="prefloop.algorithms.merge:merge",
        single=True,
        examples=(
            "prefloop merge --base BASE --models runs/first/sft/final runs/first/dpo/final --densities 0.2 1 --out runs/first/merged",
        ),
        then="prefloop chat {}",
    ),
    "best_of_n": Command(
        summary="draw n completions of each prompt and use the one that scores highest",
        settings="prefloop.configs.best_of_n:BestOfNConfig",
        work="prefloop.cli.best_of_n:best",
        examples=(
            "prefloop best_of_n --model SFT --reward_model REWARD --data prompts.jsonl --completions_per_prompt 16 --out runs/first/best",
        ),
        then="prefloop sft --model MODEL --data {} --out RUNS/distilled",
    ),
    "eval": Command(
        summary="measure policies, and a reward model, on held-out prompts",
        settings="prefloop.configs.evaluate:EvalConfig",
        work="prefloop.cli.evaluate:evaluate",
        examples=(
            "prefloop eval --policies sft=runs/first/sft/final ppo=runs/first/ppo/final --data prompts.jsonl "
            "--reward_model runs/first/reward/final --out runs/first",
        ),
        then="prefloop report {}",
    ),
    "arena": Command(
        summary="rate the models that were compared, with intervals",
        settings="prefloop.configs.arena:ArenaConfig",
        work="prefloop.cli.arena:arena",
        positional=("files",),
        examples=(
            "prefloop arena battles.csv",
            "prefloop arena annotations.json --baseline text_davinci_003 --outputs outputs.jsonl",
            "prefloop arena --store runs/first/prefloop.db --out runs/first",
            "prefloop arena --store runs/first/prefloop.db --method davidson --clusters both --style",
        ),
        single=True,
    ),
    "study": Command(
        summary="make one of the field's published curves again, with intervals over seeds",
        settings="prefloop.configs.study:StudyConfig",
        work="prefloop.studies.run:study",
        single=True,
        positional=("name",),
        examples=(
            "prefloop study --list",
            "prefloop study votes --data alpaca-eval --out runs/votes",
            "prefloop study all --data DATA --minutes 60 --out runs/studies",
        ),
    ),
    "report": Command(
        summary="build the report of a project folder",
        settings="prefloop.configs.project:ReportConfig",
        work="prefloop.cli.project:report",
        single=True,
        positional=("project",),
        examples=("prefloop report runs/first",),
    ),
    "chat": Command(
        summary="talk to a model in the terminal",
        settings="prefloop.configs.chat:ChatConfig",
        work="prefloop.rollout.chat:chat",
        single=True,
        positional=("model",),
        examples=("prefloop chat runs/first/ppo/final", "echo 'How do I make tea?' | prefloop chat MODEL"),
    ),
    "lineage": Command(
        summary="print the data, labels and models that made a checkpoint",
        settings="prefloop.configs.project:LineageConfig",
        work="prefloop.cli.project:lineage",
        single=True,
        positional=("checkpoint",),
        examples=("prefloop lineage runs/first/ppo/final",),
    ),
    "push": Command(
        summary="put a finished model on the Hugging Face hub, with a card that says what made it",
        settings="prefloop.configs.push:PushConfig",
        work="prefloop.cli.push:push",
        single=True,
        positional=("folder", "name"),
        examples=(
            "prefloop push runs/first/dpo/final team/helpful-dpo --dry_run",
            "prefloop push runs/first/dpo/final team/helpful-dpo --private",
            "prefloop push runs/first/dpo/final/adapter team/helpful-lora --base HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
    ),
    "verify": Command(
        summary="check that checkpoints and finished models are unchanged",
        settings="prefloop.configs.verify:VerifyConfig",
        work="prefloop.cli.verify:verify",
        single=True,
        positional=("folder",),
        examples=("prefloop verify runs/first/sft", "prefloop verify runs/first/ppo/final"),
    ),
    "estimate": Command(
        summary="say what a training needs on GPUs: memory, time and traffic of a step, by arithmetic",
        settings="prefloop.configs.estimate:EstimateConfig",
        work="prefloop.cli.estimate:show_estimate",
        positional=("command",),
        single=True,
        examples=(
            "prefloop estimate --gpus 8 --card H100 -- dpo --model MODEL --data pairs.jsonl --compute.dtype bfloat16 --compute.shard full --out runs/dpo",
            "prefloop estimate --nodes 8 --engine_gpus 8 -- grpo --config grpo.yaml",
        ),
    ),
    "launch": Command(
        summary="write the script with which Slurm, SkyPilot or Kubernetes starts a training on several machines",
        settings="prefloop.configs.launch:LaunchConfig",
        work="prefloop.cli.launch:launch",
        positional=("command",),
        single=True,
        examples=(
            "prefloop launch --slurm --nodes 8 --out dpo.sbatch -- dpo --model MODEL --data pairs.jsonl --compute.shard full --run.save_every 100 --out runs/dpo",
            "prefloop launch --slurm --nodes 5 --engine_gpus 8 --out grpo.sbatch -- grpo --config grpo.yaml",
            "prefloop launch --k8s --nodes 2 --image registry.example.org/prefloop --volume runs --out dpo.yaml -- dpo --config dpo.yaml",
        ),
    ),
    "engine serve": Command(
        summary="start an inference engine (vLLM) for the rollouts of a run",
        settings="prefloop.configs.engine:EngineServeConfig",
        work="prefloop.cli.engine:serve",
        single=True,
        positional=("model",),
        examples=(
            "prefloop engine serve runs/first/sft/final",
            "prefloop engine serve MODEL --gpus 4,5,6,7 --dtype bfloat16",
        ),
    ),
    "engine install": Command(
        summary="make the environment that the engine runs in",
        settings="prefloop.configs.engine:EngineInstallConfig",
        work="prefloop.cli.engine:install_environment",
        single=True,
        examples=("prefloop engine install",),
    ),
    **DATA,
}
"""Every command but `run`, in the order of the loop."""

GROUPS: Mapping[str, str] = {
    "run": "The whole loop in one command, from nothing to a report.",
    "label": "Compare completions in a store.",
    "engine": "Draw rollouts with an inference engine.",
    "data": "Inspect data, and move it into a store and out of it.",
}
"""Words that need a second one."""


def commands() -> dict[str, Command]:
    """Every command, the recipes of `run` first."""
    runs = {
        f"run {name}": Command(
            summary=summary,
            settings=f"prefloop.configs.recipes:{settings}",
            work="prefloop.recipes.run:run_recipe",
            examples=(f"prefloop run {name} {needs}--out runs/{name}",),
        )
        for name, settings, summary, needs in RECIPES
    }
    return runs | dict(STAGES)


def find(arguments: Sequence[str]) -> tuple[str, Command, list[str]]:
    """The command that the first one, two or three arguments name, and the arguments after them.

    Raises `InputError` with the nearest names for a command that is not there.
    """
    known = commands()
    first, *rest = arguments
    if first in known:
        return first, known[first], rest
    if first in GROUPS:
        members = members_of(first)
        if not rest or rest[0].startswith("-"):
            raise InputError(f"prefloop {first} needs a subcommand: {', '.join(members)}")
        for words in (2, 1):  # label user reset, label serve
            word = " ".join(rest[:words])
            if word in members:
                return f"{first} {word}", known[f"{first} {word}"], rest[words:]
        longer = [member.partition(" ")[2] for member in members if member.startswith(f"{rest[0]} ")]
        if longer:
            raise InputError(f"prefloop {first} {rest[0]} needs a subcommand: {', '.join(longer)}")
        raise InputError(f"prefloop {first} {rest[0]} is not a command; {_nearest(rest[0], members)}")
    words = list(dict.fromkeys(name.partition(" ")[0] for name in known))
    raise InputError(f"prefloop {first} is not a command; {_nearest(first, words)}")


def members_of(group: str) -> list[str]:
    """The words of a group's commands after its own."""
    return [name.partition(" ")[2] for name in commands() if name.startswith(f"{group} ")]


def _nearest(given: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {near[0]}?" if near else f"the commands are {', '.join(known)}"


def load(name: str) -> Any:
    """What `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
