"""TRL's side of a case: `python theirs.py STAGE MATERIAL`, in an environment that has TRL and nothing of prefloop.

In float32 on the CPU, unless the conditions in the environment (`bench.versus.cases.Conditions`) say otherwise.
"""

import importlib.util
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from datasets import load_dataset
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from bench.versus.cases import (
    BETA,
    FILES,
    GENERATION_PROMPT,
    GROUP,
    GROUP_UPDATES,
    LEARNING_RATE,
    PPO_MINIBATCHES,
    SEED,
    Conditions,
)
from bench.versus.pace import Pace

CONDITIONS = Conditions.told()
ON_GPU = CONDITIONS.device == "cuda"
STAGE = sys.argv[1]
FEW_BITS = CONDITIONS.bf16 and (ON_GPU or CONDITIONS.lora > 0 or STAGE == "generation")
DTYPE = torch.bfloat16 if FEW_BITS else torch.float32
"""Of the weights. Where all of them are trained in bfloat16 on a processor, they stay float32 and only products are coarse (autocast), as ours do."""


class Paced(TrainerCallback):
    """Does the trainer's work in turns of so many steps, when the parent says so. Fetching the batch falls outside the time, to the trainer's favour."""

    def __init__(self, pace, steps=1):
        self.pace, self.steps, self.done, self.turn, self.answer = pace, steps, 0, None, None

    def on_train_begin(self, args, state, control, **_):
        self.pace.ready()

    def on_step_begin(self, args, state, control, **_):
        if self.turn is None:
            self.begin()

    def begin(self):
        self.turn = ExitStack()
        self.answer = self.turn.enter_context(self.pace.step())

    def end(self):
        self.done += 1
        if self.done % self.steps == 0:
            self.turn.close()
            self.turn = None


class PacedOffline(Paced):
    """A step a turn; its loss is known once it is logged, after the step's end."""

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.answer["loss"] = logs["loss"]
            self.answer["tokens_so_far"] = logs.get("num_tokens")
            self.end()


class PacedOnline(Paced):
    """A round a turn: sampling falls into the first of its steps."""

    def on_step_end(self, args, state, control, **_):
        self.end()


class PacedPPO(Paced):
    """This trainer says when a round ends, not when it begins."""

    def on_train_begin(self, args, state, control, **_):
        self.pace.ready()
        self.begin()

    def on_step_end(self, args, state, control, **_):
        self.end()
        self.begin()


def common(stage):
    """No gradient checkpointing, nothing written; on a GPU Liger's kernels, where they are installed."""
    return {
        "use_liger_kernel": ON_GPU and importlib.util.find_spec("liger_kernel") is not None,
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": CONDITIONS.batch_size(stage),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_steps": 10_000,
        "bf16": CONDITIONS.bf16,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "seed": SEED,
        "disable_tqdm": True,
        "use_cpu": not ON_GPU,
    }


def adapters(task):
    """Those that are trained, as an argument of a trainer."""
    if not CONDITIONS.lora:
        return {}
    from peft import LoraConfig

    config = LoraConfig(
        r=CONDITIONS.lora,
        lora_alpha=2 * CONDITIONS.lora,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type=task,
    )
    return {"peft_config": config}


def adapted(model, task):
    """The model with its adapters, where no trainer puts them in."""
    if not CONDITIONS.lora:
        return model
    from peft import get_peft_model

    return get_peft_model(model, adapters(task)["peft_config"])


def rows(stage, material):
    file = material / f"{FILES.get(stage, 'comparisons')}.jsonl"
    return load_dataset("json", data_files=str(file), split="train", cache_dir=tempfile.mkdtemp())


def causal(material):
    return AutoModelForCausalLM.from_pretrained(material / "policy", dtype=DTYPE)


def scorer(material):
    return AutoModelForSequenceClassification.from_pretrained(material / "reward_model", dtype=DTYPE)


