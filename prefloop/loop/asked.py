"""The chat model that settings name. Behind an address it needs no torch; a checkpoint on this machine does."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from prefloop.configs.judge import AskedModel
from prefloop.feedback.judges import ChatModel, Endpoint, open_endpoint


def open_chat(config: AskedModel, *, temperature: float = 0.0, logprobs: bool = True) -> ChatModel:
    """The model that is asked.

    Args:
        config: Where it is, and how it is asked.
        temperature: Of a command that has a setting of its own for it.
        logprobs: Whether the first token's log-probabilities are read. Of a checkpoint they always are.

    Raises:
        InputError: There is no such checkpoint, or the address is none.
    """
    if config.checkpoint:
        from prefloop.loop.local_judge import LocalChat

        return LocalChat(config.checkpoint, config.compute, temperature=temperature, seed=config.seed)
    return open_endpoint(config, temperature=temperature, logprobs=logprobs)


@contextmanager
def asking(config: AskedModel, *, temperature: float = 0.0, logprobs: bool = True) -> Iterator[ChatModel]:
    """`open_chat` for a while; connections are closed at its end."""
    model = open_chat(config, temperature=temperature, logprobs=logprobs)
    with model if isinstance(model, Endpoint) else nullcontext():
        yield model
