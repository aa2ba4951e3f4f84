"""The epochs of a training, as the lines of `metrics.jsonl`; long ones have several."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.models.bundle import load_spec
from pipeline.training.reports import EpochReport

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class EpochLine:
    """One line: an epoch without its pictures. `metrics` lie beside the others in the file."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    seconds: float
    validation_seconds: float
    pixels_per_second: float
    peak_memory: int
    peak_device_memory: int
    metrics: dict[str, float]
    final: bool = False
    """The published model: the figures of its weights, after the epoch that was best."""


def best_of(lines: Sequence[EpochLine]) -> EpochLine:
    """The epoch whose weights are published: of equally good ones the last."""
    return max(lines, key=lambda line: (line.metrics["score"], line.step))


class History:
    """The epochs so far, those of the training that this one resumes included."""

    def __init__(self, output: str) -> None:
        self.uri = storage.join(output, METRICS_NAME)
        self.lines: list[EpochLine] = []

    def add(self, report: EpochReport) -> None:
        """One more line; it takes the place of what was said before of its step and later ones."""
        if report.epoch > 1:
            self._recall()
        self.lines = [line for line in self.lines if line.step < report.step and not line.final]
        self.lines.append(_line_of(report))

    def finish(self, bundle_uri: str) -> None:
        """The last line: the model that was published."""
        self._recall()
        if not self.lines:
            raise StorageError(f"no epoch to tell of, and {self.uri} is not there")
        best = best_of(self.lines)
        metrics = load_spec(bundle_uri).metrics
        self.lines.append(replace(best, metrics=metrics, final=True))

    def save(self) -> None:
        """Write all lines."""
        text = "".join(json.dumps(_flat(line)) + "\n" for line in self.lines)
        storage.write_bytes(self.uri, text.encode())

    def _recall(self) -> None:
        """What the training that this one resumes has written."""
        if not self.lines:
            self.lines = [line for line in load_lines(self.uri) if not line.final]


def _line_of(report: EpochReport) -> EpochLine:
    """What the file keeps of an epoch."""
    return EpochLine(
        epoch=report.epoch,
        step=report.step,
        loss=report.loss,
        learning_rate=report.learning_rate,
        seconds=report.seconds,
        validation_seconds=report.validation_seconds,
        pixels_per_second=report.pixels_per_second,
        peak_memory=report.needs.peak_memory,
        peak_device_memory=report.needs.peak_device_memory,
        metrics=report.metrics,
    )


def load_lines(uri: str) -> list[EpochLine]:
    """The lines of a file; none where there is no file.

    Raises:
        StorageError: it is there, and isn't such a file.
    """
    if not storage.exists(uri):
        return []
    try:
        return list(_parse(storage.read_bytes(uri).decode()))
    except (ValueError, ValidationError) as error:
        raise StorageError(f"{uri} holds a line that is no epoch; move it away") from error


def _parse(text: str) -> Iterator[EpochLine]:
    own = set(EpochLine.__dataclass_fields__) - {"metrics"}
    for line in text.splitlines():
        row = json.loads(line)
        metrics = {key: value for key, value in row.items() if key not in own}
        yield TypeAdapter(EpochLine).validate_python(
            {key: value for key, value in row.items() if key in own} | {"metrics": metrics}
        )


def _flat(line: EpochLine) -> dict[str, object]:
    row = TypeAdapter(EpochLine).dump_python(line)
    return {key: value for key, value in row.items() if key != "metrics"} | line.metrics
