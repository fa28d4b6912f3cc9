"""The engine: one thread owns the model, and answers what waits in batches. Knows nothing of HTTP.

Each prompt of a batch is decided by itself, and answered as if it were alone. What arrives while a
batch runs waits for its end. So prompts that come together are answered together, without a clock
that has to be set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from types import TracebackType
from typing import TYPE_CHECKING

from editcli.errors import ServerClosing
from editcli.operations.attachment import Attachment
from editcli.operations.explained_answer import ExplainedDecision
from editcli.operations.session import Session
from editors import EditorError

if TYPE_CHECKING:
    from editors.inference.decisions import Decision
    from editors.inference.edited_model import EditedModel
    from editors.inference.live_answers import LiveAnswer, Request, Sampling
    from editors.methods.edit_state import EditState
    from editors.model.tokenization import Prompt

GATHERING_S = 0.005  # requests of several clients seldom arrive in the very same moment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Served:
    """What answers: the edits ``state`` of the version ``id``; without edits, the base."""

    id: str
    state: EditState | None


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision on a prompt, before the first token, and how many tokens the prompt has."""

    decision: ExplainedDecision
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no answer: the prompt cannot be asked (EditorError), or something broke."""

    error: Exception


if TYPE_CHECKING:
    Event = Decided | str | LiveAnswer | Failed
    """What a job tells: one :class:`Decided`, then pieces of text if it ``streams``, then the whole
    answer; or :class:`Failed` at any time, which is the last."""


@dataclass(eq=False)
class Job:
    """One prompt that is to be answered once.

    ``tell``: takes each event, in the thread of the engine. ``unwanted``: set by whoever asked,
    when the answer is not needed any more.
    """

    served: Served
    prompt: Prompt
    max_new_tokens: int
    tell: Callable[[Event], None]
    streams: bool = False
    stops: tuple[str, ...] = ()
    sampling: Sampling | None = None
    unwanted: bool = False
    request: Request | None = None  # once the prompt is encoded
    has_begun: bool = False
    is_over: bool = False

    @property
    def waits(self) -> bool:
        """Whether the job has to be answered still."""
        return not (self.has_begun or self.is_over or self.unwanted)


class Engine:
    """Answers jobs between ``with`` and its end, which ends what is still being answered."""

    def __init__(self, session: Session, rows: int) -> None:
        """``rows``: the most answers of one batch."""
        self._session, self._rows = session, rows
        self._waiting: list[Job] = []  # in the order in which they came; maybe some that are over
        self._changed = Condition()
        self._closing = False
        self._thread = Thread(target=self._work, name="editcli-engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue ``jobs``, which are answered together if they fit together."""
        with self._changed:
            self._waiting += jobs
            closed = self._closing
            self._changed.notify()
        if closed:
            self._refuse_waiting()

    # --- in the thread of the engine ------------------------------------------------------------

    def _work(self) -> None:
        with Attachment(self._session) as attachment:
            while not self._closing:
                if jobs := self._next_jobs():
                    self._answer(jobs, attachment)
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        with self._changed:
            jobs, self._waiting = self._waiting, []
        for job in jobs:
            _tell(job, Failed(ServerClosing("the server is closing")))

    def _next_jobs(self) -> list[Job]:
        """Waits for jobs: all of those for what the oldest one asks, or none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
        if len(self._waiting) < self._rows:
            time.sleep(GATHERING_S)
        with self._changed:
            self._waiting = [job for job in self._waiting if job.waits]
            return [job for job in self._waiting if job.served is self._waiting[0].served]

    def _answer(self, jobs: Sequence[Job], attachment: Attachment) -> None:
        """Answer those of ``jobs`` that fit into one batch with the oldest; the others wait on."""
        from editors.inference.live_answers import answer_live

        batch = jobs
        try:
            with attachment.using(jobs[0].served.state) as model:
                batch, requests = self._batch_of(jobs, model)
                if batch:
                    answer_live(model, requests, [_Follower(self, job) for job in batch])
        except Exception as error:  # the next batch may do better
            logger.exception("a batch of %d answers failed", len(batch))
            for job in batch:
                _tell(job, Failed(error))

    def _batch_of(self, jobs: Sequence[Job], model: EditedModel) -> tuple[list[Job], list[Request]]:
        """Those of ``jobs`` that are answered next, the oldest among them, and the request of each.
        Jobs that cannot be asked are told so."""
        from editors.inference.live_answers import Request, answered_with_first

        able: list[tuple[Job, Request]] = []
        for job in jobs:
            try:
                job.request = job.request or Request.of(
                    model, job.prompt, job.max_new_tokens, job.stops, job.sampling
                )
                able.append((job, job.request))
            except EditorError as error:
                _tell(job, Failed(error))
            except Exception as error:
                logger.exception("a prompt could not be read")
                _tell(job, Failed(error))
        if not able:
            return [], []
        requests = [request for _, request in able]
        chosen = answered_with_first(self._session.base, requests, self._rows)
        batch = [able[number][0] for number in chosen]
        for job in batch:
            job.has_begun = True
        return batch, [requests[number] for number in chosen]

    def explained(self, job: Job, decision: Decision | None) -> ExplainedDecision:
        """The ``decision`` on the prompt of ``job``, in words."""
        return ExplainedDecision.of(decision, self._session.method, job.served.state)

    @property
    def is_closing(self) -> bool:
        """Whether nobody waits for answers any more."""
        return self._closing


class _Follower:
    """Tells a job what the model says."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine, self._job = engine, job

    @property
    def wants_pieces(self) -> bool:
        return self._job.streams

    def decided(self, decision: Decision | None) -> None:
        job = self._job
        assert job.request is not None
        _tell(job, Decided(self._engine.explained(job, decision), len(job.request.ids)))

    def said(self, piece: str) -> None:
        _tell(self._job, piece)

    def wants_more(self) -> bool:
        return not (self._job.unwanted or self._engine.is_closing)

    def ended(self, answer: LiveAnswer) -> None:
        _tell(self._job, answer)
        self._job.is_over = True


def _tell(job: Job, event: Event) -> None:
    """Tell a job that is not over; whoever does not listen any more does not want more either."""
    if job.is_over:
        return
    job.is_over = isinstance(event, Failed)
    try:
        job.tell(event)
    except RuntimeError:  # the loop of the server has ended
        job.unwanted = True
