"""The door to files: on local disk and on a real S3 server alike."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline import storage
from pipeline.errors import (
    CredentialsError,
    ForbiddenError,
    IncompleteError,
    MissingError,
    StorageError,
)
from pipeline.storage import retrying
from tests.conftest import forget_clients
from tests.fault_proxy import FaultProxy, Faults
from tests.object_store import S3Server


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder or prefix."""
    if request.param == "local":
        return str(tmp_path / "place")
    return f"{request.getfixturevalue('bucket')}/storage/{tmp_path.name}"


def write_all(place: str, names: list[str]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: storage.write_bytes(f"{place}/{name}", b"x"), names))


def test_a_place_has_one_spelling() -> None:
    here = os.getcwd()
    for uri in ("/a/b", "/a/b/", "/a/./c/../b", "file:///a/b/", "local:///a/b"):
        assert storage.canonical(uri) == "/a/b"
    assert storage.canonical("a/") == f"{here}/a"
    for uri in ("s3://b/a/c", "s3://b/a/c/", "s3a://b/a/c//"):
        assert storage.canonical(uri) == "s3://b/a/c"
    assert storage.canonical("s3://b/./a//c?d::e") == "s3://b/./a//c?d::e"  # a key is as it is


def test_a_relative_uri_is_meant_from_its_folder() -> None:
    for folder in ("s3://b/lists/x", "/b/lists/x"):
        root = folder.removesuffix("/lists/x")
        assert storage.resolve("a.png", folder) == f"{folder}/a.png"
        assert storage.resolve("./a/./b.png", folder) == f"{folder}/a/b.png"
        assert storage.resolve("../../images/a/../b.png", folder) == f"{root}/images/b.png"
        assert storage.resolve("s3://c/../a.png", folder) == "s3://c/../a.png"
        assert storage.resolve("/c/../a.png", folder) == "/a.png"
    assert storage.resolve("../../../../a.png", "s3://b/lists") == "s3://b/a.png"


def test_a_file_is_written_read_looked_up_and_removed(place: str) -> None:
    uri = f"{place}/a/b.bin"
    assert not storage.exists(uri)
    assert storage.stat(uri) is None
    storage.write_bytes(uri, b"first")
    before = storage.stat(uri)
    assert storage.read_bytes(uri) == storage.read_bytes(uri, 5) == b"first"
    assert storage.exists(uri)
    assert storage.exists(f"{place}/a")
    storage.write_bytes(uri, b"second")
    after = storage.stat(uri)
    assert before is not None
    assert after is not None
    assert (before.size, after.size) == (5, 6)
    assert before.version != after.version
    storage.remove(uri)
    storage.remove(uri)
    with pytest.raises(MissingError, match="does not exist"):
        storage.read_bytes(uri)


def test_a_body_of_another_size_is_told_with_both(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    storage.write_bytes(f"{place}/a", b"12345")
    with pytest.raises(IncompleteError, match="5 bytes came, 7 were expected"):
        storage.read_bytes(f"{place}/a", 7)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_exclusive_create_has_one_winner(
    place: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", *paths)

    if not links:  # as on exFAT
        monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(10):
            uri = f"{place}/race-{turn}"
            won = list(pool.map(lambda n, uri=uri: storage.create_bytes(uri, b"%d" % n), range(8)))
            assert sum(won) == 1
            assert storage.read_bytes(uri) == b"%d" % won.index(True)
    assert len(storage.list_paths(place)) == 10


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:04d}.png" for i in range(1100)],  # more than a page, flat
        [f"{i:04d}/x.png" for i in range(1100)],  # more folders than a page
        [f"{i % 40}/{i}.png" for i in range(200)] + [f"{i}.txt" for i in range(40)],
        ["a/b/c/d/e/f/g.png", "a/b/é +%.png", "a.png", "a/b.png", "ab/c.png", "a-b/c.png"],
    ],
    ids=["flat", "many folders", "mixed", "deep"],
)
def test_walk_finds_everything_once(place: str, names: list[str]) -> None:
    write_all(place, [*names, ".hidden", "a/.b", ".c/d", "z/.c/d"])
    files = list(storage.walk(place))
    assert sorted(file.uri for file in files) == sorted(f"{place}/{name}" for name in names)
    assert {file.size for file in files} == {1}
    assert storage.list_paths(place) == sorted(names)
    assert list(storage.list_files(place + "/")) == sorted(files, key=lambda file: file.uri)


