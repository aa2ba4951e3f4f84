"""Starts a run of the schedule: a RayJob copied from the suspended one that is its template.

The run's name carries the time on the schedule, not the clock's, so what is launched twice runs
once. Nothing is launched while another run of the schedule is at work. Needs Python alone.
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ENDED = ("Complete", "Failed", "ValidationFailed")


def run_name(job: str) -> str:
    """nightly-29511480 → nightly-2026-02-10-0200.

    A CronJob's Job ends in its minute on the schedule, counted from 1970. One that was made by
    hand (`kubectl create job --from=cronjob/nightly nightly-again`) keeps its name.
    """
    schedule, _, minutes = job.rpartition("-")
    if not minutes.isdecimal():
        return job
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=int(minutes))
    return f"{schedule}-{time:%Y-%m-%d-%H%M}"


def launch(env: Mapping[str, str], server: str, account: Path = ACCOUNT) -> str:
    """Launch the run if it is due, and say what was done."""
    template, name = env["TEMPLATE"], run_name(env["JOB_NAME"])
    namespace, token = ((account / key).read_text() for key in ("namespace", "token"))
    url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    trusted = ssl.create_default_context(cafile=account / "ca.crt") if "https:" in url else None

    def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:
            return json.load(answer)

    for run in call(f"{url}?labelSelector=tessera-schedule%3D{template}")["items"]:
        if run.get("status", {}).get("jobDeploymentStatus") not in ENDED:
            return f"{name} is not launched: {run['metadata']['name']} is still at work"
    labels = {"tessera-schedule": template}
    if env.get("QUEUE"):
        labels["kueue.x-k8s.io/queue-name"] = env["QUEUE"]
    # The run goes when its Job goes from the CronJob's history.
    job = {"apiVersion": "batch/v1", "kind": "Job", "name": env["JOB_NAME"], "uid": env["JOB_UID"]}
    metadata = {"name": name, "labels": labels, "ownerReferences": [job]}
    spec = call(f"{url}/{template}")["spec"] | {"suspend": False}
    try:
        call(url, {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec})
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        return f"{name} is not launched: it exists already"
    return f"{name} is launched"


def main() -> int:
    """Launch from inside the cluster."""
    try:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        print(launch(os.environ, f"https://{host}:{port}"))
    except OSError as error:  # urllib's are, too
        print(f"error: the run could not be launched: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
