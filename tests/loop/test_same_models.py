"""A hub model whose weights differ between machines is an error: each machine loads it from the hub by itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from prefloop.errors import InputError
from prefloop.loop import provenance
from prefloop.loop.provenance import models_read, same_models
from prefloop.runtime.machines import Peer
from prefloop.runtime.world import World

NAME = "team/model"


class Second(World):
    """The process of the second machine; the first one says that the model's weights are `theirs`."""

    def __init__(self, theirs: str) -> None:
        peers = [Peer(host=host, leads=True, launcher="") for host in ("home", "guest")]
        super().__init__(rank=1, size=2, device=torch.device("cpu"), peers=peers)
        self._theirs = theirs

    def on_main(self, work: Callable[[], Any]) -> Any:
        return dict.fromkeys(work(), self._theirs)

    def together(self, work: Callable[[], Any]) -> Any:
        return work()


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that gives this machine the weights `ours`."""
    monkeypatch.setattr(provenance, "bring_models", lambda world, *names: None)
    monkeypatch.setattr(provenance, "weights_sha256", lambda name: "ours")


@pytest.mark.parametrize("read", [same_models, lambda world, name: models_read(world, model=name)])
def test_other_weights_under_a_hub_name_are_refused(read: Callable[[World, str], object]) -> None:
    read(Second("ours"), NAME)
    with pytest.raises(
        InputError, match=r"'team/model' has other weights on guest \(process 1\) than on home \(process 0\)"
    ):
        read(Second("theirs"), NAME)


def test_a_folder_that_is_here_or_was_sent_is_not_hashed(tmp_path: Any) -> None:
    same_models(Second("theirs"), str(tmp_path))


def test_one_machine_has_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "weights_sha256", lambda name: pytest.fail(f"{name} was hashed"))
    same_models(World(rank=0, size=1, device=torch.device("cpu")), NAME)