def test_a_name_is_a_name_whatever_is_in_it(place: str) -> None:
    """What fsspec and s3fs take for the end of a URI or for a version, too."""
    names = ["a::b.png", "file::c.png", "d.png?versionId=e", "f?versionId=g/h.png", "x:: y/::.png"]
    for name in names:
        uri = f"{place}/{name}"
        storage.write_bytes(uri, name.encode())
        assert storage.read_bytes(uri) == name.encode()
        assert storage.read_ranges(uri, [(1, 2)]) == [name.encode()[1:3]]
        assert list(storage.walk(uri)) == [storage.stat(uri)]
    found = {file.uri: file.size for file in storage.walk(place)}
    assert found == {f"{place}/{name}": len(name) for name in names}
    assert storage.list_paths(place) == sorted(names)
    assert storage.list_names(f"{place}/x:: y") == ["::.png"]
    storage.remove_many(found)
    assert storage.list_paths(place) == []


def test_walk_of_one_file_or_of_nothing(place: str) -> None:
    storage.write_bytes(f"{place}/a.png", b"123")
    assert list(storage.walk(f"{place}/a.png")) == [storage.stat(f"{place}/a.png")]
    assert list(storage.walk(f"{place}/nothing")) == []
    assert storage.list_names(f"{place}/nothing") == []


def test_what_can_be_written_is_known_before_and_leaves_no_trace(place: str) -> None:
    storage.check_writable(f"{place}/a/b.json")
    assert not storage.exists(place)
    storage.write_bytes(f"{place}/a/b.json", b"1")
    storage.check_writable(f"{place}/a/b.json")
    assert storage.list_names(f"{place}/a") == ["b.json"]
    assert storage.read_bytes(f"{place}/a/b.json") == b"1"


def test_a_file_where_a_folder_is_meant_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for uri in (f"{tmp_path}/file/a.json", f"{tmp_path}/file/a/b.json"):
        for call in (storage.check_writable, CALLS["write"], CALLS["create"]):
            with pytest.raises(StorageError, match=f"{tmp_path}/file is a file, not a folder"):
                call(uri)
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}: it is a folder"):
        storage.check_writable(str(tmp_path))
    assert storage.list_names(f"{tmp_path}/file") == []


def test_a_walk_that_is_left_early_leaves_no_thread(place: str) -> None:
    write_all(place, [f"{i % 20}/{i}" for i in range(60)])
    files = storage.walk(place)
    next(files)
    files.close()  # type: ignore[attr-defined]
    end = time.monotonic() + 10
    while (left := [t for t in threading.enumerate() if t.name.startswith("list")]) and (
        time.monotonic() < end
    ):
        time.sleep(0.05)
    assert not left


def test_links_are_followed_but_never_in_a_loop(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"12")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "link").symlink_to("a/b/file")
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")
    found = {os.path.relpath(file.uri, tmp_path): file.size for file in storage.walk(str(tmp_path))}
    assert found == {"a/b/file": 2, "link": 2, "lost": -1, "itself": -1}
    assert storage.list_paths(str(tmp_path)) == sorted(found)


def test_what_a_killed_writer_left_is_seen_by_who_asks_only(tmp_path: Path) -> None:
    place = str(tmp_path)
    storage.write_bytes(f"{place}/a/data.bin", b"x")
    left = f"{place}/a/.data.bin.tessera-0123abcd"
    Path(left).write_bytes(b"half")
    (tmp_path / "a/.of-the-user.20260101").write_bytes(b"x")
    assert [file.uri for file in storage.walk(place)] == [f"{place}/a/data.bin"]
    assert list(storage.unfinished_files(place)) == [left]


