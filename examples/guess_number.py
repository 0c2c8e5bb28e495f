"""A game of many turns: the environment thinks of a number, the policy guesses, and is told whether the number is higher or lower.

With 7 numbers and 3 guesses, halving what is left always wins; guessing at random wins three times in seven.

    prefloop grpo --model MODEL --environment examples/guess_number.py:GuessNumber --environment.max_turns 3 --data prompts.jsonl --out RUN
"""

import random
from collections.abc import Sequence

from prefloop.environments import Opening
from prefloop.records import Message, Prompt


class GuessNumber:
    """Thinks of a number, the same one for all conversations of a prompt."""

    def __init__(self, most: int = 7) -> None:
        """Numbers are 1 to `most`."""
        self.most = most

    def reset(self, prompt: Prompt, seed: int) -> Opening:
        """Think of a number, and say what the prompt says."""
        self.number = random.Random(seed).randint(1, self.most)
        return prompt.content

    def step(self, messages: Sequence[Message]) -> tuple[list[Message], float, bool]:
        """Answer a guess: 1 for the right one."""
        said = messages[-1].content.strip()
        guess = int(said) if said.isdecimal() and len(said) < 4 else None
        if guess == self.number:
            return [], 1.0, True
        answer = "a number" if guess is None else "higher" if guess < self.number else "lower"
        return [Message(role="user", content=answer)], 0.0, False
