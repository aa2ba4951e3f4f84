"""The model card: what a model is, what it was made of, and how far to trust it.

Markdown with a YAML head, as model hubs read it. This module makes text of facts; it reads and
writes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import yaml

from pipeline import storage
from pipeline.config import TrainSettings
from pipeline.metrics import Reliability
from pipeline.metrics.figures import ClassFigures
from pipeline.metrics.true_counts import CONFIDENCE, Counted, expect
from pipeline.models.bundle import BundleSpec
from pipeline.records import Classes, reported
from pipeline.training.reports import Needs, Validation
from pipeline.wording import plural

CARD_NAME = "README.md"
_NORMS = {
    "weight": "weight standardisation",
    "batch": "batch normalisation",
    "group": "group normalisation",
    "instance": "instance normalisation",
    "none": "no normalisation layers",
}


@dataclass(frozen=True)
class Machine:
    """What the training ran on."""

    workers: int
    threads: int
    """Of each worker."""
    cpus: float
    """Of the whole cluster."""
    gpus: int
    needs: Needs | None
    """Of each worker; None where nothing was left to train."""


@dataclass(frozen=True)
class CardFacts:
    """All that a card tells."""

    spec: BundleSpec
    settings: TrainSettings
    validation: Validation
    images: dict[str, int]
    """Split → number of images."""
    machine: Machine
    seconds: float
    epochs: int
    data_rows: Sequence[tuple[str, str]] = ()
    """Further facts about the data set: what, and how much."""


def model_card(facts: CardFacts) -> str:
    """The text of a bundle's README.md."""
    parts = [
        _head(facts),
        f"# {storage.name_of(storage.absolute(facts.settings.output))}\n",
        _what_it_is(facts),
        _how_to_predict(facts),
        _figures(facts.validation, facts.images.get("val", 0)),
        _counts(facts),
        _calibration(facts),
        _curve(facts.settings),
        _data(facts),
        _training(facts),
        _notes(facts.settings),
    ]
    return "\n".join(part for part in parts if part)


