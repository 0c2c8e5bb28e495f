"""Getting the answers of a live chat: in threads of their own, so that a slow model delays only the person who asked it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from prefloop.data.store.database import Unavailable
from prefloop.studio import chats
from prefloop.studio.responders import NoAnswer, Responder, Show, two_answers
from prefloop.studio.service import Studio
from prefloop.studio.values import Talk

THREADS = 32
"""Turns that wait for models at a time, in one process; more of them stand in line."""
SHOWN_EVERY = 0.3
"""Seconds between two looks that a page is given of answers that grow."""
log = logging.getLogger(__name__)


class _Written:
    """Two answers that grow, each in a thread of its own. What is written now and then is both, in the order they will be shown."""

    def __init__(
        self, order: Sequence[int], write: Callable[[Sequence[str]], bool], *, together: bool
    ) -> None:
        self._order, self._write, self._together = tuple(order), write, together
        self._texts = ["", ""]
        self._wanted = True
        self._next = 0.0
        self._lock = threading.Lock()

    def of(self, answer: int) -> Show:
        """Where the first (0) or the second (1) of them is shown."""
        place = self._order.index(answer)

        def show(text: str) -> bool:
            with self._lock:
                self._texts[place] = text
                if self._wanted and any(self._texts) and time.monotonic() >= self._next:
                    self._wanted = self._write(self._shown())
                    self._next = time.monotonic() + SHOWN_EVERY
                return self._wanted

        return show

    def _shown(self) -> list[str]:
        """The texts so far; where they grow together, as much of both as there is of the shorter: which model is slow tells its name."""
        least = min(map(len, self._texts)) if self._together else None
        return [text[:least] for text in self._texts]


class ChatWork:
    """The models that answer in chats, and the turns that wait for them.

    A turn is claimed for `patience` seconds. If the process dies meanwhile, whoever looks at the conversation after that time claims it again.
    """

    def __init__(self, studio: Studio, responders: Sequence[Responder], *, patience: float = 300.0) -> None:
        self._studio, self._responders = studio, responders
        self._patience = timedelta(seconds=patience)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="chat")

    def open(self, project: int, annotator: int, *, new: bool) -> Talk:
        """The annotator's conversation in a project, or a new one."""
        studio = self._studio
        token = studio.write_twice(
            lambda session: chats.open_chat(session, project, annotator, new=new, now=studio.clock())
        )
        return self.look(token, annotator)

    def say(self, token: str, annotator: int, message: str, *, key: str) -> Talk:
        """Write down a message and have it answered; returns at once. Sent again with the same key it changes nothing."""
        studio = self._studio
        turn = studio.write_twice(
            lambda session: chats.say(
                session,
                token,
                annotator,
                message,
                key=key,
                now=studio.clock(),
                patience=self._patience,
            )
        )
        if turn is not None:
            self._pool.submit(self._answer, turn)
        return self.look(token, annotator)

    def look(self, token: str, annotator: int) -> Talk:
        """The conversation as it is now. A turn whose process died is taken up again."""
        studio = self._studio
        with studio.read() as session:
            talk = chats.shown(session, token, annotator)
            left = chats.is_left(session, token, annotator, now=studio.clock())
        if left:
            with studio.write() as session:
                turn = chats.claim(session, token, annotator, now=studio.clock(), patience=self._patience)
            if turn is not None:
                self._pool.submit(self._answer, turn)
        return talk

    def stop(self, token: str, annotator: int) -> Talk:
        """Take the answers that are being written as they are."""
        with self._studio.write() as session:
            chats.stop(session, token, annotator)
        return self.look(token, annotator)

    def save_draft(self, token: str, annotator: int, message: str) -> None:
        """Keep a message that was begun."""
        with self._studio.write() as session:
            chats.save_draft(session, token, annotator, message)

    def _answer(self, turn: int) -> None:
        """Ask the models, with no transaction open, and write what they say, or why they do not."""
        studio = self._studio
        order = [0, 1]
        studio.random.shuffle(order)
        try:
            with studio.read() as session:
                messages = chats.to_answer(session, turn)
                together = chats.is_public(session, turn)
            written = _Written(order, lambda texts: self._progress(turn, texts), together=together)
            candidates = two_answers(self._responders, messages, (written.of(0), written.of(1)))
            self._store(
                lambda: studio.write_twice(
                    lambda session: chats.answered(session, turn, candidates, order=order, now=studio.clock())
                )
            )
        except NoAnswer as error:
            log.warning("turn %d has no answers: %s (%s)", turn, error, error.__cause__ or "")
            self._fail(turn, str(error))
        except Exception:
            log.exception("turn %d has no answers", turn)
            self._fail(turn, "something went wrong; send it again")

    def _progress(self, turn: int, texts: Sequence[str]) -> bool:
        """Let the page see the answers so far; whether they are still wanted."""
        studio = self._studio
        try:
            with studio.write(durable=False) as session:
                until = studio.clock() + self._patience
                return chats.progress(session, turn, texts, until=until)
        except Unavailable as error:
            log.warning("%s", error)  # they are shown a moment later
            return True

    def _fail(self, turn: int, problem: str) -> None:
        def work() -> None:
            with self._studio.write() as session:
                chats.failed(session, turn, problem)

        self._store(work)

    def _store(self, work: Callable[[], object]) -> None:
        """Write; where the store is busy, again in a moment, since nobody is there to send it again."""
        for wait in (0.5, 2.0, 8.0):
            try:
                work()
                return
            except Unavailable as error:
                log.warning("%s", error)
                time.sleep(wait)
        work()

    def close(self) -> None:
        """Take no more turns; those under way are taken up by the next process when their time is over."""
        self._pool.shutdown(wait=False, cancel_futures=True)
