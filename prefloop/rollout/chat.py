"""Talking to a policy in the terminal. With a chat template it remembers what was said; without one it continues each line by itself."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from transformers import PreTrainedTokenizerBase

from prefloop.configs.chat import ChatConfig
from prefloop.data.write import write_jsonl
from prefloop.errors import InputError
from prefloop.models.generation import say_what_is_not_taken
from prefloop.models.load import load_policy
from prefloop.models.roles import Policy
from prefloop.records import Conversation, Demonstration, Message, Prompt
from prefloop.rollout.sampler import room_for
from prefloop.rollout.stream import stream
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids

HELP = """\
/reset              forget the conversation
/temperature 0.7    the sampling temperature; 0 is greedy
/save FILE.jsonl    save the conversation in a format that `prefloop sft` reads
/quit               end (so does Ctrl-D)
//...               send a message that begins with a slash"""

_HALF = "\ufffd"
"""What a character decodes to whose last bytes are not drawn yet."""


def chat(config: ChatConfig) -> None:
    """Read lines from standard input and answer them on standard output, until the input ends."""
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    # One completion at a time has nothing to pack, and decoding wants the model's own attention.
    policy = load_policy(config.model, replace(config.compute, attention="padded"))
    say_what_is_not_taken(policy.model, config.sampling)
    talk = OpenChat(config, policy, tokenizer, sys.stdout)
    interactive = sys.stdin.isatty()
    if interactive:
        way = "a chat" if talk.remembers else "no chat template: it continues each line"
        print(f"{config.model}: {way}. /help lists what else you can type.")
    for line in _lines(interactive):
        try:
            if not talk.hear(line):
                return
        except InputError as error:
            if not interactive:
                raise
            print(f"error: {error}")


def _lines(interactive: bool) -> Iterator[str]:
    if not interactive:
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    import readline  # noqa: F401  gives `input` its history and editing

    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _opening(system: str) -> tuple[Message, ...]:
    """What a conversation begins with: the system message, if there is one."""
    return (Message(role="system", content=system),) if system else ()


class OpenChat:
    """What was said so far, and how answers are drawn."""

    def __init__(
        self, config: ChatConfig, policy: Policy, tokenizer: PreTrainedTokenizerBase, out: TextIO
    ) -> None:
        self.remembers = bool(tokenizer.chat_template)
        opening = _opening(config.system)
        if opening and not self.remembers:
            raise InputError(
                f"system is set, but the tokenizer of {config.model} has no chat template; leave it out"
            )
        self._policy = policy
        self._tokenizer = tokenizer
        self._out = out
        self._sampling = config.sampling
        self._seed = config.seed
        self._opening = opening
        self._messages: tuple[Message, ...] = self._opening
        self._lines: tuple[Demonstration, ...] = ()
        self._answers = 0

    def hear(self, line: str) -> bool:
        """Answer a line, or do what it commands; False if that is to end. Raises `InputError` for what cannot be done."""
        if not line.strip():
            return True
        if line.startswith("/") and not line.startswith("//"):
            return self._obey(line)
        text = line.removeprefix("/") if line.startswith("//") else line
        if not self.remembers:
            prompt = Prompt(content=text)
            self._lines += (
                Demonstration(prompt=prompt, completion=self._answer(encode_prompt(self._tokenizer, prompt))),
            )
            return True
        messages = (*self._messages, Message(role="user", content=text))
        messages, ids = self._fit(messages)
        answer = self._answer(ids)
        self._messages = (*messages, Message(role="assistant", content=answer))
        return True

    def _fit(self, messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], list[int]]:
        """The chat as tokens; its oldest turns are forgotten, and that is said, until the model has room to answer."""
        first = len(self._opening)
        while True:
            ids = encode_prompt(self._tokenizer, Prompt(content=messages))
            try:
                room_for(self._policy.model, ids, self._sampling.max_new_tokens)
                return messages, ids
            except InputError:
                if len(messages) <= first + 2:
                    raise
            messages = (*messages[:first], *messages[first + 2 :])
            self._print("[the context is full: the oldest turn is dropped]\n")

    def _answer(self, prompt: list[int]) -> str:
        """Draw an answer and print it as it comes."""
        self._answers += 1
        stops = stop_token_ids(self._tokenizer)
        room = room_for(self._policy.model, prompt, self._sampling.max_new_tokens)
        drawn: list[int] = []
        text, shown = "", 0
        note = ""
        try:
            for token in stream(
                self._policy.model,
                prompt,
                stop_ids=stops,
                sampling=replace(self._sampling, max_new_tokens=room),
                seed=self._seed,
                key=self._answers,
            ):
                drawn.append(token)
                text = decode_completion(self._tokenizer, drawn)
                ready = text.rstrip(_HALF)
                self._print(ready[shown:])
                shown = len(ready)
        except KeyboardInterrupt:
            note = " [stopped]"
        self._print(text[shown:])
        if not note and (not drawn or drawn[-1] not in stops):
            note = f" [cut at {room} tokens]"
        self._print(f"{note}\n")
        return text

    def _obey(self, line: str) -> bool:
        command, _, argument = line.strip().partition(" ")
        match command:
            case "/quit" | "/exit":
                return False
            case "/help":
                self._print(f"{HELP}\n")
            case "/reset":
                self._messages, self._lines = self._opening, ()
            case "/temperature":
                self._sampling = replace(self._sampling, temperature=_number(argument))
            case "/save":
                self._save(argument.strip())
            case _:
                raise InputError(
                    f"{command} is not a command; the commands are /reset, /temperature, /save, /help and /quit"
                )
        return True

    def _save(self, name: str) -> None:
        if not name:
            raise InputError("/save has no file; write for example /save chat.jsonl")
        if Path(name).exists():
            raise InputError(f"{name} exists already; name another file")
        turns = self._messages[len(self._opening) :]
        if not turns and not self._lines:
            raise InputError("there is nothing to save yet")
        write_jsonl([Conversation(messages=self._messages)] if self.remembers else self._lines, name)
        self._print(f"[saved to {name}]\n")

    def _print(self, text: str) -> None:
        """Print at once; control characters that a model has drawn are written out, so that they cannot drive the terminal."""
        self._out.write("".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text))
        self._out.flush()


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(
            f"temperature is {text!r}; it must be a number, for example /temperature 0.7"
        ) from None
    return value
