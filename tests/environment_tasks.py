"""A game of several turns for GRPO and PPO: `python -m tests.environment_tasks` plays it over three seeds. docs/environments.md says what was measured.

The game is that of `examples/guess_number.py` with 3 numbers and 2 guesses. The policy, a model of two layers that is trained from scratch, first
imitates 400 games of a player who heeds the answers half of the time. Who guesses 2 first, and then does as told, always wins.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from examples.guess_number import GuessNumber
from prefloop.algorithms import critic_free, ppo, sft
from prefloop.configs.common import Compute, Data, Optim, RunSettings, Sampling
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.environments import EnvironmentSettings
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig
from prefloop.configs.pretrain import Architecture
from prefloop.configs.sft import SFTConfig
from prefloop.models.load import new_language_model, save_policy
from prefloop.records import Message, Prompt
from prefloop.runtime.journal import read_metrics
from prefloop.text import train_tokenizer

SEEDS = (0, 1, 2)
METHODS = ("grpo", "ppo")
MOST, TURNS = 3, 2
STEPS = 40
LAST = 10
"""Steps at the end that are averaged."""
LEVEL = 0.85
"""Share of games that must be won at the end."""
CPU = Compute(device="cpu")
SIZE = Architecture(hidden_size=48, layers=2, heads=2, ffn_size=96, vocab_size=300, max_positions=96)


def small_game() -> GuessNumber:
    """The environment."""
    return GuessNumber(MOST)


def careless_game(seed: int) -> list[Message]:
    """A game of a player who half of the time guesses at random, and else a number that can still be right; up to the last guess."""
    game, player, left = small_game(), random.Random(-seed), set(range(1, MOST + 1))
    chat = [Message(role="user", content=f"game {seed % 32}")]
    game.reset(Prompt(content=tuple(chat)), seed)
    for turn in range(TURNS):
        among = sorted(left) if player.random() < 0.5 else range(1, MOST + 1)
        guess = player.choice(among)
        chat.append(Message(role="assistant", content=str(guess)))
        answers, _, done = game.step(chat)
        if done or turn == TURNS - 1:
            break
        chat += answers
        higher = answers[0].content == "higher"
        left = {number for number in left if (number > guess if higher else number < guess)} or left
    return chat


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def make_player(folder: Path, seed: int) -> Path:
    """A model that plays as the careless player does."""
    games = [careless_game(1 + number) for number in range(400)]
    tokenizer = train_tokenizer((message.content for game in games for message in game), vocab_size=300)
    start = folder / "start"
    save_policy(new_language_model(SIZE, tokenizer, CPU, seed=seed), tokenizer, start)
    games_file = write(
        folder / "games.jsonl", [{"messages": [message.to_json() for message in game]} for game in games]
    )
    return sft.train(
        SFTConfig(
            run=RunSettings(out=str(folder / "sft"), seed=seed),
            data=Data(source=games_file, heldout=0.0),
            model=str(start),
            epochs=10,
            batch_size=32,
            optim=Optim(lr=5e-3, schedule="cosine"),
            compute=CPU,
        )
    )


def learn(method: str, player: Path, folder: Path, seed: int, steps: int) -> list[float]:
    """Train the player; the share of games won at every step."""
    shared: dict[str, Any] = {
        "run": RunSettings(out=str(folder / method), seed=seed),
        "data": Data(
            source=write(folder / "prompts.jsonl", [{"prompt": f"game {n}"} for n in range(32)]),
            heldout=0.0,
            chat=True,
        ),
        "model": str(player),
        "environment": EnvironmentSettings(name="tests.environment_tasks:small_game", max_turns=TURNS),
        "sampling": Sampling(max_new_tokens=2, batch_size=128),
        "steps": steps,
        "batch_prompts": 16,
        "completions_per_prompt": 8,
        "kl": KL(coef=0.0),
        "optim": Optim(lr=2e-3, schedule="linear"),
        "compute": CPU,
    }
    if method == "grpo":
        critic_free.train(GRPOConfig(**shared, epochs=2, minibatches=4))
    else:
        ppo.train(
            PPOConfig(**shared, epochs=2, minibatches=4, critic=CriticSettings(start="shared", coef=0.1))
        )
    return [row["score"] for row in read_metrics(folder / method / "metrics.jsonl")]


def main() -> int:
    """Run all seeds; 1 if a level is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", nargs="*", default=list(METHODS))
    parser.add_argument("--seed", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    rows, missed = (
        ["| method | seed | won at first | won at the end | minutes |", "| -- | -- | -- | -- | -- |"],
        0,
    )
    for seed in given.seed:
        with tempfile.TemporaryDirectory() as name:
            player = make_player(Path(name), seed)
            for method in given.method:
                began = time.process_time()
                won = learn(method, player, Path(name), seed, given.steps)
                first, last = (sum(part) / len(part) for part in (won[:3], won[-LAST:]))
                minutes = (time.process_time() - began) / 60
                rows.append(f"| {method} | {seed} | {first:.2f} | {last:.2f} | {minutes:.1f} |")
                missed += last < LEVEL
                print(
                    rows[-1], " ".join(f"{value:.2f}" for value in won[:: max(1, len(won) // 12)]), flush=True
                )
    print("\n".join(rows))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