def test_a_failed_write_leaves_nothing(place: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{place}/file", b"x")
    if place.startswith("s3:"):
        assert list(storage.unfinished_files(place)) == []
        return
    (tmp_path / "place/folder").mkdir()
    with pytest.raises(StorageError):
        storage.write_bytes(f"{place}/folder", b"x")
    assert sorted(os.listdir(place)) == ["file", "folder"]


def test_a_store_that_is_away_for_a_moment_is_waited_for_by_those_who_come_through_pyarrow(
    bucket: str, faulty_store: FaultProxy
) -> None:
    uri = f"{bucket}/storage/patient"
    fs, path = storage.patient_filesystem(uri)

    def away() -> None:
        faulty_store.faults = Faults(refuse=True)
        threading.Timer(3, setattr, (faulty_store, "faults", Faults())).start()

    away()
    with fs.open_output_stream(f"{path}/run/state.json") as file:
        file.write(b"{}")
    assert storage.read_bytes(f"{uri}/run/state.json") == b"{}"
    away()
    assert fs.get_file_info(f"{path}/run/state.json").size == 2
    away()
    fs.delete_dir(f"{path}/run")
    assert storage.list_paths(uri) == []


def test_a_folder_is_removed_with_all_below_it(place: str) -> None:
    write_all(place, ["keep/x", "go/x", "go/y/.z", "gone"])
    storage.remove_folder(f"{place}/go")
    storage.remove_folder(f"{place}/go")
    assert storage.list_paths(place) == ["gone", "keep/x"]


def test_a_missing_bucket_is_missing(bucket: str) -> None:
    assert not storage.exists("s3://no-such-bucket")
    with pytest.raises(MissingError):
        list(storage.walk("s3://no-such-bucket/x"))


def test_the_users_own_settings_of_the_client_win(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.storage.door import open_filesystem

    config = {"config_kwargs": {"read_timeout": 7}}
    monkeypatch.setitem(fsspec.config.conf, "s3", config)
    fs, _ = open_filesystem(bucket)
    assert fs.config_kwargs["read_timeout"] == 7
    assert fs.config_kwargs["connect_timeout"] == 10


CALLS = {
    "read": lambda uri: storage.read_bytes(uri),
    "read of known size": lambda uri: storage.read_bytes(uri, 1),
    "write": lambda uri: storage.write_bytes(uri, b"x"),
    "create": lambda uri: storage.create_bytes(uri + "-new", b"x"),
    "writable": lambda uri: storage.check_writable(uri),
    "exists": lambda uri: storage.exists(uri),
    "stat": lambda uri: storage.stat(uri),
    "names": lambda uri: storage.list_names(uri),
    "walk": lambda uri: list(storage.walk(uri)),
}


def refusals(uri: str, kind: type[StorageError]) -> list[str]:
    """The messages of every call, each of which must fail as that kind."""
    messages = []
    for call in CALLS.values():
        with pytest.raises(kind) as caught:
            call(uri)
        assert type(caught.value) is kind
        messages.append(str(caught.value))
    return messages


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}, "secret key does not belong"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "does not know the access key"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials were found"),
    ],
    ids=["wrong secret", "unknown key", "none"],
)
def test_bad_credentials_are_one_line_that_says_which(
    bucket: str,
    object_store: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    expected: str,
) -> None:
    if not object_store.checks_credentials:
        pytest.skip("moto accepts any credentials")
    storage.write_bytes(f"{bucket}/credentials/file", b"x")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in changed.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    forget_clients()
    try:
        for message in refusals(f"{bucket}/credentials/file", CredentialsError):
            assert expected in message
            assert "\n" not in message
            assert "a-wrong-secret" not in message
            assert object_store.secret_key not in message
    finally:
        forget_clients()


def test_a_refusal_is_not_taken_for_bad_credentials(
    bucket: str, object_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not object_store.checks_credentials:
        pytest.skip("moto accepts any credentials")
    storage.write_bytes(f"{bucket}/closed", b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_store.other_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_store.other_secret_key)
    forget_clients()
    try:
        assert all("denied" in line for line in refusals(f"{bucket}/closed", ForbiddenError))
    finally:
        forget_clients()
