"""The policy of `infra/aws`: it grants what the jobs call, and nothing else.

The jobs run as a user who has nothing but this policy, on a store that enforces it. What they ask
for is recorded on its way and held against the document as AWS reads it, too: Ceph is less strict
about objects that don't exist, and moto enforces nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError

from pipeline import storage
from pipeline.synthetic import write_annotated
from pipeline.tables.holder import this_process
from pipeline.tables.lease import Claim
from tests.chaos import Job
from tests.conftest import ROOT, forget_clients
from tests.fault_proxy import FaultProxy
from tests.object_store import S3Server

POLICY = ROOT / "infra/aws/role-policy.json"
INPUTS, OUTPUTS = "policy-inputs", "policy-outputs"
PLACES = {
    "INPUT_BUCKET": INPUTS,
    "INPUT_PREFIX": "plates/images",
    "MODEL_BUCKET": INPUTS,
    "MODEL_PREFIX": "models/nuclei",
    "OUTPUT_BUCKET": OUTPUTS,
    "OUTPUT_PREFIX": "results/nuclei",
}
IMAGES, MODEL = f"s3://{INPUTS}/plates/images", f"s3://{INPUTS}/models/nuclei"
OUTPUT = f"s3://{OUTPUTS}/results/nuclei"
PREDICT = ["jobs.predict", "--input", IMAGES, "--model", MODEL, "--output", OUTPUT]

# Before https://github.com/ceph/ceph/pull/68577, Ceph did not take the name of an object that does
# not exist for a prefix, as AWS does when it decides between 404 and 403. Only listings have
# `max-keys`, so this grants none.
_AS_AWS = {
    "Effect": "Allow",
    "Action": "s3:ListBucket",
    "Condition": {"Null": {"s3:max-keys": "true"}},
}


def policy() -> list[dict[str, Any]]:
    """Its statements, of the places above."""
    document = json.loads(Template(POLICY.read_text()).substitute(PLACES))
    assert document["Version"] == "2012-10-17"
    statements: list[dict[str, Any]] = document["Statement"]
    return statements


@dataclass(frozen=True)
class Call:
    """What a request asks for, in the words of a policy."""

    action: str
    resource: str
    prefix: str | None = None

    @classmethod
    def of(cls, method: str, target: str) -> "Call":
        """Of a request line, with the bucket in the path."""
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        resource = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
        if key:
            abort = method == "DELETE" and "uploadId" in query
            return cls("s3:AbortMultipartUpload" if abort else _ON_OBJECTS[method], resource)
        if (method, set(query) & _SUBRESOURCES) in (("GET", set()), ("HEAD", set())) and bucket:
            return cls("s3:ListBucket", resource, query.get("prefix", [None])[0])
        return cls(f"{method} {target}", resource)  # which no policy grants


_ON_OBJECTS = {
    "GET": "s3:GetObject",
    "HEAD": "s3:GetObject",
    "PUT": "s3:PutObject",
    "POST": "s3:PutObject",  # of an upload in parts
    "DELETE": "s3:DeleteObject",
}
_SUBRESOURCES = {"location", "uploads", "versions", "acl", "policy", "versioning"}


def grants(statement: dict[str, Any], call: Call) -> bool:
    """Whether a statement allows it, as AWS reads it."""
    prefixes = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
    return (
        call.action in _list(statement["Action"])
        and any(fnmatchcase(call.resource, each) for each in _list(statement["Resource"]))
        and (
            prefixes is None or (call.prefix is not None and _matches(call.prefix, _list(prefixes)))
        )
    )


def _matches(text: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


class Recorder(FaultProxy):
    """Passes everything on, and keeps what was asked for."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.calls: set[Call] = set()

    async def _let_pass(self, head: bytes, client: Any) -> bool:
        method, target, _ = head.decode("latin-1").split(" ", 2)
        self.calls.add(Call.of(method, target))
        return True


@dataclass(frozen=True)
class Store:
    """Two buckets of one user, and what another may do in them."""

    owner: Any
    guest: Any
    recorder: Recorder
    environment: dict[str, str]
    """Of the other user, through the recorder."""

    def attach(self, statements: list[dict[str, Any]]) -> None:
        """As the policies of the buckets, for the other user."""
        for bucket in (INPUTS, OUTPUTS):
            arn = f"arn:aws:s3:::{bucket}"
            mine = [s for s in statements if _list(s["Resource"])[0].split("/")[0] == arn]
            mine = [*mine, _AS_AWS | {"Resource": arn}]
            guest = {"Principal": {"AWS": ["arn:aws:iam:::user/others"]}}
            text = json.dumps({"Version": "2012-10-17", "Statement": [s | guest for s in mine]})
            self.owner.put_bucket_policy(Bucket=bucket, Policy=text)

    def run(self, words: list[str], log: Path, code: int = 0) -> str:
        """A job as the other user; what it said."""
        job = Job.start(words, log, **self.environment)
        assert job.wait(400) == code, job.text()
        return job.text()


