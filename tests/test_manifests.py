"""What the manifests promise, held against what a cluster would get."""

import json
import re
import shlex
from pathlib import Path

import pytest

from pipeline.config import JobSettings, PredictSettings, TrainSettings
from pipeline.parsing import load
from tests.conftest import ROOT
from tests.manifests import (
    KUBERNETES,
    Manifest,
    all_pods,
    cluster_specs,
    job_specs,
    of_kind,
    pins,
    problems,
    ray_pods,
    render,
    rendered_folders,
)

pytestmark = pytest.mark.parametrize(
    "folder", rendered_folders(), ids=lambda folder: str(folder.relative_to(KUBERNETES))
)
STOP_SECONDS = 60  # that a job has to stop in good order: see RAY_JOB_STOP_WAIT_TIME_S
SETTINGS: dict[str, type[JobSettings]] = {"predict": PredictSettings, "train": TrainSettings}


def test_every_field_is_one_that_kubernetes_and_kuberay_know(folder: Path) -> None:
    found = [problem for manifest in render(folder) for problem in problems(manifest)]
    assert found == []


def test_everything_is_in_one_namespace(folder: Path) -> None:
    for manifest in render(folder):
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "tessera"


def test_the_head_computes_nothing_and_is_never_taken_away(folder: Path) -> None:
    for spec in cluster_specs(render(folder)):
        head = spec["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0"
        assert head["rayStartParams"]["num-gpus"] == "0"
        affinity = head["template"]["spec"]["affinity"]["nodeAffinity"]
        terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        # Terms are alternatives: each must keep the head off both kinds of spot nodes.
        for term in terms:
            kept_off = {e["key"]: (e["operator"], e["values"]) for e in term["matchExpressions"]}
            assert kept_off["karpenter.sh/capacity-type"] == ("NotIn", ["spot"])
            assert kept_off["eks.amazonaws.com/capacityType"] == ("NotIn", ["SPOT"])


def test_the_size_follows_the_demand_or_is_fixed(folder: Path) -> None:
    for spec in cluster_specs(render(folder)):
        groups = spec["workerGroupSpecs"]
        # Without a worker at its start, a job would not know what it can use.
        assert sum(group["minReplicas"] for group in groups) > 0
        if spec["enableInTreeAutoscaling"]:
            assert spec["autoscalerOptions"]["version"] == "v2"
        else:
            assert groups[0]["minReplicas"] == groups[0]["maxReplicas"] == groups[0]["replicas"]
            assert all(group["replicas"] == 0 for group in groups[1:])


def test_spot_comes_before_on_demand(folder: Path) -> None:
    for spec in cluster_specs(render(folder)):
        on = {
            group["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"]: group
            for group in spec["workerGroupSpecs"]
            if "nodeSelector" in group["template"]["spec"]
        }
        assert set(on) in (set(), {"spot", "on-demand"})
        if on:
            assert on["spot"]["priority"] > on["on-demand"]["priority"]
            gpus = [g["template"]["spec"]["containers"][0]["resources"] for g in on.values()]
            assert all(resources["limits"]["nvidia.com/gpu"] == "1" for resources in gpus)


def test_ray_is_behind_a_token_and_reached_from_inside_only(folder: Path) -> None:
    manifests = render(folder)
    assert of_kind(manifests, "Ingress") == of_kind(manifests, "Service") == []
    for spec in cluster_specs(manifests):
        assert spec["authOptions"]["mode"] == "token"
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert spec["headGroupSpec"]["enableIngress"] is False


def test_every_run_ends_and_frees_its_nodes(folder: Path) -> None:
    for spec in job_specs(render(folder)).values():
        assert spec["shutdownAfterJobFinishes"] is True
        assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
        assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
        assert spec["backoffLimit"] > 0


def test_no_credentials_are_written_down(folder: Path) -> None:
    text = json.dumps(render(folder))
    assert not re.search(r"AWS_SECRET|AWS_ACCESS_KEY|AWS_SESSION_TOKEN|runtimeEnvYAML", text)
    assert '"kind": "Secret"' not in text


def test_pods_have_no_rights_that_they_do_not_need(folder: Path) -> None:
    for pod in all_pods(render(folder)):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (security["runAsUser"], security["runAsGroup"]) == (1000, 100)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for spec in cluster_specs(render(folder)):
        if spec["enableInTreeAutoscaling"]:  # its container is in the head's pod
            security = spec["autoscalerOptions"]["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}


def test_memory_is_what_was_asked_for(folder: Path) -> None:
    for pod in all_pods(render(folder)):
        for container in pod["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
    for pod in ray_pods(render(folder)):
        mounts = {m["mountPath"]: m["name"] for m in pod["spec"]["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["spec"]["volumes"]}
        assert volumes[mounts["/dev/shm"]]["medium"] == "Memory"
        assert "sizeLimit" in volumes[mounts["/dev/shm"]]
        assert "sizeLimit" in volumes[mounts["/tmp/ray"]]


def test_what_is_stopped_has_the_time_to_stop_in_good_order(folder: Path) -> None:
    for pod in ray_pods(render(folder)):
        _, seconds = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert STOP_SECONDS < int(seconds) < pod["spec"]["terminationGracePeriodSeconds"]


def test_one_image_and_one_ray_everywhere(folder: Path) -> None:
    manifests = render(folder)
    images = {c["image"] for pod in all_pods(manifests) for c in pod["spec"]["containers"]}
    assert len(images) == 1
    assert re.fullmatch(r"registry\.example\.com/tessera:\d+\.\d+\.\d+-(cpu|gpu)", images.pop())
    assert {spec["rayVersion"] for spec in cluster_specs(manifests)} <= {pins()["ray"]}


def test_entry_points_are_commands_that_the_jobs_take(folder: Path) -> None:
    for spec in job_specs(render(folder)).values():
        python, dash_m, module, *flags = shlex.split(spec["entrypoint"])
        assert (python, dash_m) == ("python", "-m")
        job = module.removeprefix("jobs.")
        assert (ROOT / f"jobs/{job}.py").exists()
        settings = load(SETTINGS[job], flags, {})
        assert settings.log == "json"
        # A retry is the same command again, which must go on where the first one was.
        assert settings.resume if job == "train" else settings.wait_minutes > 0


def test_ray_pods_are_closed_but_to_those_who_must_reach_them(folder: Path) -> None:
    manifests = render(KUBERNETES / "overlays/cpu")  # the policies are there for all of them
    policies = {m["metadata"]["name"]: m for m in of_kind(manifests, "NetworkPolicy")}
    policy, helpers = policies["ray"], policies["helpers"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    for pod in ray_pods(render(folder)):
        assert labels.items() <= pod["metadata"]["labels"].items()
    helping = helpers["spec"]["podSelector"]["matchExpressions"][0]["values"]
    others = {pod["metadata"]["labels"]["tessera"] for pod in all_pods(render(folder))} - {"ray"}
    assert others <= set(helping)
    for one in (policy, helpers):
        assert one["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in helpers["spec"]
    ports = _ports(render(folder))
    open_to = [
        (rule["from"], {port["port"] for port in rule.get("ports", [])})
        for rule in policy["spec"]["ingress"]
    ]
    everything = [peers for peers, numbers in open_to if not numbers]
    assert everything == [[{"podSelector": {"matchLabels": labels}}]]
    offered = {ports["dashboard"], ports["metrics"], ports["as-metrics"], ports["dash-metrics"]}
    assert set().union(*(numbers for _, numbers in open_to)) == offered


def test_metrics_are_read_at_ports_that_pods_name(folder: Path) -> None:
    ports = _ports(render(folder))
    monitors = of_kind(render(KUBERNETES / "overlays/cpu"), "PodMonitor")
    read = {e["port"] for monitor in monitors for e in monitor["spec"]["podMetricsEndpoints"]}
    assert read == {"metrics", "as-metrics", "dash-metrics"} <= set(ports)
    for monitor in monitors:
        assert monitor["spec"]["selector"]["matchLabels"]["tessera"] == "ray"
    for pod in ray_pods(render(folder)):
        assert "metrics" in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def test_the_schedule_neither_piles_up_nor_catches_up(folder: Path) -> None:
    for cron in of_kind(render(folder), "CronJob"):
        spec = cron["spec"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert 0 < spec["startingDeadlineSeconds"] <= 24 * 3600
        assert spec["timeZone"] == "Etc/UTC"
        container = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
        env = {variable["name"]: variable.get("value") for variable in container["env"]}
        template = next(
            m for m in of_kind(render(folder), "RayJob") if m["metadata"]["name"] == env["TEMPLATE"]
        )
        # It must start nothing itself, and Kueue would admit it by this label.
        assert template["spec"]["suspend"] is True
        assert "labels" not in template["metadata"]
        assert ("QUEUE" in env) == ("kueue" in folder.parts)
        # A run that is at work outlives neither its deadline nor its launch's place in history.
        assert template["spec"]["activeDeadlineSeconds"] < spec["failedJobsHistoryLimit"] * 86400


def test_the_schedule_may_start_runs_and_nothing_else(folder: Path) -> None:
    manifests = render(folder)
    for role in of_kind(manifests, "Role"):
        assert role["rules"] == [
            {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}
        ]
    for binding in of_kind(manifests, "RoleBinding"):
        assert [s["name"] for s in binding["subjects"]] == ["schedule"]
        assert binding["subjects"][0]["namespace"] == "tessera"
    accounts = {m["metadata"]["name"]: m for m in of_kind(manifests, "ServiceAccount")}
    if accounts:
        assert "eks.amazonaws.com/role-arn" in accounts["ray"]["metadata"]["annotations"]
        assert "annotations" not in accounts["schedule"]["metadata"]
    assert {pod["spec"]["serviceAccountName"] for pod in ray_pods(manifests)} == {"ray"}


def test_kuberays_own_schedule_runs_the_same(folder: Path) -> None:
    own = of_kind(render(folder), "RayCronJob")
    if own:
        nightly = job_specs(render(KUBERNETES / "overlays/cpu"))["nightly"]
        assert own[0]["spec"]["jobTemplate"] | {"suspend": True} == nightly
        assert of_kind(render(folder), "CronJob") == []


def test_what_waits_in_kueues_queue_has_its_label_and_a_fixed_size(folder: Path) -> None:
    for job in of_kind(render(folder), "RayJob"):
        if "kueue.x-k8s.io/queue-name" in job["metadata"].get("labels", {}):
            assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
            assert "autoscalerOptions" not in job["spec"]["rayClusterSpec"]
        else:
            assert folder.name != "backfill"


def _ports(manifests: list[Manifest]) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for pod in ray_pods(manifests)
        for port in pod["spec"]["containers"][0]["ports"]
    }
