"""Numbers in sentences."""


def plural(count: float, one: str, many: str = "") -> str:
    """1 image, 2,000 images, 0.5 minutes; `many` where it is not `one` with an s."""
    number = f"{count:g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {one if count == 1 else many or one + 's'}"
