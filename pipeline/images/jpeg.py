"""JPEG as far as Pillow does not say it: kinds that are well-formed, and not supported."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers: ITU T.81, table B.1
_JPEG_LS = 0xF7  # ITU T.87


def unsupported_kind(data: bytes) -> str | None:
    """What a JPEG that Pillow does not know is, if it is one; by the header of its frame."""
    place = 2
    while place + 5 <= len(data) and data[place] == 0xFF:
        marker, bits = data[place + 1], data[place + 4]
        if marker == _JPEG_LS:
            return "a JPEG-LS"
        if marker in _FRAMES:
            return None if bits == 8 else f"a JPEG of {bits} bits"
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
