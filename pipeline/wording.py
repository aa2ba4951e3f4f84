"""Numbers in sentences."""


def plural(count: int, one: str, many: str = "") -> str:
    """1 image, 2,000 images; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
