"""The one data shape: a prompt and its K completions, as token ids."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One prompt and K >= 1 completions. `masks` is True on the tokens the policy is trained on or chose.

    A prompt has at least one token (the start token where the text is empty): the first completion token is predicted from it.
    """

    prompt: Sequence[int]
    completions: tuple[Sequence[int], ...]
    masks: tuple[Sequence[bool], ...]

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError(
                "a group's prompt has no token; begin it with the tokenizer's start (or end) token"
            )
        if not self.completions:
            raise ValueError("a group has no completion; it needs one or more")
        for index, (completion, mask) in enumerate(zip(self.completions, self.masks, strict=True)):
            if not completion:
                raise ValueError(f"completion {index} of a group has no token; it needs one or more")
            if len(completion) != len(mask):
                raise ValueError(f"completion {index} has {len(completion)} tokens but a mask of {len(mask)}")

    @property
    def tokens(self) -> int:
        """Tokens of the packed row: the prompt once, each completion once."""
        return len(self.prompt) + sum(map(len, self.completions))

    def take(self, places: Iterable[int]) -> "Group":
        """The prompt with the completions at these places, in this order."""
        chosen = list(places)
        return Group(
            prompt=self.prompt,
            completions=tuple(self.completions[j] for j in chosen),
            masks=tuple(self.masks[j] for j in chosen),
        )


def cut_by_tokens(groups: Iterable[Group], budget: int) -> Iterator[list[Group]]:
    """Cut groups into micro-batches of at most `budget` tokens, in order; a longer single group goes alone."""
    micro_batch: list[Group] = []
    tokens = 0
    for group in groups:
        if micro_batch and tokens + group.tokens > budget:
            yield micro_batch
            micro_batch, tokens = [], 0
        micro_batch.append(group)
        tokens += group.tokens
    if micro_batch:
        yield micro_batch
