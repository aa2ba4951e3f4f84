"""What is wrong with annotated images: *problems* stop a training, *notes* are for the eye.

A file that could not be read is a problem found where it was read; here is what shows only when
all images have been seen.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import DataProblems
from pipeline.labels.base import first_few
from pipeline.records import Classes, Problem
from pipeline.survey.facts import ImageFacts
from pipeline.survey.fingerprint import USED_SPLITS, is_empty, is_void
from pipeline.wording import plural

_HOLD_OUT = (
    "hold out others, by folders, valid.txt or manifest.csv, or more of them (--val-fraction)"
)
_FEW_IMAGES, _FEW_OBJECTS = 3, 100  # for validation: of fewer of both, figures say little
_COULD_BE_MORE = 6  # images of both splits, from which on there is a choice


@dataclass(frozen=True)
class Findings:
    """What was found wrong."""

    problems: tuple[Problem, ...]
    """Each stops a training."""
    notes: tuple[Problem, ...]
    """Each is worth a look."""

    def check(self) -> None:
        """Go on only if nothing stops a training.

        Raises:
            DataProblems: one line a problem.
        """
        if self.problems:
            raise DataProblems(tuple(str(problem) for problem in self.problems))


def find_problems(
    uri: str,
    splits: Iterable[str],
    facts: Sequence[ImageFacts],
    unreadable: Iterable[Problem],
    classes: Classes,
    channels: int | None = None,
    void: int | None = None,
    noted: Iterable[Problem] = (),
) -> Findings:
    """All that is wrong with a data set.

    Args:
        uri: of the data set, for what is wrong with it as a whole.
        splits: of the images that are listed, readable or not.
        facts: of each image that could be read.
        unreadable: what was wrong with the others.
        classes: the data set's.
        channels: that the network is to take, where a setting says so.
        void: the value of pixels that nobody labelled, where a setting can name another.
        noted: what was worth a look already where the data set was opened.
    """
    problems = _lacking_splits(uri, list(splits))
    problems += unreadable
    problems += _nothing_to_learn(uri, facts, classes, void)
    problems += _objects_and_classes(uri, facts, classes)
    problems += _mixed_channels(facts, channels)
    problems += _across_splits(facts)
    notes = [
        *noted,
        *_remarks(uri, facts),
        *_strays(uri, facts),
        *_empty(uri, facts, classes),
        *_absent(uri, facts, classes),
        *_unmeasured(uri, facts, classes),
        *_repeated(facts),
    ]
    return Findings(tuple(problems), tuple(notes))


def widest(facts: Iterable[ImageFacts]) -> int:
    """The most channels that any image has; 1 where all that have three are gray."""
    most = 1
    for one in facts:
        if one.channels != 3 or one.colour:
            most = max(most, one.channels)
    return most


def _lacking_splits(uri: str, splits: Sequence[str]) -> list[Problem]:
    needs = "a training takes at least one to learn from and another to be measured on"
    if len(splits) == 1:
        needs += "; a single image can be cut into two"
    lacking = [split for split in USED_SPLITS if split not in splits]
    return [Problem(uri, f"has no image of the split {split}: {needs}") for split in lacking]


def _nothing_to_learn(
    uri: str, facts: Iterable[ImageFacts], classes: Classes, void: int | None
) -> Iterator[Problem]:
    """A split without a labelled pixel trains or validates on nothing; background alone, too.

    Validated on background alone, a network that finds nothing is the best, with an AP of 1.
    """
    members = defaultdict(list)
    for one in facts:
        members[one.split].append(one)
    for split in sorted(members.keys() & USED_SPLITS):
        images = f"in the images of the split {split}"
        if all(is_void(one) for one in members[split]):
            yield Problem(uri, f"labels nothing {images}: every pixel is void{_on_void(void)}")
        elif split == "train" and all(is_empty(one, classes) for one in members[split]):
            pixels = sum(one.height * one.width for one in members[split])
            share = sum(one.void_pixels for one in members[split]) / pixels
            rest = f"; {share:.0%} of their pixels are void{_on_void(void)}" if share else ""
            yield Problem(uri, f"labels nothing but background {images}{rest}")
            return
        elif all(is_empty(one, classes) for one in members[split]):
            yield Problem(
                uri,
                f"labels nothing but background {images}: what finds nothing would be the best "
                f"there; {_HOLD_OUT}",
            )


def _on_void(void: int | None) -> str:
    """How class maps say void, where the data set has values for it."""
    if void is None:
        return ""
    return (
        f" (the value {void} means not labelled: --labels.void names another, and a class list "
        "with colours says what each stands for: class_dict.csv with name,r,g,b, such as "
        "cell,255,255,255)"
    )


def _objects_and_classes(
    uri: str, facts: Sequence[ImageFacts], classes: Classes
) -> Iterator[Problem]:
    """Where objects are labelled, every image with pixels of things tells their objects."""
    things = [place for place, spec in enumerate(classes) if spec.kind == "thing"]
    if things and any(one.stray for one in facts) and not any(one.objects for one in facts):
        yield Problem(uri, "has objects, but none of them on pixels of a class of things")
    if not any(one.objects for one in facts):
        return
    for one in facts:
        held = [classes[place].name for place in things if one.class_pixels[place]]
        if held and not one.objects and not one.stray:
            what = f"has pixels of {held[0]} but no object, where other images have objects"
            yield Problem(one.name, f"{what}: their map is missing or empty")


def _strays(uri: str, facts: Iterable[ImageFacts]) -> Iterator[Problem]:
    found = {one.name: one.stray for one in facts if one.stray}
    if found:
        yield Problem(
            uri,
            "has objects most of whose pixels are of no class of things, which don't count: "
            f"{sum(found.values()):,} in {first_few(list(found))}",
        )


def _mixed_channels(facts: Sequence[ImageFacts], channels: int | None) -> Iterator[Problem]:
    """Gray fits any network and colour a gray one; nothing else fits another count."""
    wanted = channels or widest(facts)
    for one in facts:
        if one.channels not in (1, wanted) and not (one.channels == 3 and wanted == 1):
            why = "setting channels says" if channels else "the network takes for the others"
            yield Problem(one.name, f"has {one.channels} channels, not {wanted} as {why}")


def _across_splits(facts: Iterable[ImageFacts]) -> Iterator[Problem]:
    for group in _same_content(facts):
        for one in group[1:]:
            if one.split != group[0].split:
                yield Problem(
                    one.name,
                    f"in the split {one.split} is the same image as {group[0].name} in "
                    f"{group[0].split}: what is measured on it would be learnt by heart",
                )


def _repeated(facts: Iterable[ImageFacts]) -> Iterator[Problem]:
    for group in _same_content(facts):
        for split, times in Counter(one.split for one in group).items():
            if times > 1:
                names = [one.name for one in group if one.split == split]
                yield Problem(names[0], f"is the same image as {first_few(names[1:])} in {split}")


def _empty(uri: str, facts: Iterable[ImageFacts], classes: Classes) -> Iterator[Problem]:
    names = defaultdict(list)
    for one in facts:
        if is_empty(one, classes):
            names[one.split, is_void(one)].append(one.name)
    for (split, nothing), some in sorted(names.items()):
        what = "nothing but void" if nothing else "nothing but background"
        yield Problem(uri, f"labels {what} in {len(some)} of {split}: {first_few(some)}")


def _remarks(uri: str, facts: Iterable[ImageFacts]) -> Iterator[Problem]:
    """What readers had to decide, a line a kind."""
    times: Counter[str] = Counter()
    names = defaultdict(list)
    for one in facts:
        for remark in one.remarks:
            times[remark.what] += remark.times
            names[remark.what].append(one.name)
    for what in sorted(times):
        yield Problem(uri, f"has {what}: {times[what]:,} in {first_few(names[what])}")


def _absent(uri: str, facts: Sequence[ImageFacts], classes: Classes) -> Iterator[Problem]:
    if not any(one.split == "train" for one in facts):
        return
    names = defaultdict(list)
    for place, spec in enumerate(classes):
        seen = {one.split for one in facts if one.class_pixels[place]}
        if spec.kind != "background" and "train" not in seen:
            names[" and ".join(sorted(seen))].append(spec.name)
    for seen_in, some in sorted(names.items()):
        others = f", but in {seen_in}" if seen_in else " or anywhere else"
        rest = "it cannot be learnt" if len(some) == 1 else "they cannot be learnt"
        yield Problem(uri, f"has no pixel of {first_few(some)} in train{others}: {rest}")


def _unmeasured(uri: str, facts: Sequence[ImageFacts], classes: Classes) -> Iterator[Problem]:
    """What is learnt, and measured on too little or nothing."""
    train, val = ([one for one in facts if one.split == split] for split in USED_SPLITS)
    if not val or all(is_empty(one, classes) for one in val):
        return  # which is a problem
    few = len(val) < _FEW_IMAGES and sum(one.objects for one in val) < _FEW_OBJECTS
    if few and len(train) + len(val) >= _COULD_BE_MORE:
        yield Problem(
            uri,
            f"has {plural(len(val), 'image')} in val: what is measured and tuned on so few says "
            f"little of others; {_HOLD_OUT}",
        )
    some = [
        spec.name
        for place, spec in enumerate(classes)
        if spec.kind != "background"
        and any(one.class_pixels[place] for one in train)
        and not any(one.class_pixels[place] for one in val)
    ]
    if some:
        what = f"has no pixel of {first_few(some)} in val, but in train"
        yield Problem(uri, f"{what}: how well it is learnt shows nowhere; {_HOLD_OUT}")


def _same_content(facts: Iterable[ImageFacts]) -> list[list[ImageFacts]]:
    groups = defaultdict(list)
    for one in sorted(facts, key=lambda one: (one.split, one.name)):
        groups[one.content].append(one)
    return [group for group in groups.values() if len(group) > 1]
