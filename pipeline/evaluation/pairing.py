"""Which prediction is of which annotated image."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.errors import DataError
from pipeline.labels.files import stem
from pipeline.records import AnnotatedImage
from pipeline.tables.dataset import OutputDataset


def predicted_rows(
    dataset: OutputDataset, images: Sequence[AnnotatedImage]
) -> dict[str, Mapping[str, Any]]:
    """Name → image_id, height, width, run and shard of its prediction.

    It is the one that was made of the annotated image, or else the one whose file's name without
    suffix is the image's name, or that of its file.

    Raises:
        DataError: an image has none, and whether that is since it was rejected; or it has several.
    """
    wanted = {image.name for image in images}
    by_name = _by_name(images)
    by_uri = {storage.canonical(image.image_uri): image.name for image in images}
    found: dict[str, Mapping[str, Any]] = {}
    twice: set[str] = set()
    itself: set[str] = set()  # names whose prediction is of the annotated file, not of a namesake
    columns = ["image_id", "uri", "height", "width", "run", "shard"]
    for batch in dataset.consistent(lambda now: list(now.scan("images", columns))):
        for row in batch.to_pylist():
            own = by_uri.get(row["uri"])
            name = own or by_name.get(stem(row["uri"]))
            if name is None or name in itself:
                continue
            if own is not None:
                itself.add(name)
            elif name in found:
                twice.add(name)
            found[name] = row
    for name in sorted(twice - itself):
        raise DataError(f"{dataset.uri} holds more than one image named {name}")
    missing = sorted(wanted - found.keys())
    if missing:
        text = (
            f"{len(missing)} of {len(wanted)} annotated images have no prediction in {dataset.uri}"
        )
        if rejects := _rejects(dataset, missing, by_uri, by_name):
            name, reason = rejects[0]
            raise DataError(
                f"{text}; {len(rejects)} of them were rejected, such as {name} ({reason}): mend "
                "what is wrong and predict with --retry-rejects, or choose a --split"
            )
        raise DataError(f"{text}, such as {missing[0]}; predict them, or choose a --split")
    return found


def _by_name(images: Sequence[AnnotatedImage]) -> dict[str, str]:
    """Name of a file without suffix → name of the image: its own, or that of its file alone."""
    files = Counter(stem(image.image_uri) for image in images)
    alone = {stem(i.image_uri): i.name for i in images if files[stem(i.image_uri)] == 1}
    return alone | {image.name: image.name for image in images}


def _rejects(
    dataset: OutputDataset,
    names: Iterable[str],
    by_uri: Mapping[str, str],
    by_name: Mapping[str, str],
) -> list[tuple[str, str]]:
    """Those of the names whose prediction ended in a reject, each with its reason."""
    reasons: dict[str, str] = {}
    columns = ["uri", "code", "message"]
    for batch in dataset.consistent(lambda now: list(now.scan("rejects", columns))):
        for row in batch.to_pylist():
            name = by_uri.get(row["uri"]) or by_name.get(stem(row["uri"]))
            if name is not None:
                reasons[name] = f"{row['code']}: {row['message']}"
    return [(name, reasons[name]) for name in names if name in reasons]
