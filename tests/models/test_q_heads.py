"""Q heads: what is computed in chunks is what a full table would say; targets follow; a folder gives them back."""

from pathlib import Path

import pytest
import torch

from prefloop.errors import InputError
from prefloop.models import q_heads
from prefloop.models.q_heads import FOLDER, QHeads, load_q_heads


@pytest.fixture
def heads() -> QHeads:
    """With last layers that say something."""
    made = QHeads(6, 11, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "outer" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


HIDDEN = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
ACTIONS = torch.tensor([0, 10, 3, 3, 7, 1, 2, 5, 9])


def test_a_fresh_head_values_nothing_and_both_differ_inside():
    fresh = QHeads(6, 11, seed=0)
    assert not fresh.values(HIDDEN).any()
    assert not fresh.advantages(HIDDEN).any()
    one, two = fresh.q
    assert not torch.equal(one.inner.weight, two.inner.weight)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    for source, target in zip(fresh.q.parameters(), fresh.target.parameters(), strict=True):
        assert torch.equal(source, target)
        assert source.requires_grad
        assert not target.requires_grad


@pytest.mark.parametrize("chunk", [1, 33, 1 << 22])
def test_chosen_is_the_full_table_at_the_actions(chunk: int, heads: QHeads, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(q_heads, "CHUNK_ELEMENTS", chunk)
    for head, (q, surprise) in zip(heads.q, heads.chosen(HIDDEN, ACTIONS), strict=True):
        full = head(HIDDEN)
        torch.testing.assert_close(q, full.gather(1, ACTIONS[:, None]).squeeze(1))
        torch.testing.assert_close(
            surprise, torch.nn.functional.cross_entropy(full, ACTIONS, reduction="none")
        )
        ours = torch.autograd.grad((q + 2 * surprise).sum(), list(head.parameters()), retain_graph=True)
        expected = full.gather(1, ACTIONS[:, None]).sum() + 2 * torch.nn.functional.cross_entropy(
            full, ACTIONS, reduction="sum"
        )
        for a, b in zip(ours, torch.autograd.grad(expected, list(head.parameters())), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_targets_are_the_smaller_of_both(heads: QHeads):
    tables = torch.stack([head(HIDDEN) for head in heads.target])
    smaller = tables.min(0).values
    torch.testing.assert_close(
        heads.target_chosen(HIDDEN, ACTIONS), smaller.gather(1, ACTIONS[:, None]).squeeze(1)
    )
    torch.testing.assert_close(heads.advantages(HIDDEN), smaller - heads.values(HIDDEN)[:, None])


def test_targets_follow_by_a_share(heads: QHeads):
    before = [parameter.clone() for parameter in heads.target.parameters()]
    heads.follow(0.25)
    for old, new, source in zip(before, heads.target.parameters(), heads.q.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * source)
    heads.follow(1.0)
    for new, source in zip(heads.target.parameters(), heads.q.parameters(), strict=True):
        assert torch.equal(new, source)


def test_a_folder_gives_them_back(heads: QHeads, tmp_path: Path):
    heads.save(tmp_path / FOLDER)
    again = load_q_heads(tmp_path, torch.device("cpu"))
    for (name, a), (other, b) in zip(heads.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    with pytest.raises(InputError, match=r"has no Q heads .*trained by `prefloop ilql`"):
        load_q_heads(tmp_path / "elsewhere", torch.device("cpu"))
