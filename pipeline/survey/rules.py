"""How each setting follows from what the images say: a value, and the reason for it.

What a kind of device takes well stands in `recipes`; the rules bend it to the data. How many crops
would hold something is judged by windows of the nearest of `facts.CELL_SIDES`.
"""

import math
from typing import Literal, NamedTuple

from pipeline.config import DEFAULT_MIN_AREA
from pipeline.models.context import network_context
from pipeline.records import Classes
from pipeline.survey.facts import CELL_SIDES
from pipeline.survey.fingerprint import DataFingerprint, SplitFingerprint
from pipeline.survey.recipes import Hardware, Recipe
from pipeline.survey.tally import Tally, area_median, diameter_quantile
from pipeline.wording import plural

_LEAST_REACH = 64  # pixels
_TINY, _TINY_REACH = 8, 16  # of ways of a pixel or two, as small shares of more, little is learned
_SMALL = 0.05  # quantile of the diameters that stands for small objects
_LEAST_SMALL, _LEAST_MEDIAN = 6, 16  # pixels of a diameter that reducing images has to leave
_LEAST_WIDTH = 24  # likewise of classes that are no objects
_THIN_WIDTH = 2  # and where there is no time for so many looks at each image:
_FEW_LOOKS = 8
_MOST_HALVINGS = 3
_LARGE = 0.95  # quantile of the diameters that stands for large objects
_CROP_DIAMETERS = 3  # large objects side by side in a crop
_CONTEXT_DIAMETERS = 1.5  # large objects that the network sees in any direction
_COARSEST = 8  # pixels a side that the lowest resolution of a crop has at least
_FEWEST_STEPS = 300  # a network that gets fewer is better a smaller one
_LEAST_BATCH = 2  # crops, however large: Dice over one is a poor measure
_PIXELS_A_SECOND = 400_000  # one core trains this many at width 16, in bfloat16
_FLOAT32 = 0.6  # as many in float32
_BYTES_A_PIXEL = 3_000  # of memory that training takes at width 16, in float32
_IMBALANCE = 20.0  # the most frequent class against the rarest, from which weights are worth it
_LARGEST_WEIGHT = 10.0
_RARE, _RARE_SHARE = 0.01, 0.33  # a class of fewer pixels is rare; crops that are then given
_SCARCE, _OBJECT_SHARE = 0.1, 0.5  # crops without an object, from which and up to which to act
_UPRIGHT, _FEWEST_UPRIGHT = 0.9, 8  # share of a class's images that say what is up; images
_WIDE = 0.8  # share of images of wide range from which their values need no stretching


Normalization = Literal["percentile", "range", "none"]


def why_method(name: str, classes: Classes, train: SplitFingerprint) -> str:
    """Why a method fits the labels."""
    things = [spec.name for spec in classes if spec.kind == "thing"]
    stuff = [spec.name for spec in classes if spec.kind == "stuff"]
    if name != "semantic":
        touching = f", of which {train.touching / max(train.objects, 1):.0%} touch another"
        if train.overlapping:
            touching += f" and {train.overlapping / max(train.objects, 1):.0%} overlap one"
            if name == "instance":
                touching += ", which --method.name proposals would find whole"
        both = f"; it learns the stuff ({listed(stuff)}) as well" if stuff else ""
        told = plural(train.objects, "object")
        return f"the labels tell {told} of {listed(things)} apart{touching}{both}"
    return "the labels hold classes of pixels and no objects"


def choose_normalization(
    low: float, high: float, found: DataFingerprint
) -> tuple[Normalization, str]:
    """Photographs keep their values; all else is stretched from `low` to `high` percent."""
    whole = found.whole
    if whole.colour == whole.images and whole.wide_range >= _WIDE * whole.images:
        return "range", (
            f"8-bit colour, and {whole.wide_range / whole.images:.0%} of the images use half of "
            "the range or more"
        )
    ends = whole.bright_levels
    why = (
        f"types differ: {listed(whole.dtypes.values)}"
        if len(whole.dtypes.values) > 1
        else f"images are bright to different degrees: their bright ends lie from {ends.low:.4g} "
        f"to {ends.high:.4g}"
        if ends.high - ends.low > 0.2 * abs(ends.low)  # which may be below 0
        else "it fits any exposure"
    )
    return "percentile", f"{low:g} to {high:g} of each image; {why}"


