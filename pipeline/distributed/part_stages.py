"""The stages of a large image, each a part in and a part out: read, predict, keep; and label.

What goes wrong with the image is a reject; what goes wrong otherwise is a failure, which the driver
judges (see `large`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import PredictSettings
from pipeline.distributed.failures import Failure, ShardUnreadable
from pipeline.distributed.parts import Part, bare, part_of, pixels_of, to_table
from pipeline.distributed.reading import read_reject
from pipeline.distributed.stages import GraphSettings
from pipeline.distributed.timing import Stage, timed
from pipeline.errors import CredentialsError, RejectError, StorageError, UnavailableError
from pipeline.images.normalize import IntensityRange
from pipeline.images.windows import (
    LevelChoice,
    WholeImage,
    WindowedImage,
    is_zarr,
    open_windows,
    read_whole,
)
from pipeline.large.keeping import Keep, Opened, Rejected
from pipeline.memory import peak_memory
from pipeline.records import Pixels, SourceImage

_MAP = "map:"


def open_image(
    source: SourceImage, keep: Keep, settings: GraphSettings
) -> tuple[Opened | Rejected, Pixels | None]:
    """Look at an image; its pixels, where it has to be decoded whole.

    Raises:
        ShardUnreadable: the store did not give it.
        StorageError: what was found can't be kept.
    """
    from pipeline.images.intensities import image_range

    known = keep.opened()
    if isinstance(known, Rejected) or (known is not None and known.by_window):
        return known, None
    reader = settings.predict.reader
    pixels: Pixels | None = None
    try:
        _check_unchanged(source)
        image = open_windows(source.uri, _level(settings.predict))
        if image is None:
            whole = read_whole(source.uri, source.size, reader)
            image, pixels = whole, whole.pixels
        bundle, chosen = settings.bundle, settings.predict.channel
        bounds = image_range(image, bundle.channels, bundle.normalize, chosen)
        low, high = bounds.low.tolist(), bounds.high.tolist()
        found: Opened | Rejected = Opened(image.shape, tuple(low), tuple(high), pixels is None)
    except CredentialsError:
        raise
    except (RejectError, StorageError) as error:
        rejected = read_reject(source, error)
        if rejected is None:
            raise ShardUnreadable(str(error)) from error
        found, pixels = Rejected("read", rejected.code, rejected.message), None
    keep.keep_opened(found)
    return found, pixels


def _check_unchanged(source: SourceImage) -> None:
    """As far as the size tells: versions in a manifest are whatever its author calls them."""
    if source.size >= 0 and not is_zarr(source.uri):
        now = storage.stat(source.uri)
        if now is not None and now.size not in (source.size, -1):
            raise RejectError("changed", "was changed since it was listed; the next run will do it")


def read_part(
    table: pa.Table, settings: GraphSettings, decoded: Mapping[str, "ray.ObjectRef[Pixels]"]
) -> pa.Table:
    """The window that the maps of a part depend on.

    Args:
        decoded: image id → pixels of the images that are not read by window.
    """

    def work(part: Part) -> pa.Table:
        from pipeline.large.predict import read_window

        core = part.grid(settings).core(part.number)
        image = _image(part, settings.predict, decoded)
        pixels, corner = read_window(image, core, settings.cutting)
        return to_table(replace(part, peak_memory=peak_memory()), pixels, corner)

    return _stage("read", table, work)


class PredictPart:
    """Pixels → the method's maps; loads the model once for its life."""

    def __init__(self, settings: GraphSettings, threads: int) -> None:
        from pipeline.distributed.stages import load_predictor

        self.settings = settings
        self.predictor = load_predictor(settings, threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        from pipeline.large.predict import predict_part

        def work(part: Part) -> pa.Table:
            pixels, corner = pixels_of(table)
            opened, core = part.opened, part.grid(self.settings).core(part.number)
            bounds = IntensityRange(
                np.array(opened.low, np.float64), np.array(opened.high, np.float64)
            )
            maps = predict_part(pixels, corner, core, opened.shape[:2], bounds, self.predictor())
            done = to_table(replace(part, peak_memory=max(part.peak_memory, peak_memory())))
            for name, plane in maps.items():
                column = pa.array([plane.tobytes()], pa.large_binary())
                done = done.append_column(_MAP + name, column)
            return done

        return _stage("predict", table, work)


class KeepPart:
    """The maps of a part into the run's folder."""

    def __init__(self, settings: GraphSettings) -> None:
        from pipeline.methods import build_method

        self.settings = settings
        self.method = build_method(settings.method, settings.classes)

    def __call__(self, table: pa.Table) -> pa.Table:
        from pipeline.large.predict import keep_maps

        def work(part: Part) -> pa.Table:
            core = part.grid(self.settings).core(part.number)
            shape = (core.y1 - core.y0, core.x1 - core.x0)
            maps = {
                name.removeprefix(_MAP): _plane(table, name, shape)
                for name in table.column_names
                if name.startswith(_MAP)
            }
            keep_maps(part.keep(self.settings), part.number, maps, self.method)
            return to_table(part)

        return bare(_stage("predict", table, work))


class LabelPart:
    """The maps around a part → its objects, and what it says to its neighbours."""

    def __init__(
        self, settings: GraphSettings, decoded: Mapping[str, "ray.ObjectRef[Pixels]"]
    ) -> None:
        import cv2

        from pipeline.methods import build_method

        cv2.setNumThreads(1)
        self.settings = settings
        self.decoded = decoded
        self.method = build_method(settings.method, settings.classes)

    def __call__(self, table: pa.Table) -> pa.Table:
        from pipeline.large.label import label_part
        from pipeline.large.overlapping import label_whole
        from pipeline.large.predict import read_maps
        from pipeline.methods.base import OverlapMethod, PartitionMethod

        def work(part: Part) -> pa.Table:
            keep, grid, method = part.keep(self.settings), part.grid(self.settings), self.method
            core, scale = grid.core(part.number), keep.read_scale()
            window = grid.around(core, method.halo(scale))
            maps, key = read_maps(keep, grid, window), (part.source.image_id, part.shard)
            image = _image(part, self.settings.predict, self.decoded)
            if isinstance(method, OverlapMethod):
                pixels = image.read(grid.around(core, method.largest))
                label_whole(keep, part.number, grid, method, maps, window, pixels, key)
            else:
                assert isinstance(method, PartitionMethod)
                pixels = image.read(core)
                label_part(keep, part.number, grid, method, maps, window, scale, pixels, key)
            return to_table(replace(part, peak_memory=peak_memory()))

        return bare(_stage("commit", table, work))


def _stage(stage: Stage, table: pa.Table, work: Callable[[Part], pa.Table]) -> pa.Table:
    """One stage's work on a part; one that has failed goes through untouched."""
    part = part_of(table)
    if part.failure is not None or part.reject is not None:
        return table
    try:
        return timed(stage, lambda: work(part))
    except RejectError as error:
        return to_table(replace(part, reject=Rejected("read", error.code, error.message)))
    except UnavailableError as error:
        return to_table(replace(part, failure=Failure.of(error)))
    except Exception as error:  # the driver judges it: see `large`
        rejected = read_reject(part.source, error) if isinstance(error, StorageError) else None
        if rejected is not None:
            return to_table(replace(part, reject=Rejected("read", rejected.code, rejected.message)))
        return to_table(replace(part, failure=Failure.of(error)))


def _level(settings: PredictSettings) -> LevelChoice:
    return LevelChoice(settings.level, settings.mpp)


def _image(
    part: Part, settings: PredictSettings, decoded: Mapping[str, "ray.ObjectRef[Pixels]"]
) -> WindowedImage:
    ref = decoded.get(part.source.image_id)
    if ref is not None:
        return WholeImage(ray.get(ref))
    _check_unchanged(part.source)  # since other parts were read, perhaps by a run that was killed
    image = open_windows(part.source.uri, _level(settings))
    if image is None or image.shape != part.opened.shape:
        raise RejectError("changed", "was changed since it was listed; the next run will do it")
    return image


def _plane(table: pa.Table, name: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.frombuffer(table[name][0].as_buffer(), np.uint8).reshape(shape)
