"""Collections for the benchmarks: the annotated images under as many names as are wanted."""

from pathlib import Path


def link_images(data: Path, folder: Path, count: int, side: int | None = None) -> Path:
    """`count` links to the images of an annotated folder, each image in turn.

    Args:
        side: only images of this height and width.
    """
    import cv2

    images = sorted((data / "images").iterdir())
    if side is not None:
        images = [p for p in images if cv2.imread(str(p)).shape[:2] == (side, side)]
    folder.mkdir(parents=True)
    for i in range(count):
        source = images[i % len(images)]
        (folder / f"{i:06d}{source.suffix}").symlink_to(source.resolve())
    return folder
