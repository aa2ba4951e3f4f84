"""A training that was stopped on its way to an output: found, refused, resumed or dropped.

    OUT/_lease/                    who trains, see `pipeline.tables.lease`
    OUT/training.json              what is being trained here, until the bundle is published
    CHECKPOINTS/RUN/…/state.json   the snapshots of `pipeline.training.state`

A training has a run for each time that it was started or resumed.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import storage
from pipeline.config import ConfiguredSettings, MethodSettings, TrainSettings
from pipeline.errors import DataError, SettingsError
from pipeline.models.bundle import UNFINISHED_NAME
from pipeline.records import Classes
from pipeline.tables.layout import LEASE
from pipeline.tables.lease import Lease, hold_lease
from pipeline.training.output import CHECKPOINTS, check_free
from pipeline.training.state import STATE_NAME, TrainingState, load_snapshot

_CHOSEN = (
    "channels", "zoom", "crop", "batch_size", "method", "normalize", "network", "sampling",
    "augment",
)  # fmt: skip


class _Marker(BaseModel):
    """What training.json holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoints: str
    runs: tuple[str, ...]
    settings: dict[str, Any]
    """As they were given, but for what doesn't change the result."""
    chosen: dict[str, Any]
    """The same with nothing left open."""
    classes: Classes
    data: str | None = None
    """`pipeline.survey.facts.data_hash` of the images."""


@dataclass(frozen=True)
class Unfinished:
    """The newest snapshot of a training that was stopped."""

    uri: str
    run: str
    state: TrainingState
    chosen: dict[str, Any]
    classes: Classes
    data: str | None = None

    def data_changed(self, data: str) -> str | None:
        """What to say where it goes on with other images or labels than it began with."""
        if self.data in (None, data):
            return None
        return (
            "images or labels have changed since the training was last begun or resumed: it goes "
            "on with them as they are now, and what was measured before does not compare; "
            "--restart starts over"
        )

    def check_classes(self, classes: Classes) -> None:
        """What goes on knows classes by their places.

        Raises:
            SettingsError: the data has others by now.
        """
        if classes != self.classes:
            was, now = (
                ", ".join(f"{one.id} {one.name} ({one.kind})" for one in each)
                for each in (self.classes, classes)
            )
            raise SettingsError(
                f"setting data: its classes were {was} when the training began, and are {now}; "
                "--restart starts over"
            )

    def fill_in(self, settings: TrainSettings) -> TrainSettings:
        """What was chosen then, from the data or another model, stays as it is."""
        old = TrainSettings.model_validate(
            {key: value for key, value in self.chosen.items() if key in _CHOSEN}
            | {"data": settings.data, "output": settings.output}
        )
        chosen = {key: getattr(old, key) for key in _CHOSEN}
        # What of the method was given is known by these settings alone, and the rest is learned.
        method = _filled(settings.method, old.method)
        return settings.model_copy(update=chosen | {"method": method})


def find_unfinished(settings: TrainSettings) -> Unfinished | None:
    """Where a training with these settings goes on; None where it begins.

    Raises:
        SettingsError: there is one to go on with, and the settings don't say what to do with it or
            would change its result; or there is something that would be lost.
    """
    marker = _read_marker(settings)
    if marker is None:
        check_free(settings)
    if marker is None or settings.restart:
        return None  # what is dropped goes when the new one is on its way, see `mark_unfinished`
    newest = _newest_snapshot(marker)
    if newest is None:
        return None  # it was stopped before there was anything to go on from
    if not settings.resume:
        raise SettingsError(
            f"{settings.output} holds an unfinished training, {newest.state.progress:.0%} done: "
            "--resume goes on with it, --restart drops it"
        )
    _check_equal(marker, settings)
    return newest


def check_unchanged(settings: TrainSettings, before: Unfinished | None) -> None:
    """Make sure, once nobody else trains here, that what `find_unfinished` said still holds.

    Between the two the images were read: another training may have gone on, been stopped or
    finished, and its snapshots or its model would be lost.

    Raises:
        SettingsError: it does not.
    """
    now = find_unfinished(settings)
    if (now and now.uri) != (before and before.uri):
        raise SettingsError(
            f"setting output: another training wrote to {settings.output} while this one read its "
            "images; give the same command again"
        )


