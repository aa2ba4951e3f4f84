"""A run in MLflow: settings as parameters, figures as metrics, the model card as an artifact."""

import os
import re
import tempfile
import time
from typing import Any

from pipeline import storage
from pipeline.config import TrainSettings
from pipeline.errors import SettingsError
from pipeline.models.bundle import SPEC_NAME
from pipeline.training.recorders.history import METRICS_NAME
from pipeline.training.reports import VALIDATION_NAME, EpochReport, StepReport

_EXPERIMENT = "tessera"
_OUTPUT_TAG = "tessera.output"
_MOST_PARAMS, _LONGEST_PARAM = 100, 500  # in one call; characters that every MLflow server takes


class MLflowRecorder:
    """A run of the server that MLFLOW_TRACKING_URI names, in MLFLOW_EXPERIMENT_NAME or `tessera`.

    A training that is resumed goes on in the run that it began.

    Raises:
        SettingsError: the package `mlflow` is missing.
    """

    name = "MLflow"

    def __init__(self, settings: TrainSettings, tracking_uri: str) -> None:
        # The package reports its use to its makers unless told not to.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise SettingsError(
                "MLFLOW_TRACKING_URI is set but MLflow is not installed: pip install "
                "mlflow-skinny, or give --no-record.mlflow"
            ) from error
        self.settings = settings
        self.output = storage.absolute(settings.output)
        self.client = MlflowClient(tracking_uri=tracking_uri)
        self.run_id = ""
        self.status = "FAILED"
        self.experiment_id = self._experiment()

    def step(self, report: StepReport) -> None:
        pass  # an epoch's figures are enough for a server to keep

    def epoch(self, report: EpochReport) -> None:
        from mlflow.entities import Metric

        if not self.run_id:
            self.run_id = self._resumed_run() if report.epoch > 1 else ""
            self.run_id = self.run_id or self._new_run()
        values = {
            "train/loss": report.loss,
            "train/learning_rate": report.learning_rate,
            "train/megapixels_per_second": report.pixels_per_second / 1e6,
        } | {f"val/{name}": value for name, value in report.metrics.items()}
        now = int(time.time() * 1000)
        metrics = [Metric(_allowed(k), v, now, report.step) for k, v in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def done(self, bundle_uri: str) -> None:
        keep = {"README.md", "curve.png", "settings.yaml", SPEC_NAME, METRICS_NAME, VALIDATION_NAME}
        with tempfile.TemporaryDirectory() as folder:
            for name in keep & set(storage.list_names(bundle_uri)):
                data = storage.read_bytes(storage.join(bundle_uri, name))
                storage.write_bytes(storage.join(folder, name), data)
            self.client.log_artifacts(self.run_id, folder)
        self.status = "FINISHED"

    def close(self) -> None:
        if self.run_id:
            self.client.set_terminated(self.run_id, self.status)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    def _new_run(self) -> str:
        from mlflow.entities import Param

        run = self.client.create_run(
            self.experiment_id,
            tags={_OUTPUT_TAG: self.output},
            run_name=storage.name_of(self.output),
        )
        run_id = str(run.info.run_id)
        values = _flat(self.settings.model_dump(mode="json", exclude_none=True))
        params = [Param(k, str(v)[:_LONGEST_PARAM]) for k, v in values.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self.client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
        return run_id

    def _resumed_run(self) -> str:
        quoted = self.output.replace("'", "\\'")
        runs = self.client.search_runs(
            [self.experiment_id],
            filter_string=f"tags.`{_OUTPUT_TAG}` = '{quoted}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if not runs:
            return ""
        self.client.update_run(runs[0].info.run_id, status="RUNNING")
        return str(runs[0].info.run_id)


def _allowed(name: str) -> str:
    """MLflow's names hold letters, digits, and a few signs."""
    return re.sub(r"[^\w\-. /:]", "_", name, flags=re.ASCII)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