@pytest.fixture(scope="module")
def buckets(object_store: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if not object_store.checks_credentials:
        pytest.skip(f"{object_store.kind}: it enforces no policy")
    owner = _client(object_store, object_store.access_key, object_store.secret_key)
    guest = object_store.other_access_key, object_store.other_secret_key
    folder = tmp_path_factory.mktemp("policy")
    write_annotated(str(folder), [(64, 64)] * 2, ["test"] * 2, seed=3)
    for bucket in (INPUTS, OUTPUTS):
        owner.create_bucket(Bucket=bucket)
    for path in (folder / "images").iterdir():
        owner.upload_file(str(path), INPUTS, f"plates/images/{path.name}")
    for name in ("bundle.json", "weights.safetensors"):
        owner.upload_file(str(ROOT / "models/nuclei" / name), INPUTS, f"models/nuclei/{name}")
    owner.put_object(Bucket=INPUTS, Key="plates/secret", Body=b"x")
    for key in ("results/nuclei-of-others/x", "results/x", "x"):
        owner.put_object(Bucket=OUTPUTS, Key=key, Body=b"x")
    recorder = Recorder(object_store.port)
    environment = object_store.environment | {
        "AWS_ENDPOINT_URL": recorder.endpoint,
        "AWS_ACCESS_KEY_ID": guest[0],
        "AWS_SECRET_ACCESS_KEY": guest[1],
    }
    try:
        yield Store(owner, _client(object_store, *guest), recorder, environment)
    finally:
        recorder.stop()


def _client(server: S3Server, key: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )


@pytest.fixture
def store(buckets: Store) -> Store:
    """With the policy as it is."""
    buckets.attach(policy())
    return buckets


@pytest.mark.parametrize(
    ("request_line", "granted"),
    [
        (f"HEAD /{INPUTS}/plates/images", True),  # whether it is a file
        (f"GET /{INPUTS}?list-type=2&prefix=plates%2Fimages%2F&delimiter=%2F", True),
        (f"GET /{INPUTS}?list-type=2&prefix=plates%2F", False),
        (f"GET /{OUTPUTS}?list-type=2", False),
        (f"HEAD /{OUTPUTS}", False),
        (f"GET /{OUTPUTS}?location", False),
        (f"PUT /{OUTPUTS}", False),
        ("GET /", False),
        (f"PUT /{OUTPUTS}/results/nuclei/x?partNumber=1&uploadId=u", True),
        (f"DELETE /{OUTPUTS}/results/nuclei/x?uploadId=u", True),
        (f"DELETE /{INPUTS}/plates/images/x.png", False),
        (f"GET /{OUTPUTS}/results/nuclei-of-others/x", False),
    ],
)
def test_requests_are_held_against_it_as_aws_does(request_line: str, granted: bool) -> None:
    call = Call.of(*request_line.split(" "))
    assert any(grants(statement, call) for statement in policy()) == granted


@pytest.mark.slow
def test_the_jobs_do_with_it_and_use_all_of_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    store.recorder.calls.clear()
    store.run([*PREDICT, "--images-per-shard", "1", "--max-reject-share", "0"], log)
    assert "verified: nothing is wrong" in store.run(["jobs.verify", OUTPUT], log)
    assert "2 shards became 1" in store.run(["jobs.compact", OUTPUT], log)
    assert "2 images, 2 done before" in store.run(PREDICT, log)
    assert "n objects" in store.run(["jobs.count", OUTPUT], log)
    missing = [word.replace(MODEL, f"{MODEL}/none") for word in PREDICT]
    assert "does not exist" in store.run(missing, log, code=1)
    _write_large_files(store, monkeypatch)

    statements = policy()
    for call in store.recorder.calls:
        assert any(grants(statement, call) for statement in statements), call
    for statement in statements:
        for action in _list(statement["Action"]):
            one = statement | {"Action": action}
            assert any(grants(one, call) for call in store.recorder.calls), one


@pytest.mark.slow
def test_a_training_does_with_it(store: Store, annotated: str, tmp_path: Path) -> None:
    root = Path(annotated)
    for path in (path for path in root.rglob("*") if path.is_file()):
        key = f"plates/images/annotated/{path.relative_to(root).as_posix()}"
        store.owner.upload_file(str(path), INPUTS, key)
    store.recorder.calls.clear()
    words = ["jobs.train", "--data", f"{IMAGES}/annotated", "--output", f"{OUTPUT}/model"]
    quick = ["--epochs", "1", "--min-steps", "5", "--crop", "64", "--network.width", "4"]
    assert f"model bundle: {OUTPUT}/model" in store.run([*words, *quick], tmp_path / "log")
    for call in store.recorder.calls:
        assert any(grants(statement, call) for statement in policy()), call


def _write_large_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts: one to its end, one that is given up."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    try:
        _write(f"{OUTPUT}/large")
        with pytest.raises(KeyError, match="given up"):
            _write(f"{OUTPUT}/given-up", KeyError("given up"))
        storage.remove(f"{OUTPUT}/large")
    finally:
        forget_clients()


def _write(uri: str, error: Exception | None = None) -> None:
    with storage.open_output(uri) as file:
        file.write(bytes(40 << 20))
        if error:
            raise error


def test_what_it_does_not_grant_is_refused(store: Store) -> None:
    store.owner.put_object(Bucket=OUTPUTS, Key="results/nuclei/mine", Body=b"x")
    refused = [
        ("put_object", {"Bucket": INPUTS, "Key": "plates/images/new.png", "Body": b""}),
        ("delete_object", {"Bucket": INPUTS, "Key": "plates/images/scene-0003.png"}),
        ("put_object", {"Bucket": INPUTS, "Key": "models/nuclei/bundle.json", "Body": b""}),
        ("get_object", {"Bucket": INPUTS, "Key": "plates/secret"}),
        ("list_objects_v2", {"Bucket": INPUTS}),
        ("list_objects_v2", {"Bucket": INPUTS, "Prefix": "plates/"}),
        ("list_objects_v2", {"Bucket": OUTPUTS}),
        ("list_objects_v2", {"Bucket": OUTPUTS, "Prefix": "results/"}),
        ("list_objects_v2", {"Bucket": OUTPUTS, "Prefix": "results/nuclei-of-others/"}),
        ("list_object_versions", {"Bucket": OUTPUTS, "Prefix": "results/nuclei/"}),
        ("list_multipart_uploads", {"Bucket": OUTPUTS}),
        ("get_bucket_policy", {"Bucket": OUTPUTS}),
        ("put_bucket_policy", {"Bucket": OUTPUTS, "Policy": "{}"}),
        ("delete_bucket", {"Bucket": OUTPUTS}),
        ("get_object_acl", {"Bucket": OUTPUTS, "Key": "results/nuclei/mine"}),
    ]
    for key in ("x", "results/x", "results/nuclei-of-others/x"):
        place = {"Bucket": OUTPUTS, "Key": key}
        refused += [("get_object", place), ("delete_object", place)]
        refused += [("put_object", place | {"Body": b""})]
    for method, arguments in refused:
        with pytest.raises(ClientError) as caught:
            getattr(store.guest, method)(**arguments)
        assert caught.value.response["Error"]["Code"] in ("AccessDenied", "403"), method
    mine = {"Bucket": OUTPUTS, "Key": "results/nuclei/mine"}
    assert store.guest.get_object(**mine)["Body"].read() == b"x"
    store.guest.delete_object(**mine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sid", "action", "line"),
    [
        ("ReadModel", "s3:GetObject", f"read {MODEL}/bundle.json"),
        ("ListInput", "s3:ListBucket", f"look up {IMAGES}"),
        ("ListOutput", "s3:ListBucket", "look up {output}/dataset.json"),
        ("ReadAndWriteOutput", "s3:PutObject", "create {output}/_lease/00000002.json"),
        ("ReadAndWriteOutput", "s3:DeleteObject", "remove {output}/_lease/00000001.json"),
    ],
)
def test_without_a_part_of_it_a_job_says_what_is_forbidden(
    buckets: Store, tmp_path: Path, sid: str, action: str, line: str
) -> None:
    claim = Claim(this_process(), "a run before", "", 30, "", released=True)
    lease = f"results/nuclei/without-{sid}-{action[3:]}/_lease/00000001.json"
    buckets.owner.put_object(Bucket=OUTPUTS, Key=lease, Body=claim.to_bytes())
    left = [
        s | {"Action": [a for a in _list(s["Action"]) if (s["Sid"], a) != (sid, action)]}
        for s in policy()
    ]
    buckets.attach([s for s in left if s["Action"]])
    output = f"s3://{OUTPUTS}/{lease.partition('/_lease')[0]}"
    words = [output if word == OUTPUT else word for word in PREDICT]
    said = buckets.run(words, tmp_path / "log", code=1)
    assert said == f"error: cannot {line.format(output=output)}: access is denied\n"
