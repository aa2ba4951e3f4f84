"""How the workers' reports reach the driver while a training goes on.

Ray Train gives its driver what workers reported when all is over; a progress bar wants it now.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.training.reports import OnReport, Report

_REPORT_SECONDS = 0.5


@ray.remote(num_cpus=0)
class _Mailbox:
    """Where workers leave reports for the driver."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def put(self, report: Report) -> None:
        self.reports.append(report)

    def take(self) -> list[Report]:
        taken, self.reports = self.reports, []
        return taken


@contextmanager
def listening(on_report: OnReport) -> Iterator[Any]:
    """A mailbox whose reports reach `on_report` while the `with` lasts."""
    mailbox = _Mailbox.remote()  # type: ignore[attr-defined]
    stop = threading.Event()

    def listen() -> None:
        while not stop.wait(_REPORT_SECONDS):
            for report in ray.get(mailbox.take.remote()):
                on_report(report)

    thread = threading.Thread(target=listen, name="reports", daemon=True)
    thread.start()
    try:
        yield mailbox
    finally:
        stop.set()
        thread.join()
        for report in ray.get(mailbox.take.remote()):
            on_report(report)


def deliver(mailbox: Any, report: Report) -> None:
    """Puts a report into the mailbox and waits until it is there."""
    ray.get(mailbox.put.remote(report))


def throttled(mailbox: Any) -> OnReport:
    """Puts a report into the mailbox, unless the last one was only just now."""
    sent = 0.0

    def send(report: Report) -> None:
        nonlocal sent
        if time.time() - sent >= _REPORT_SECONDS:
            sent = time.time()
            mailbox.put.remote(report)

    return send
