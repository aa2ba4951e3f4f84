"""How the workers' reports reach the driver while a training goes on, and its wish to stop them.

Ray Train gives its driver what workers reported when all is over; a progress bar wants it now.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.training.reports import OnReport, Report, StepReport

_REPORT_SECONDS = 0.5
_HURRY = 5.0  # seconds that a recorder is waited for when the training has failed


@ray.remote(num_cpus=0)
class _Mailbox:
    """Where workers leave reports for the driver, and learn whether it wants them to stop."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.stopping = False

    def put(self, report: Report) -> bool:
        self.reports.append(report)
        return self.stopping

    def take(self) -> list[Report]:
        taken, self.reports = self.reports, []
        return taken

    def stop(self) -> None:
        self.stopping = True


@contextmanager
def listening(on_report: OnReport, stops: Sequence[threading.Event]) -> Iterator[Any]:
    """A mailbox whose reports reach `on_report`, and that passes a wish to stop on, in the `with`.

    Args:
        on_report: may take its time, as a recorder does that writes to a slow store.
        stops: any of which asks the workers to stop.
    """
    # Beside the driver: it must not go with a node that only works.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = _Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    done = threading.Event()

    def listen() -> None:
        while not done.wait(_REPORT_SECONDS):
            for report in ray.get(mailbox.take.remote()):
                on_report(report)

    def pass_on_stop() -> None:
        while not done.wait(_REPORT_SECONDS):
            if any(stop.is_set() for stop in stops):
                mailbox.stop.remote()
                return

    threading.Thread(target=pass_on_stop, name="stop", daemon=True).start()
    thread = threading.Thread(target=listen, name="reports", daemon=True)
    thread.start()
    patience: float | None = _HURRY
    try:
        yield mailbox
        patience = None
    finally:
        done.set()
        thread.join(patience)
        if not thread.is_alive():
            for report in ray.get(mailbox.take.remote()):
                on_report(report)


def deliver(mailbox: Any, report: Report) -> None:
    """Puts a report into the mailbox and waits until it is there."""
    ray.get(mailbox.put.remote(report))


class StepReporter:
    """Puts a step's report into the mailbox, unless the last one was only just now.

    What it gives back is whether the driver has asked to stop; it never waits for an answer.
    """

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox
        self.sent = -math.inf
        self.answer: Any = None
        self.stopping = False

    def __call__(self, report: StepReport) -> bool:
        if self.answer is not None and ray.wait([self.answer], timeout=0)[0]:
            self.stopping |= ray.get(self.answer)
            self.answer = None
        if self.answer is None and time.monotonic() - self.sent >= _REPORT_SECONDS:
            self.sent = time.monotonic()
            self.answer = self.mailbox.put.remote(report)
        return self.stopping
