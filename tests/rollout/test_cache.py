"""The slot cache against a dictionary that remembers every token's keys and values."""

import random

import torch

from prefloop.rollout.cache import PrefillCache, SlotCache

HEADS, SIZE, SLOTS, COLUMNS = 3, 4, 5, 12
CPU = torch.device("cpu")


def states(rows: int, columns: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values as attention layers make them: a transposed view, values wider than keys."""
    return tuple(
        torch.randn(rows, columns, HEADS, size, generator=generator).transpose(1, 2)
        for size in (SIZE, SIZE + 2)
    )  # pyright: ignore[reportReturnType]


def test_any_order_of_fills_steps_and_moves_keeps_every_completion_its_own():  # M13
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    for _ in range(40):
        cache = SlotCache(slots=SLOTS, columns=COLUMNS, device=CPU)
        remembered: list[list[tuple[torch.Tensor, torch.Tensor]]] = []  # by slot, then position
        for _ in range(25):
            action = rng.choice(["fill", "step", "step", "step", "move"])
            if action == "fill":
                prefill, length = PrefillCache(), rng.randint(1, 5)
                keys, values = states(2, length, generator)
                prefill.update(keys, values, 0)
                room = [*range(len(remembered), SLOTS)]
                slots = rng.sample(range(len(remembered)), rng.randint(0, len(remembered))) + room[:1]
                sources = [rng.randint(0, 1) for _ in slots]
                cache.fill(slots, prefill, sources)
                for slot, source in zip(slots, sources, strict=True):
                    kept = [(keys[source, :, c], values[source, :, c]) for c in range(rng.randint(1, length))]
                    remembered[slot : slot + 1] = [kept]
            elif action == "move" and len(remembered) > 2:
                target = rng.randrange(len(remembered) - 1)
                cache.move([len(remembered) - 1], [target], max(map(len, remembered)))
                remembered[target] = remembered.pop()
            elif remembered and max(map(len, remembered)) < COLUMNS:
                n, visible = len(remembered), max(map(len, remembered)) + 1
                cache.step(torch.tensor([len(row) for row in remembered]), visible)
                keys, values = states(n, 1, generator)
                seen_keys, seen_values = cache.update(keys, values, 0)
                assert seen_keys.shape == (n, HEADS, visible, SIZE)
                assert seen_values.shape == (n, HEADS, visible, SIZE + 2)
                for slot, row in enumerate(remembered):
                    row.append((keys[slot, :, 0], values[slot, :, 0]))
                    for position, (key, value) in enumerate(row):
                        assert torch.equal(seen_keys[slot, :, position], key)
                        assert torch.equal(seen_values[slot, :, position], value)


def test_memory_is_set_aside_once_and_read_through_views():
    cache = SlotCache(slots=2, columns=8, device=CPU)
    generator = torch.Generator().manual_seed(0)
    addresses = set()
    for position in range(8):
        cache.step(torch.tensor([position, position]), position + 1)
        keys, _ = cache.update(*states(2, 1, generator), 0)
        addresses.add(keys.data_ptr())
    assert len(addresses) == 1


def test_columns_never_written_are_zero_so_that_hiding_them_is_enough():  # M8
    cache = SlotCache(slots=2, columns=8, device=CPU)
    cache.step(torch.tensor([0, 6]), 7)
    keys, values = cache.update(*states(2, 1, torch.Generator().manual_seed(0)), 0)
    assert keys[0, :, 1:].abs().sum() == 0
    assert values[1, :, :6].abs().sum() == 0