def offline(stage, material, pace):
    """The trainer as its documentation shows it."""
    model, extra = None, {"max_length": CONDITIONS.max_tokens}
    if stage == "dpo":
        from trl import DPOConfig as Config
        from trl import DPOTrainer as Base

        extra |= {"beta": BETA}
    elif stage == "kto":
        from trl import KTOConfig as Config
        from trl import KTOTrainer as Base

        extra |= {"beta": BETA}
    elif stage == "orpo":
        from trl.experimental.orpo import ORPOConfig as Config
        from trl.experimental.orpo import ORPOTrainer as Base
    elif stage == "sft":
        from trl import SFTConfig as Config
        from trl import SFTTrainer as Base

        extra |= {"packing": os.environ.get("PACKING") == "1"}
    else:
        from trl import RewardConfig as Config
        from trl import RewardTrainer as Base

        model = scorer(material)

    class InOrder(Base):
        def _get_train_sampler(self, *args, **kwargs):
            return SequentialSampler(self.train_dataset)

    InOrder(
        model=model or causal(material),
        args=Config(**common(stage), **extra),
        train_dataset=rows(stage, material),
        processing_class=AutoTokenizer.from_pretrained(material / "policy"),
        callbacks=[PacedOffline(pace)],
        **adapters("SEQ_CLS" if stage == "reward" else "CAUSAL_LM"),
    ).train()


def grouped(stage, material, pace):
    """GRPO and RLOO: a round is sampled at once and learned from in several steps."""
    import trl

    name = stage.upper()
    settings = common(stage) | {
        "per_device_train_batch_size": CONDITIONS.rollouts // GROUP_UPDATES,
        "steps_per_generation": GROUP_UPDATES,
        "num_generations": GROUP,
        "max_completion_length": CONDITIONS.new_tokens,
        "beta": 0.04,
    }
    if stage == "grpo":
        settings |= {"loss_type": "grpo"}
    tokenizer = AutoTokenizer.from_pretrained(material / "policy", padding_side="left")
    getattr(trl, f"{name}Trainer")(
        model=causal(material),
        reward_funcs=scorer(material),
        args=getattr(trl, f"{name}Config")(**settings),
        train_dataset=rows(stage, material),
        processing_class=tokenizer,
        reward_processing_classes=AutoTokenizer.from_pretrained(material / "policy"),
        callbacks=[PacedOnline(pace, GROUP_UPDATES)],
        **adapters("CAUSAL_LM"),
    ).train()


def ppo(stage, material, pace):
    """The last release that has PPO."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(material / "policy", padding_side="left")
    prompts = rows(stage, material).map(
        lambda row: {"input_ids": tokenizer(row["prompt"])["input_ids"]}, remove_columns=["prompt"]
    )
    settings = common(stage) | {
        "per_device_train_batch_size": CONDITIONS.rollouts,
        "num_ppo_epochs": CONDITIONS.ppo_epochs,
        "num_mini_batches": PPO_MINIBATCHES,
        "total_episodes": CONDITIONS.rollouts * 10_000,
        "response_length": CONDITIONS.new_tokens,
        "temperature": 1.0,
        "stop_token": "eos",
        "num_sample_generations": 0,
    }
    PPOTrainer(
        args=PPOConfig(**settings),
        processing_class=tokenizer,
        model=causal(material),
        ref_model=None if CONDITIONS.lora else causal(material),
        reward_model=scorer(material),
        value_model=adapted(scorer(material), "SEQ_CLS"),
        train_dataset=prompts,
        callbacks=[PacedPPO(pace)],
        **adapters("CAUSAL_LM"),
    ).train()


def generate(stage, material, pace):
    """`generate` of transformers, as TRL calls it in its trainers on a CPU."""
    model = adapted(causal(material), "CAUSAL_LM").eval()
    generator = torch.Generator().manual_seed(SEED)
    shape = (CONDITIONS.rollouts, GENERATION_PROMPT)
    prompts = torch.randint(10, model.config.vocab_size, shape, generator=generator)
    pace.ready()
    while True:
        with pace.step(), torch.no_grad():
            out = model.generate(
                input_ids=prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                top_k=0,
                min_new_tokens=CONDITIONS.new_tokens,
                max_new_tokens=CONDITIONS.new_tokens,
            )
        assert out.shape[1] == GENERATION_PROMPT + CONDITIONS.new_tokens


if __name__ == "__main__":
    if os.environ.get("TUNED") == "1":
        torch.set_float32_matmul_precision("medium")
    stage, material = STAGE, Path(sys.argv[2])
    run = {"generation": generate, "ppo": ppo, "grpo": grouped, "rloo": grouped}.get(stage, offline)
    run(stage, material, Pace(torch.cuda.synchronize if ON_GPU else None))
