"""`curve.png` in the bundle: how the training went, drawn once it is over."""

from pipeline import storage
from pipeline.training.recorders.history import History
from pipeline.training.reports import EpochReport, StepReport, load_validation

CURVE_NAME = "curve.png"


class CurveRecorder:
    """Collects the epochs and draws them at the end."""

    name = CURVE_NAME

    def __init__(self, output: str) -> None:
        self.history = History(output)

    def step(self, report: StepReport) -> None:
        pass  # an epoch is fine enough for a picture

    def epoch(self, report: EpochReport) -> None:
        self.history.add(report)

    def done(self, bundle_uri: str) -> None:
        from pipeline.training.curve import draw_curve

        self.history.finish(bundle_uri)
        picture = draw_curve(self.history.lines, load_validation(bundle_uri))
        storage.write_bytes(storage.join(bundle_uri, CURVE_NAME), picture)

    def close(self) -> None:
        pass
