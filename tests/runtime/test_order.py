import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.runtime.order import batch_of, steps_in


@given(
    size=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_every_pass_takes_every_example_once(
    size: int, batch_size: int, epochs: int, seed: int
) -> None:  # D8 N8
    per_epoch = steps_in(1, size, batch_size)
    assert steps_in(epochs, size, batch_size) == epochs * per_epoch
    for epoch in range(epochs):
        steps = range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1)
        batches = [batch_of(step, size=size, batch_size=batch_size, seed=seed) for step in steps]
        assert all(0 < len(batch) <= batch_size for batch in batches)
        assert sorted(i for batch in batches for i in batch) == list(range(size))


def test_steps_by_hand() -> None:
    assert steps_in(1, 10, 4) == 3
    assert steps_in(0.5, 10, 4) == 2
    assert steps_in(0.1, 30, 1) == 3  # 0.1 * 30 is 3.0000000000000004
    assert steps_in(0.001, 10, 4) == 1
    with pytest.raises(ValueError, match="size is 0"):
        steps_in(1, 0, 4)


def test_order_depends_on_step_and_seed_alone() -> None:  # R1
    def order(seed: int, epoch: int) -> list[int]:
        return batch_of(epoch + 1, size=50, batch_size=50, seed=seed)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in range(4)}) == 8
    with pytest.raises(ValueError, match="the first is 1"):
        batch_of(0, size=5, batch_size=5, seed=0)
