"""The image, and the cluster on EC2 that it runs on."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import yaml

from tests.conftest import ROOT
from tests.manifests import pins, tool

DOCKERFILE = ROOT / "infra/docker/Dockerfile"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_image_has_the_pinned_versions() -> None:
    text = DOCKERFILE.read_text()
    python = PYPROJECT["tool"]["mypy"]["python_version"].replace(".", "")
    assert re.findall(r"^FROM (.*)", text, re.M) == [
        f"rayproject/ray:{pins()['ray']}-py{python}-${{BASE}}"
    ]
    assert set(re.findall(r"torch==([\w.]+)", text)) == {pins()["torch"]}
    assert f"torch=={pins()['torch']}" in (ROOT / "Makefile").read_text()
    assert f'image.version="{PYPROJECT["project"]["version"]}"' in text
    assert "--constraint constraints.txt" in text


def test_the_image_compiles_nothing_and_runs_as_a_user() -> None:
    text = DOCKERFILE.read_text()
    assert "--only-binary=:all:" in text
    assert "apt-get" not in text
    assert re.findall(r"^USER (.*)", text, re.M) == ["1000:100"]
    assert "RAY_JOB_STOP_WAIT_TIME_S=60" in text


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([tool("hadolint"), DOCKERFILE], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_only_what_the_jobs_need_goes_into_the_image() -> None:
    first, *rest = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert first == "*"
    taken = {line.removeprefix("!") for line in rest if line.startswith("!")}
    assert taken == {"jobs", "pipeline", "models", "pyproject.toml", "constraints.txt",
                     "README.md", "LICENSE"}  # fmt: skip
    copied = re.findall(r"^COPY --chown=\S+ (.*) \S+$", DOCKERFILE.read_text(), re.M)
    assert {name for line in copied for name in line.split()} == taken
    assert all((ROOT / name).exists() for name in taken)


def test_the_cluster_on_ec2_is_one_that_ray_takes() -> None:
    import ray.autoscaler

    cluster = yaml.safe_load((ROOT / "infra/aws/cluster.yaml").read_text())
    schema = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    jsonschema.validate(cluster, json.loads(schema.read_text()))
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "--num-cpus=0 --num-gpus=0" in cluster["head_start_ray_commands"][-1]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert types["spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["spot"]["priority"] > types["on-demand"]["priority"]
    assert re.fullmatch(r".*/tessera:\d+\.\d+\.\d+-(cpu|gpu)", cluster["docker"]["image"])
    # Nothing is reached from outside, and inside only with the token.
    assert cluster["provider"]["use_internal_ips"] is True
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    for node in (head, *types.values()):
        # Ray would make a security group of its own otherwise, with SSH open to the world.
        assert node["node_config"]["SecurityGroupIds"]
        assert node["node_config"]["IamInstanceProfile"]
    assert {"**/.git", "**/.venv/**"} <= set(cluster["rsync_exclude"])
