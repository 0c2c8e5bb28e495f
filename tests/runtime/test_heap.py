"""Freed memory stays for the next step, and what piles up is given back now and then."""

from prefloop.runtime.heap import GROWTH, Heap, keeps_freed_memory, resident_bytes, trim


class Process:
    """Memory as a test sets it: what stays, and what is free and kept."""

    def __init__(self, stays: int) -> None:
        self.stays, self.free, self.times = stays, 0, 0

    def resident(self) -> int:
        return self.stays + self.free

    def give_back(self) -> None:
        self.free, self.times = 0, self.times + 1


def test_what_a_step_needs_is_kept_and_what_piles_up_is_not() -> None:
    process = Process(1000)
    heap = Heap(process.resident, process.give_back)
    process.free = 300
    heap.settle()
    assert process.times == 1  # after the first step, to learn what stays
    assert process.free == 0
    process.free = 200
    heap.settle()
    for _ in range(50):
        heap.settle()
    assert process.times == 1  # 200 is what a step needs
    process.free = int(GROWTH * 200)
    heap.settle()
    assert process.times == 1
    process.free += 1
    heap.settle()
    assert process.times == 2


def test_a_step_that_needs_more_is_not_punished_twice() -> None:
    """A larger step, or more that stays: given back once, then that is the measure."""
    process = Process(1000)
    heap = Heap(process.resident, process.give_back)
    for free in (300, 200, 900):
        process.free = free
        heap.settle()
    assert process.times == 2
    for _ in range(50):
        process.free = 900
        heap.settle()
    assert process.times == 2
    process.stays, process.free = 5000, 900
    heap.settle()
    for _ in range(50):
        process.free = 900
        heap.settle()
    assert process.times == 3


def test_freed_memory_really_goes_back() -> None:
    if not keeps_freed_memory():
        return
    before = resident_bytes()
    assert before > 1 << 20
    trim()
    assert abs(resident_bytes() - before) < 1 << 30