def choose_channels(found: DataFingerprint) -> tuple[int, str]:
    """The most that any image needs."""
    whole = found.whole
    counts = whole.channels.values
    if whole.colour == 0 and set(counts) <= {1, 3}:
        stored = ", some stored as three equal channels" if 3 in counts else ""
        return 1, f"all images are gray{stored}"
    gray = whole.images - whole.colour
    if max(counts) == 3:
        mixed = f"; {gray:,} gray ones are repeated three times" if gray else ""
        return 3, f"{whole.colour:,} of {whole.images:,} images are in colour{mixed}"
    return max(counts), "as many as the images have"


class _Bound(NamedTuple):
    """Something that images must not be reduced below."""

    size: float
    """Pixels; NaN where there is none of it."""
    needed: float
    """Pixels that it has to keep."""
    words: str
    condition: str = ""
    """Under which so few pixels are enough, in words."""
    most: float = math.inf
    """Times that it lets images be reduced, however large it is."""

    @property
    def times(self) -> float:
        """That images may be reduced."""
        return min(self.size / self.needed, self.most)


def choose_zoom(
    recipe: Recipe, classes: Classes, train: SplitFingerprint, looks: float
) -> tuple[float, str]:
    """Half as often as what is large stays large enough: a quarter of the pixels, twice the sight.

    Of objects the diameters decide. How wide other classes are says less: what tells them apart may
    be fine. But what is fine is not learned either where there is time for a few looks only.

    Args:
        looks: how often the training sees each image, as large as it is.
    """
    small, median = (diameter_quantile(train.diameters, share) for share in (_SMALL, 0.5))
    longer = train.longer_sides.quantile(0.5)
    finest = recipe.detail * (_THIN_WIDTH if looks < _FEW_LOOKS else _LEAST_WIDTH)
    hurry = f" where there is time for {looks:.1f} looks at each image as large as it is"
    bounds = [
        _Bound(small, recipe.detail * _LEAST_SMALL, "a small object has a diameter of"),
        _Bound(median, recipe.detail * _LEAST_MEDIAN, "the median object has a diameter of"),
        _Bound(
            longer, _suited_side(recipe, train, classes), "half of the images are no longer than"
        ),
    ]
    for spec, pixels, edges in zip(classes, train.class_pixels, train.class_edges, strict=True):
        in_objects = spec.kind == "thing" and train.objects
        if spec.kind != "background" and edges and not in_objects:
            width = 2 * pixels / edges  # of a band: its area by its length, which has two sides
            wide = width >= 2 * recipe.detail * _LEAST_WIDTH
            words, condition = f"{spec.name} has a width of", "" if wide else hurry
            bounds.append(_Bound(width, finest, words, condition, most=2.0))
    known = [one for one in bounds if not math.isnan(one.size)]
    if len(known) == 1:
        return 1.0, "nothing that is annotated says how large things are"
    least = min(known, key=lambda one: (one.times, one.size))
    zoom = 2.0 ** -min(max(0, math.floor(math.log2(least.times))), _MOST_HALVINGS)
    reason = f"{least.words} {least.size:.0f} pixels"
    if zoom < 1:
        enough = f"{least.size * zoom:.0f} are enough{least.condition}"
        reason = f"{reason}: {enough}, and the network sees more and learns faster"
    return zoom, reason


def wanted_depth(recipe: Recipe, train: SplitFingerprint, classes: Classes) -> tuple[int, str]:
    """The depth that the data asks for, whatever the crops are."""
    large = _large_diameter(train)
    if not math.isnan(large):
        depth = recipe.depth
        while depth < 6 and network_context(depth) < _CONTEXT_DIAMETERS * large:
            depth += 1
        return (
            depth,
            f"sees {network_context(depth)} pixels around, and a large object is {large:.0f}",
        )
    if _has_surroundings(classes):
        depth = max(recipe.depth, 5)
        return (
            depth,
            f"sees {network_context(depth)} pixels around: what stuff is shows by its place",
        )
    return recipe.depth, f"sees {network_context(recipe.depth)} pixels around"