def check_writable(settings: TrainSettings) -> None:
    """Find out before any image is read whether the output and the checkpoints can be written.

    Raises:
        StorageError: they can't.
    """
    storage.check_writable(marker_uri(settings))
    if settings.checkpoints:
        storage.check_writable(storage.join(checkpoints_uri(settings), STATE_NAME))


def last_run(settings: TrainSettings) -> str | None:
    """Of the training to this output that was begun and not finished; None where there is none."""
    marker = _read_marker(settings)
    return marker.runs[-1] if marker else None


@contextlib.contextmanager
def alone(settings: TrainSettings, on_wait: Callable[[str], None]) -> Iterator[Lease]:
    """Nobody else trains to this output while the `with` lasts; of a finished one no trace is left.

    Raises:
        LeaseError: somebody does.
    """
    output = storage.absolute(settings.output)
    # A run of a training has snapshots of its own, and publishes only while it holds the lease.
    with hold_lease(output, "a training", on_wait=on_wait, hint="", lasting=True) as lease:
        yield lease
        # While it is held: what comes after might be another's.
        storage.remove_folder(storage.join(output, LEASE))


def mark_unfinished(
    settings: TrainSettings,
    configured: ConfiguredSettings,
    classes: Classes,
    run: str,
    before: Unfinished | None,
    data: str | None = None,
) -> None:
    """Say that `run` is on its way to the output; only the snapshot it goes on from is kept."""
    old = _read_marker(settings)
    runs = (run,) if before is None else (before.run, run)
    if old is not None:
        _remove_runs(old.checkpoints, [name for name in old.runs if name not in runs])
    marker = _Marker(
        checkpoints=checkpoints_uri(settings),
        runs=runs,
        settings=settings.result_settings(),
        chosen=configured.result_settings(),
        classes=classes,
        data=data,
    )
    storage.write_bytes(marker_uri(settings), marker.model_dump_json(indent=2).encode())


def mark_finished(settings: TrainSettings) -> None:
    """The output is complete: drop the snapshots, but for the last where a place was named."""
    marker = _read_marker(settings)
    if settings.checkpoints is None:
        storage.remove_folder(checkpoints_uri(settings))
    elif marker is not None:
        _remove_runs(marker.checkpoints, marker.runs[:-1])
    storage.remove(marker_uri(settings))


def checkpoints_uri(settings: TrainSettings) -> str:
    """Where the runs of a training are."""
    return storage.absolute(settings.checkpoints or storage.join(settings.output, CHECKPOINTS))


def marker_uri(settings: TrainSettings) -> str:
    """The file that says what is being trained, there from before the first worker starts."""
    return storage.join(storage.absolute(settings.output), UNFINISHED_NAME)


def _read_marker(settings: TrainSettings) -> _Marker | None:
    uri = marker_uri(settings)
    if not storage.exists(uri):
        return None
    try:
        return _Marker.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        raise DataError(f"{uri} is damaged: remove it to start over") from error


def _newest_snapshot(marker: _Marker) -> Unfinished | None:
    """The one with the most steps that is whole: the last may have been cut off in writing."""
    found = []
    for run in marker.runs:
        for file in storage.list_files(storage.join(marker.checkpoints, run)):
            if storage.name_of(file.uri) != STATE_NAME:
                continue
            folder = file.uri.rpartition("/")[0]
            snapshot = load_snapshot(folder)
            if snapshot is not None and not snapshot.state.in_vain:
                found.append(
                    Unfinished(
                        folder, run, snapshot.state, marker.chosen, marker.classes, marker.data
                    )
                )
    return max(found, key=lambda one: one.state.done, default=None)


def _check_equal(marker: _Marker, settings: TrainSettings) -> None:
    old, new = _flat(marker.settings), _flat(settings.result_settings())
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise SettingsError(
                f"setting {key}: {old.get(key)} in the unfinished training, not {new.get(key)}; "
                "--restart starts over"
            )


def _filled(given: MethodSettings, chosen: MethodSettings) -> MethodSettings:
    """What was given, and where that is open what was chosen."""
    return given.model_copy(
        update={
            name: getattr(chosen, name)
            for name in type(given).model_fields
            if getattr(given, name) in (None, "auto")
        }
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _remove_runs(checkpoints: str, runs: Any) -> None:
    for run in runs:
        storage.remove_folder(storage.join(checkpoints, run))
