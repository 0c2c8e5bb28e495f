"""Several processes at once, and processes that are killed: nothing acknowledged is lost, nothing is there twice."""

import multiprocessing
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prefloop.data.store import Conflict, Judgement, Store
from prefloop.records import Completion, Prompt

WRITERS = 2
PROMPTS = 40


def drawn(prompt: str, index: int) -> Completion:
    return Completion(
        prompt=Prompt(content=prompt),
        text=f"answer {index}",
        policy="sft",
        logprob=-1.0,
        tokens=2,
        ended=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=index,
    )


def write_everything(url: str, name: str) -> None:
    """What a whole loop writes: prompts and completions that others write too, pairs, and judgements of its own."""
    with Store.open(url) as store:
        policy = store.add_checkpoint("sft")
        for start in range(0, PROMPTS, 10):
            batch = [drawn(f"p{number}", index) for number in range(start, start + 10) for index in range(2)]
            random.Random(f"{name} {start}").shuffle(batch)
            store.add_completions(batch, policy)
            store.add_pairs()
        annotator = store.add_annotator(name)
        for item in store.open_items(annotator):
            store.add_judgement(Judgement(item=item.id, annotator=annotator, choice="a", order_shown=(0, 1)))


def test_processes_that_write_the_same_at_once_write_it_once(store_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=write_everything, args=(store_url, f"ann{number}"))
        for number in range(WRITERS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * WRITERS
    with Store.open(store_url, create=False) as store:
        counts = store.counts()
        assert counts["prompt"] == counts["item"] == PROMPTS
        assert counts["completion"] == counts["item_completion"] == 2 * PROMPTS
        assert counts["annotator"] == WRITERS
        assert counts["judgement"] == WRITERS * PROMPTS


def test_threads_sending_one_judgement_at_once_write_it_once(store: Store) -> None:
    store.add_completions([drawn("p", index) for index in range(2)], store.add_checkpoint("sft"))
    (item,) = store.add_pairs().ids
    annotator = store.add_annotator("ann")
    same = Judgement(item=item, annotator=annotator, choice="a", order_shown=(0, 1))
    start = threading.Barrier(8)

    def send(_: int) -> int:
        start.wait()
        return store.add_judgement(same)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(8))) == {1}
    assert store.counts()["judgement"] == 1


def test_of_two_corrections_at_once_one_is_a_conflict(store: Store) -> None:
    store.add_completions([drawn("p", index) for index in range(2)], store.add_checkpoint("sft"))
    (item,) = store.add_pairs().ids
    annotator = store.add_annotator("ann")
    first = store.add_judgement(Judgement(item=item, annotator=annotator, choice="a", order_shown=(0, 1)))
    start = threading.Barrier(4)

    def correct(_: int) -> bool:
        start.wait()
        try:
            store.add_judgement(
                Judgement(item=item, annotator=annotator, choice="b", order_shown=(0, 1), supersedes=first)
            )
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(correct, range(4))) == [False, False, False, True]
    assert store.counts()["judgement"] == 2


JUDGE_UNTIL_KILLED = """
import sys
from prefloop.data.store import Judgement, Store

store = Store.open(sys.argv[1])
annotator = store.add_annotator("ann")
print("ready", flush=True)
for item in store.open_items(annotator):
    judgement = Judgement(
        item=item.id, annotator=annotator, choice="a", order_shown=(0, 1), idempotency_key=f"key {item.id}"
    )
    store.add_judgement(judgement)
    print(item.id, flush=True)
"""


def test_a_writer_killed_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store.open(path) as store:
        policy = store.add_checkpoint("sft")
        store.add_completions(
            [drawn(f"p{number}", index) for number in range(2000) for index in range(2)], policy
        )
        store.add_pairs()
    acknowledged: list[int] = []
    moments = random.Random(0)
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", JUDGE_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            acknowledged.append(int(writer.stdout.readline()))  # on a busy machine the first takes longest
            timer = threading.Timer(moments.uniform(0.01, 0.3), writer.kill)
            timer.start()
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
            timer.join()
        assert writer.returncode == -signal.SIGKILL, "it finished before it was killed: give it more to do"
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    assert len(acknowledged) >= 3
    with Store.open(path) as store:
        assert len(set(acknowledged)) == len(acknowledged)  # what one process wrote was not open to the next
        written = {record.prompt.content for record in store.comparisons().records}
        assert {f"p{item - 1}" for item in acknowledged} <= written
        # At most the one judgement in flight at each kill is there without its acknowledgement.
        assert len(acknowledged) <= store.counts()["judgement"] == len(written) <= len(acknowledged) + 3
        annotator = store.add_annotator("ann")
        again = Judgement(
            item=acknowledged[-1],
            annotator=annotator,
            choice="a",
            order_shown=(0, 1),
            idempotency_key=f"key {acknowledged[-1]}",
        )
        before = store.counts()
        store.add_judgement(again)  # a client that did not hear the answer sends it again
        assert store.counts() == before