def choose_crop(
    recipe: Recipe, train: SplitFingerprint, classes: Classes, depth: int
) -> tuple[int, str]:
    """The device's size, more for large objects, less for small images; a multiple of 2**depth."""
    step = 2**depth
    median = diameter_quantile(train.diameters, 0.5)
    large = _large_diameter(train)
    side, reason = _suited_side(recipe, train, classes), f"suits a {recipe.name}"
    is_scene = _is_scene(train, classes)
    if is_scene:
        reason = f"{reason}, and shows what is around: that says what something is"
    if large * _CROP_DIAMETERS > side:
        side = min(2 * recipe.scene, math.ceil(large * _CROP_DIAMETERS))
        reason = f"large objects have a diameter of {large:.0f} pixels"
    elif not is_scene:
        reason = (
            f"{side / median:.0f} times the median object's diameter of {median:.0f} pixels, "
            f"{side / large:.0f} times a large one's {large:.0f}; {reason}"
        )
    longer = _usual_side(train.longer_sides, side)
    if longer < side:
        side, reason = longer, f"half of the crops are of images no longer than {longer} pixels"
    return max(16, -(-side // step) * step), f"{reason}; a multiple of {step}"


def _large_diameter(train: SplitFingerprint) -> float:
    """In pixels, of what is large: few are larger, by number and by what they cover."""
    quantile = diameter_quantile(train.diameters, _LARGE)
    return max(quantile, area_median(train.diameters))


def _usual_side(longer_sides: Tally[int], crop: int) -> int:
    """The longer side of the images that most crops come from: large ones give more than one."""
    crops = [(side, times * max(1, round(side / crop))) for side, times in longer_sides.counts]
    return Tally(tuple(crops)).quantile(0.5)


def _suited_side(recipe: Recipe, train: SplitFingerprint, classes: Classes) -> int:
    """Of a crop, before objects and images have their say."""
    return recipe.scene if _is_scene(train, classes) else recipe.crop


def _is_scene(train: SplitFingerprint, classes: Classes) -> bool:
    """Whether a crop should show more than an object: what is around says what something is."""
    return math.isnan(diameter_quantile(train.diameters, 0.5)) or _has_surroundings(classes)


def _has_surroundings(classes: Classes) -> bool:
    """Whether what something is shows by what is around it: several kinds of stuff."""
    return sum(spec.kind == "stuff" for spec in classes) > 1


def choose_depth(wanted: tuple[int, str], crop: int) -> tuple[int, str]:
    """What the data asks for, as far as the crop can be halved."""
    depth, reason = wanted
    most = max(d for d in range(1, 8) if d == 1 or (crop % 2**d == 0 and crop >= _COARSEST * 2**d))
    if most < depth:
        return most, f"a crop of {crop} can't be halved more often"
    return depth, reason


def choose_full_resolution(recipe: Recipe) -> tuple[Literal["full", "light"], str]:
    """A processor spends half of its time at full resolution."""
    if recipe.full_resolution == "light":
        return "light", "trains 1.5 times as fast on a CPU, and as well"
    return "full", f"suits a {recipe.name}"


def choose_reach(train: SplitFingerprint) -> tuple[int, str]:
    """As far as a large object is wide: its middle lies half as far, unless it is long."""
    large = _large_diameter(train)
    if large <= _TINY:
        return _TINY_REACH, f"large objects have a diameter of {large:.0f} pixels"
    if math.isnan(large) or large <= _LEAST_REACH:
        return _LEAST_REACH, "enough for objects of any size here"
    return math.ceil(large / 16) * 16, f"large objects have a diameter of {large:.0f} pixels"


def choose_min_area(train: SplitFingerprint) -> tuple[int, str]:
    """Half of a small object, where that is less than what is taken for noise anyway."""
    small = diameter_quantile(train.diameters, _SMALL)
    if math.isnan(small):
        return DEFAULT_MIN_AREA, "fewer pixels are noise"
    area = math.pi / 4 * small**2
    return max(1, min(DEFAULT_MIN_AREA, int(area / 2))), f"small objects have {area:.0f} pixels"


def choose_batch(
    recipe: Recipe, crop: int, width: int | None, hardware: Hardware
) -> tuple[int, str]:
    """The device's number of pixels a step, as far as the memory goes."""
    workers = hardware.workers if hardware.gpus else 1
    suited = round(recipe.step_pixels / crop**2)
    batch = max(_LEAST_BATCH, min(recipe.most_batch, suited))
    each = _BYTES_A_PIXEL * (width or recipe.width) / 16 * crop**2
    room = max(1, int(hardware.memory / 2 / each))
    if not hardware.gpus and room < batch:
        return room, f"{room * each / 2**30:.1f} GiB, half of the memory that is here"
    if batch * workers < hardware.workers:
        return hardware.workers, "a crop for each worker"
    many = f" on each of {workers}" if workers > 1 else ""
    return batch * workers, f"crops of {crop} pixels that suit a {recipe.name}{many}"


def choose_width(
    recipe: Recipe, minutes: float | None, step_pixels: int, hardware: Hardware
) -> tuple[int, str]:
    """The device's, halved where the time is too short for it."""
    width = recipe.width
    if minutes is None or hardware.gpus:
        return width, f"suits a {recipe.name}"

    def steps(width: int) -> float:
        return _pixels_in(minutes, hardware) * (16 / width) ** 2 / step_pixels

    while width > 8 and steps(width) < _FEWEST_STEPS:
        width //= 2
    return (
        width,
        f"about {steps(width):,.0f} steps in {plural(minutes, 'minute')} on {hardware.cpus:g} CPUs",
    )


def looks(train: SplitFingerprint, minutes: float | None, hardware: Hardware) -> float:
    """How often a training of so long sees each image, as large as it is."""
    if minutes is None or hardware.gpus:
        return math.inf
    return _pixels_in(minutes, hardware) / (train.labelled_pixels + train.void_pixels)


def _pixels_in(minutes: float, hardware: Hardware) -> float:
    """That processors train on in so long, at width 16."""
    rate = hardware.cpus * _PIXELS_A_SECOND * (1.0 if hardware.bfloat16 else _FLOAT32)
    return minutes * 60 * rate


def choose_weights(classes: Classes, train: SplitFingerprint) -> tuple[list[float], str]:
    """Inverse square roots of the classes' frequencies, as far as that is wise."""
    equal = [1.0] * len(classes)
    present = {s.name: n for s, n in zip(classes, train.class_pixels, strict=True) if n}
    if len(present) < 3:
        return equal, "equal: Dice balances two classes"
    rarest, most = min(present, key=lambda c: present[c]), max(present.values())
    ratio = most / present[rarest]
    if ratio < _IMBALANCE:
        return equal, f"equal: the most frequent class has {ratio:.0f} times the pixels of {rarest}"
    weights = [
        round(min(_LARGEST_WEIGHT, math.sqrt(most / n)), 2) if n else 1.0
        for n in train.class_pixels
    ]
    return weights, (
        f"{rarest} has {present[rarest] / train.labelled_pixels:.2%} of the pixels: the square "
        f"root of how much rarer a class is than the most frequent, at most {_LARGEST_WEIGHT:g}"
    )


def choose_rare_class(
    classes: Classes, train: SplitFingerprint, side: float, room: float
) -> tuple[float, str]:
    """A share of the crops where a class has few of the pixels, at most `room`.

    In how many windows it is says little: what is learned of a class comes from its pixels, and
    half of all windows may hold a few.
    """
    if sum(spec.kind != "background" for spec in classes) < 2 and train.objects:
        return 0.0, "one class, whose objects sampling.objects looks after"
    present = [
        i
        for i, (spec, pixels) in enumerate(zip(classes, train.class_pixels, strict=True))
        if pixels and spec.kind != "background"
    ]
    if not present:
        return 0.0, "no class has a pixel"
    rarest = min(present, key=lambda i: train.class_pixels[i])
    share = train.class_pixels[rarest] / train.labelled_pixels
    row = _nearest_cell(side)
    held = train.class_cells[row][rarest] / max(train.cells[row], 1)
    return (min(_RARE_SHARE, room) if share < _RARE else 0.0), (
        f"{classes[rarest].name}, the rarest class, has {share:.2%} of the pixels and is in "
        f"{held:.1%} of windows of {CELL_SIDES[row]}"
    )


def choose_objects(
    method: str, train: SplitFingerprint, side: float, room: float
) -> tuple[float, str]:
    """Where many crops would hold no object, so many of them are centred on one; at most `room`."""
    if method == "semantic" or not train.objects:
        return 0.0, "no objects to centre on"
    row = _nearest_cell(side)
    empty = 1 - train.object_cells[row] / max(train.cells[row], 1)
    seen = f"{1 - empty:.0%} of windows of {CELL_SIDES[row]} pixels hold an object"
    return (round(min(_OBJECT_SHARE, empty, room), 2) if empty >= _SCARCE else 0.0), seen


def choose_upright(classes: Classes, train: SplitFingerprint) -> tuple[bool, str]:
    """Where a class nearly always lies above, or below, pictures have an up."""
    for spec, images, *sides in zip(
        classes, train.class_images, train.class_above, train.class_below, strict=True
    ):
        for count, side in zip(sides, ("upper", "lower"), strict=True):
            if images >= max(_FEWEST_UPRIGHT, train.images / 2) and count >= _UPRIGHT * images:
                return True, (
                    f"{spec.name} lies in the {side} part of {count / images:.0%} of its images"
                )
    return False, "no class keeps to the upper or lower part of the images"


def _nearest_cell(side: float) -> int:
    """Which of `CELL_SIDES` what a crop shows is most like."""
    return min(range(len(CELL_SIDES)), key=lambda i: abs(math.log(CELL_SIDES[i] / side)))


def listed(names: list[str]) -> str:
    """For people: `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
