"""The bench of other ways to do a step: every way computes the same loss, and its figures leave compilation out."""

from dataclasses import replace

import pytest
import torch

from bench import alternatives
from bench.alternatives import Way, batches_of, policy_of, show, step, summary
from prefloop.models import head

PLAIN = Way(size="tiny", length=24, pairs=2, batches=2)


def test_the_ways_of_the_head_and_checkpointing_compute_the_same_loss(monkeypatch: pytest.MonkeyPatch):
    for name in ("CHUNK_ELEMENTS", "KEPT_ELEMENTS"):
        monkeypatch.setattr(head, name, getattr(head, name))  # put back at the end
    batch = batches_of(PLAIN)[0]
    ways = (PLAIN, replace(PLAIN, chunk=4096 * 3, kept=0), replace(PLAIN, checkpointing=True))
    losses, gradients = [], []
    for way in ways:
        policy = policy_of(way)
        losses.append(step(way, policy, batch))
        assert (way.chunk, way.kept) == (head.CHUNK_ELEMENTS, head.KEPT_ELEMENTS)
        gradient = policy.model.get_input_embeddings().weight.grad  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(gradient, torch.Tensor)
        gradients.append(gradient.clone())
        step(way, policy, batch)
        torch.testing.assert_close(gradient, gradients[-1], msg="a gradient is of one step")
        assert policy.model.is_gradient_checkpointing == way.checkpointing
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        assert (gradient - gradients[0]).norm() < 1e-5 * gradients[0].norm()


def test_batches_have_rows_of_changing_length():
    assert len({batch.tokens for batch in batches_of(replace(PLAIN, length=64, batches=6))}) > 3


def test_the_constants_of_the_program_come_first_and_each_way_once():
    ways = alternatives.chunk_ways(PLAIN)
    assert next(iter(ways.values())) == PLAIN
    assert len(set(ways.values())) == len(ways) == 8


def test_a_step_is_the_mean_of_the_batches_medians_after_the_first_pass(capsys: pytest.CaptureFixture[str]):
    seconds = [30.0, 4.0, 1.0, 3.0, 1.0, 5.0, 9.0, 4.0]
    steps = [
        {"processor_seconds": each, "loss": 0.5, "graphs": 2 + n, "breaks": 1}
        for n, each in enumerate(seconds)
    ]
    row = summary(steps, 2)
    assert (row["first_pass"], row["step"], row["graphs"]) == (34.0, 2.5, [2, 3])
    first = {**row, "step": 2.0, "graphs": [0, 0], "breaks": 0, "losses": [0.5, 0.25], "peak_mb": 10.0}
    show({"eager": first, "compiled": {**row, "peak_mb": 20.0}}, 2)
    out = capsys.readouterr().out
    assert "| compiled | 34.0 s | 2.500 s | 1.250 | 20 MB | 2 3 | 1 |" in out
    assert "at most 2.5e-01 apart" in out
