"""How large the pixels of a TIFF are, where it says so.

What can't be understood of it is not known: it costs nobody the image.
"""

import math
import re
from xml.etree import ElementTree

import tifffile

from pipeline.errors import TesseraError

_POWERS = {
    "Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0,
    "d": -1, "c": -2, "m": -3, "µ": -6, "n": -9, "p": -12, "f": -15, "a": -18, "z": -21, "y": -24,
}  # fmt: skip
_INCH = 25_400.0
_MICRONS = {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in _POWERS.items()} | {
    "Å": 1e-4, "thou": _INCH / 1000, "li": _INCH / 12, "in": _INCH, "ft": _INCH * 12,
    "yd": _INCH * 36, "mi": _INCH * 63_360, "pt": _INCH / 72,
}  # fmt: skip
"""Of OME's units of length (OME-XML 2016-06, UnitsLength), but for the pixel and the sky's."""
_WORDS = {
    "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "nanometer": 1e-3,
    "millimeter": 1e3, "centimeter": 1e4, "inch": _INCH,
}  # fmt: skip
"""What people type into ImageJ beside these."""
_RESOLUTION_UNITS = {2: _INCH, 3: 1e4}  # TIFF 6.0, ResolutionUnit: inch, centimetre


def microns_per_pixel(page: tifffile.TiffPage) -> float | None:
    """By OME's metadata, a scanner's or ImageJ's description, or TIFF's resolution tags.

    Raises:
        StorageError: the store did not give it.
    """
    try:
        size = _said(page)
    except TesseraError:
        raise
    except Exception:  # metadata is whatever its author, or damage, has made of it
        return None
    return size if size and math.isfinite(size) and size > 0 else None


def _said(page: tifffile.TiffPage) -> float | None:
    if page.parent.is_ome and page.parent.ome_metadata:
        image = ElementTree.fromstring(page.parent.ome_metadata).find("{*}Image/{*}Pixels")
        size = None if image is None else image.get("PhysicalSizeX")
        if image is not None and size is not None:
            unit = _microns(image.get("PhysicalSizeXUnit", "µm"))
            return unit and float(size) * unit
    if page.is_svs:
        found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description)  # Aperio's own words
        if found:
            return float(found.group(1))
    resolution = page.tags.valueof("XResolution")
    if resolution is None or not resolution[0]:
        return None
    scale = _RESOLUTION_UNITS.get(page.tags.valueof("ResolutionUnit"))
    if page.is_imagej:
        found = re.search(r"^unit=(.*)$", page.imagej_description or "", re.MULTILINE)
        scale = _microns(found.group(1)) if found else scale
    return scale and scale * resolution[1] / resolution[0]


def _microns(unit: str) -> float | None:
    """Of a unit of length, with a micro as Unicode has it twice, and ImageJ in a way of its own."""
    plain = unit.strip().replace("\\u00B5", "µ").replace("μ", "µ")
    return _MICRONS.get(plain, _WORDS.get(plain.lower()))
