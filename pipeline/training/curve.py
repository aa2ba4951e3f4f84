"""One picture of how a training went: loss, learning rate, figures on validation, calibration."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.metrics import Reliability
from pipeline.training.recorders.history import EpochLine, best_of
from pipeline.training.reports import Validation

if TYPE_CHECKING:  # heavy, and needed at the very end only
    from matplotlib.axes import Axes

_INK, _MUTED = "#1f2933", "#9aa5b1"
_LINES = ("#1b6ca8", "#d1495b", "#2a9d5c", "#e09f3e", "#6d597a", "#3d405b")
_MAIN = ("score", "ap_0.5", "ap_0.7", "ap_0.9", "pq", "mean_iou")
_MARKED_UNTIL = 30  # epochs; more points than that are a line without dots


def draw_curve(lines: Sequence[EpochLine], validation: Validation) -> bytes:
    """The bytes of a PNG of 1400 x 1000 pixels.

    Args:
        lines: the epochs in order.
        validation: of the model that was published.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    loss, figures, rate, calibration = figure.subplots(2, 2).ravel()
    epochs = [line for line in lines if not line.final]
    _plot(loss, epochs, [line.loss for line in epochs], "mean since the point before", _LINES[0])
    _dress(loss, "Training loss", "step")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _plot(rate, epochs, [line.learning_rate for line in epochs], "at each validation", _LINES[0])
    _dress(rate, "Learning rate", "step")
    rate.set_ylim(bottom=0)
    _draw_figures(figures, epochs)
    _draw_reliability(calibration, validation)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw_figures(axes: "Axes", epochs: Sequence[EpochLine]) -> None:
    # A method that is judged by pixels alone has its mean IoU as score: one line is enough.
    by_pixels = all(line.metrics.get("mean_iou") == line.metrics["score"] for line in epochs)
    names = [name for name in _MAIN if all(name in line.metrics for line in epochs)]
    names = [name for name in names if not (by_pixels and name == "mean_iou")]
    for name, colour in zip(names, _LINES, strict=False):
        values = [line.metrics[name] for line in epochs]
        label = "score (mean_iou)" if by_pixels else name
        _plot(axes, epochs, values, label, colour, bold=name == "score")
    best = best_of(epochs)
    axes.axvline(best.step, color=_MUTED, linewidth=1, linestyle=":")
    axes.set_ylim(0, 1)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    title = f"On validation images: best score {best.metrics['score']:.3f}, step {best.step:,}"
    _dress(axes, title, "step")


def _plot(
    axes: "Axes",
    epochs: Sequence[EpochLine],
    values: Sequence[float],
    label: str,
    colour: str,
    *,
    bold: bool = False,
) -> None:
    marker = "o" if len(epochs) <= _MARKED_UNTIL else ""
    width = 2.6 if bold else 1.4
    numbers = [line.step for line in epochs]
    axes.plot(numbers, values, label=label, color=colour, linewidth=width, marker=marker, ms=4)


def _draw_reliability(axes: "Axes", validation: Validation) -> None:
    """The share that was right over the stated confidence; dots as large as their bins are full."""
    axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle="--")
    parts = {"objects, right at IoU 0.5": validation.figures.scores, "pixels": validation.pixels}
    colours = iter(_LINES)
    for name, part in parts.items():
        if part is not None and part.error is not None:
            _draw_bins(axes, part, f"{name}: error {part.error:.3f}", next(colours))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share that was right", color=_INK)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2, frameon=False)
    _dress(axes, "Calibration of the published model", "stated confidence")


def _draw_bins(axes: "Axes", part: Reliability, label: str, colour: str) -> None:
    rows = [
        (confidence / n, right / n, n)
        for n, confidence, right in zip(part.counts, part.confidences, part.correct, strict=True)
        if n
    ]
    x, y, n = zip(*rows, strict=True)
    # Dots alone: a line would give a bin of two objects the weight of one of two thousand.
    sizes = [15 + 600 * count / part.total for count in n]
    axes.scatter(x, y, s=sizes, color=colour, alpha=0.7, linewidths=0, label=label, clip_on=False)


def _dress(axes: "Axes", title: str, below: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", color=_INK, fontsize=13)
    axes.set_xlabel(below, color=_INK)
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if below == "step":
        axes.set_xlim(left=0)  # where a short training has one point, an axis about it says nothing
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