def _head(facts: CardFacts) -> str:
    head = {
        "library_name": "tessera",
        "pipeline_tag": "image-segmentation",
        "tags": ["u-net", f"{facts.spec.method.name}-segmentation"],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def _what_it_is(facts: CardFacts) -> str:
    spec = facts.spec
    ability = {
        "semantic": "tells the classes of pixels apart",
        "instance": "finds objects, touching ones each for itself",
        "proposals": "finds objects, overlapping ones each whole",
    }[spec.method.name]
    network = spec.network
    how = "reduced" if spec.zoom < 1 else "enlarged"
    zoom = f"; it sees images {how} to {spec.zoom:g} times their size" if spec.zoom != 1 else ""
    return (
        f"A U-Net that {ability}, from images of {plural(spec.channels, 'channel')}: "
        f"{_listed(spec.classes)}. Method `{spec.method.name}`, depth {network.depth}, width "
        f"{network.width}, {_NORMS[network.norm]}; intensities by {spec.normalize.kind}{zoom}. "
        f"Fingerprint `{spec.fingerprint}`.\n"
    )


def _how_to_predict(facts: CardFacts) -> str:
    output = facts.settings.output
    # A path of the machine that it was trained on means nothing where it is read.
    model = storage.name_of(output) if output.startswith(("/", "~")) else output
    command = f"python -m jobs.predict --input IMAGES --model {model} --output RESULTS"
    return _section("How to predict", f"```bash\n{command}\n```\n")


def _figures(validation: Validation, held_out: int) -> str:
    figures = validation.figures
    some = f"{figures.images:,} of the " if figures.images < held_out else ""
    text = f"On {some}{plural(held_out, 'image')} held out"
    if figures.ap_mean:
        thresholds = list(figures.ap_mean)
        text += (
            ". AP is TP / (TP + FP + FN) of objects matched one to one within their class, at "
            "each threshold of IoU; the errors of counts are relative to the number of true "
            "objects.\n\n"
        )
        text += _table(
            ["AP at IoU", *thresholds],
            [
                ["mean over images", *figures.ap_mean.values()],
                ["all objects together", *figures.ap_pooled.values()],
            ],
        )
    else:
        text += ".\n"
    whole = [
        ("score", validation.score),
        ("panoptic quality", figures.pq),
        ("count error", figures.count_error),
        ("count bias", figures.count_bias),
        ("mean IoU of pixels", figures.mean_iou),
    ]
    known = [(name, value) for name, value in whole if value is not None]
    text += "\n" + _table([name for name, _ in known], [[value for _, value in known]])
    text += "\n" + _table(*class_table(figures.classes))
    return _section("Figures", text)


def class_table(classes: Iterable[ClassFigures]) -> tuple[list[str], list[list[object]]]:
    """Header and rows of the figures by class."""
    header = ["class", "Dice", "IoU", "PQ", "AP@.5", "true", "predicted", "count error", "bias"]
    rows: list[list[object]] = [
        [c.name, c.dice, c.iou, c.pq, c.ap_50, c.n_true, c.n_predicted, c.count_error, c.count_bias]
        for c in classes
    ]
    shown = [i for i in range(len(header)) if any(row[i] is not None for row in rows)]
    return [header[i] for i in shown], [[row[i] for i in shown] for row in rows]


def _counts(facts: CardFacts) -> str:
    counts = facts.validation.figures.counts
    rows: list[list[object]] = []
    for spec in facts.spec.classes:
        if spec.id not in counts:
            continue
        known = counts[spec.id]
        row: list[object] = [spec.name, known.ratio]
        for images in (1, 100):
            each = 100  # objects
            found = expect([(Counted(images, images * each, images * each**2), known)])
            row.append(f"{found.objects:,.0f} ± {found.error:,.0f}")
        rows.append(row)
    if not rows:
        return ""
    text = (
        "How many objects there truly are where so many are counted, in images like those that "
        f"were held out; in {CONFIDENCE:.0%} of cases the truth lies within the error. "
        "`jobs.count` tells the same of predictions.\n\n"
    )
    header = ["class", "true for one counted", "100 in an image", "10,000 in a hundred"]
    return _section("Counts", text + _table(header, rows))


def _calibration(facts: CardFacts) -> str:
    validation, given, used = facts.validation, facts.settings.method, facts.spec.method
    as_given = (given.score_slope, given.score_shift) == (used.score_slope, used.score_shift)
    score = "an object's score" + ("" if as_given else ", learned on these images,")
    parts = []
    for what, part in (
        (f"{score} against having a true partner at IoU 0.5", validation.figures.scores),
        ("a pixel's confidence against having the right class", validation.pixels),
    ):
        if part is not None and part.error is not None and part.gap is not None:
            side = "over" if part.gap > 0 else "under"
            parts.append(
                f"Expected calibration error {part.error:.3f} ({side}confident by "
                f"{abs(part.gap):.3f}): {what}.\n\n{_bins(part)}"
            )
    if used.min_score:
        parts.append(f"Objects with a score under {used.min_score} are left out (`--min-score`).\n")
    return _section("Calibration", "\n".join(parts)) if parts else ""


def _bins(part: Reliability) -> str:
    width = 1 / len(part.counts)
    rows: list[list[object]] = [
        [f"{i * width:.2f} to {(i + 1) * width:.2f}", n, confidence / n, right / n]
        for i, (n, confidence, right) in enumerate(
            zip(part.counts, part.confidences, part.correct, strict=True)
        )
        if n
    ]
    return _table(["stated", "how many", "mean stated", "share right"], rows)


def _curve(settings: TrainSettings) -> str:
    return "![The course of the training](curve.png)\n" if settings.record.curve else ""


def _data(facts: CardFacts) -> str:
    name = storage.name_of(facts.settings.data)
    rows: list[list[object]] = [
        [f"images of the split {split}", count] for split, count in facts.images.items()
    ]
    rows += [list(row) for row in facts.data_rows]
    return _section("Data", f"`{name}`\n\n" + _table(["what", "how much"], rows))


def _training(facts: CardFacts) -> str:
    machine, settings = facts.machine, facts.settings
    place = plural(machine.cpus, "CPU core")
    place += f", {plural(machine.gpus, 'GPU')}" if machine.gpus else ""
    threads = f" of {plural(machine.threads, 'thread')}" if not machine.gpus else ""
    text = (
        f"{facts.seconds / 60:.1f} minutes, {plural(facts.epochs, 'epoch')}, on {place}: "
        f"{plural(machine.workers, 'worker')}{threads}{_needs(machine.needs)}.\n\n"
        "Settings that are not the defaults; `settings.yaml` has all of them:\n\n"
    )
    hidden = {"config", "data", "output", "checkpoints", "record", "notes", "log"}
    changed = settings.model_dump(mode="json", exclude=hidden, exclude_defaults=True)
    body = yaml.safe_dump(changed, sort_keys=False) if changed else "# none\n"
    return _section("Training", f"{text}```yaml\n{body}```\n")


def _needs(needs: Needs | None) -> str:
    if needs is None:
        return ""
    on_device = needs.peak_device_memory
    more = f" and {on_device / 2**30:.1f} GiB of its GPU's" if on_device else ""
    return f", {needs.device}, at most {needs.peak_memory / 2**30:.1f} GiB of memory each{more}"


def _notes(settings: TrainSettings) -> str:
    return _section("Notes", settings.notes.strip() + "\n") if settings.notes else ""


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    sides = ["---", *["---:"] * (len(header) - 1)]
    lines = [header, sides, *[[_cell(value) for value in row] for row in rows]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def _listed(classes: Classes) -> str:
    return ", ".join(f"{spec.name} ({spec.kind})" for spec in reported(classes))
