"""Listing: a stream of images with identity and partitions, from a prefix or from a file."""

import gzip
import io
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config import CollectionSettings
from pipeline.errors import DataError, SettingsError, StorageError, UnavailableError
from pipeline.images import partitions
from pipeline.images.collection import (
    Collection,
    image_identity,
    listing_schema,
    open_collection,
)
from pipeline.images.lookup import MISSING, UNKNOWN
from pipeline.images.partitions import PartitionSpec, partition_dir, partition_values
from pipeline.parsing import load
from pipeline.storage import retrying
from pipeline.tables import schema

Row = dict[str, Any]


def rows_of(collection: Collection) -> list[Row]:
    """In the order of URIs, which a collection itself does not promise."""
    rows: list[Row] = []
    for batch in collection.batches():
        assert batch.schema == listing_schema(collection.partitions.names)
        rows += batch.to_pylist()
    assert collection.listed == len(rows)
    assert all(row["image_id"] == image_identity(row["uri"], row["version"]) for row in rows)
    return sorted(rows, key=lambda row: str(row["uri"]))


def listed(uri: object, *settings: str) -> list[Row]:
    return rows_of(open_collection(str(uri), PartitionSpec.parse(settings)))


def test_a_prefix_lists_images_and_counts_the_rest(tmp_path: Path) -> None:
    for name in (
        "b.png",
        "a.TIF",
        "c.svs",
        "sub/c.jpeg",
        "notes.txt",
        "table.CSV",
        "table.csv",
        "scan.0001",
        ".hidden.png",
        "png",
        "sub/é.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    collection = open_collection(str(tmp_path))
    rows = rows_of(collection)
    names = [row["uri"].removeprefix(f"{tmp_path}/") for row in rows]
    assert names == ["a.TIF", "b.png", "c.svs", "link.png", "sub/c.jpeg", "sub/é.png"]
    assert (collection.listed, collection.ignored) == (6, 5)
    assert collection.ignored_suffixes == ".csv 2, .txt 1"
    assert len({row["image_id"] for row in rows}) == 6
    assert [row["size"] for row in rows] == [1] * 6
    assert rows_of(collection) == rows
    assert names_of(listed(tmp_path / "b.png")) == ["b.png"]


def names_of(rows: list[Row]) -> list[str]:
    return [row["uri"].rpartition("/")[2] for row in rows]


def test_a_changed_file_is_another_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    (before,) = listed(tmp_path)
    path.write_bytes(b"xy")
    (after,) = listed(tmp_path)
    assert before["uri"] == after["uri"]
    assert before["image_id"] != after["image_id"]


def test_a_name_that_is_not_utf8_is_said(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"not UTF-8, rename it: .*caf"):
        listed(tmp_path)


def write_table(path: Path, columns: dict[str, list[Any]]) -> None:
    table = pa.table(columns)
    if path.name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=2)
        return
    lines = [",".join(table.column_names)]
    lines += [",".join("" if v is None else str(v) for v in r.values()) for r in table.to_pylist()]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_manifest_is_a_collection(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    path = tmp_path / f"list.{kind}"
    write_table(path, {"uri": ["a.png", f"{tmp_path}/a.png", "gone"], "more": [1, 2, 3]})
    collection = open_collection(str(path))
    rows = rows_of(collection)
    assert names_of(rows) == ["a.png", "a.png", "gone"]
    assert rows[0] == rows[1] == listed(tmp_path / "a.png")[0]
    assert (rows[2]["version"], rows[2]["size"]) == (MISSING, -1)
    assert collection.ignored == 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_in_a_store_names_images_beside_it(
    bucket: str, tmp_path: Path, kind: str
) -> None:
    root = f"{bucket}/beside/{kind}"
    names = ["images/a.png", "images/b::c.png", "lists/d.png"]
    for name in names:
        storage.write_bytes(f"{root}/{name}", b"x")
    table = tmp_path / f"x::y.{kind}"
    write_table(table, {"uri": ["../images/a.png", "../images/./b::c.png", "./d.png"]})
    storage.write_bytes(f"{root}/lists/{table.name}", table.read_bytes())
    rows = listed(f"{root}/lists/{table.name}")
    assert [row["uri"] for row in rows] == [f"{root}/{name}" for name in names]
    assert [row["size"] for row in rows] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_a_manifest_says_is_not_looked_up(tmp_path: Path, kind: str) -> None:
    (tmp_path / "here.png").write_bytes(b"xyz")
    path = tmp_path / f"list.{kind}"
    columns: dict[str, list[Any]] = {
        "uri": ["s3://b/1.png", "s3://b/2.png", "here.png"],
        "version": ["00123", "e1", None],
        "size": [7, None, None],
    }
    write_table(path, columns)
    rows = listed(path)
    assert [(r["version"], r["size"]) for r in rows[1:]] == [("00123", 7), ("e1", -1)]
    assert rows[0]["size"] == 3
    write_table(path, {key: columns[key][:2] for key in ("uri", "version")})
    assert [(r["version"], r["size"]) for r in listed(path)] == [("00123", -1), ("e1", -1)]


def test_a_row_that_can_not_be_looked_up_costs_no_other(tmp_path: Path) -> None:
    """Reading it says what is wrong. Where no row can be, it is not the row."""
    (tmp_path / "a.png").write_bytes(b"x")
    path = tmp_path / "list.parquet"
    bad = ["a.png/b.png", "x" * 300 + ".png", "nul\0.png", "no-such://b/c.png"]
    pq.write_table(pa.table({"uri": [*bad, "a.png"]}), path)
    collection = open_collection(str(path))
    rows = {row["uri"]: row for row in rows_of(collection)}
    assert (len(rows), collection.unknown) == (5, 4)
    known = rows.pop(f"{tmp_path}/a.png")
    assert known["size"] == 1
    assert {(row["version"], row["size"]) for row in rows.values()} == {(UNKNOWN, -1)}
    pq.write_table(pa.table({"uri": bad}), path)
    with pytest.raises(StorageError, match=r"b\.png: .*a\.png is a file, not a folder"):
        listed(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_image_has_one_uri_however_a_manifest_spells_it(tmp_path: Path, kind: str) -> None:
    for name in ("a.png", "~a.png", "~$b.png"):
        (tmp_path / name).write_bytes(b"x")
    path = tmp_path / f"list.{kind}"
    spelled = [
        "a.png",
        f"{tmp_path}/./a.png",
        f"file://{tmp_path}/a.png",
        f"FILE://{tmp_path}/a.png",
    ]
    write_table(path, {"uri": [*spelled, "~a.png", "~$b.png"]})
    names = ["a.png"] * 4 + ["~$b.png", "~a.png"]
    assert [row["uri"] for row in listed(path)] == [f"{tmp_path}/{name}" for name in names]
    stored = ["s3a://b/k.png", "S3://b/k.png", "s3://b/k.png", "s3://b/z.zarr/", "https://h/k/"]
    write_table(path, {"uri": stored, "version": ["v"] * 5})
    assert [row["uri"] for row in listed(path)] == [
        "https://h/k/", "s3://b/k.png", "s3://b/k.png", "s3://b/k.png", "s3://b/z.zarr",
    ]  # fmt: skip


def test_a_zarr_is_one_image_whatever_its_folder_is_called(tmp_path: Path) -> None:
    root = tmp_path / "new\nline #1" / "a.zarr"
    (root / "0").mkdir(parents=True)
    (root / "0" / "0.0").write_bytes(b"x")
    (root / ".zattrs").write_bytes(b"{}")
    (row,) = listed(tmp_path)
    assert row["uri"] == str(root)
    assert row["version"] != MISSING
    with pytest.raises(
        DataError, match=r"(?s)lies inside .*a\.zarr, which is one image: give that"
    ):
        listed(root / "0")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path\na.png\n", "list.csv has no column named uri, but path"),
        ("uri,b\na.png,1\n,2\n", "list.csv: row 2 has no uri"),
        ("", "list.csv is not a readable manifest"),
        ("uri,version\na.png,1,2\n", "list.csv is not a readable manifest"),
        ("uri,version,size\na.png,1,2\nb.png,1,2 kB\n", "row 2, column size: '2 kB' is no whole"),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=line):
        listed(path)
    with pytest.raises(DataError, match="does not exist"):
        listed(tmp_path / "nowhere")
    with pytest.raises(DataError, match="does not exist"):
        listed(tmp_path / "nowhere.csv")
    pq.write_table(pa.table({"uri": [[1]]}), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"list.parquet: column uri is not text but list"):
        listed(tmp_path / "list.parquet")
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"list.parquet is not a readable manifest"):
        listed(tmp_path / "list.parquet")


def test_a_table_of_many_files_is_no_manifest(bucket: str, tmp_path: Path) -> None:
    for root in (str(tmp_path), f"{bucket}/tables"):
        for kind in ("csv", "parquet"):
            storage.write_bytes(f"{root}/list.{kind}/part-0.{kind}", b"uri\na.png\n")
            with pytest.raises(
                DataError, match=rf"list\.{kind} is a folder, and a manifest one file"
            ):
                open_collection(f"{root}/list.{kind}")


@pytest.mark.parametrize(("code", "header"), [("utf-16", "uri"), ("latin-1", "uri,größe")])
def test_a_manifest_in_another_code_is_said_so(tmp_path: Path, code: str, header: str) -> None:
    (tmp_path / "list.csv").write_bytes(f"{header}\n{header}\n".encode(code))
    with pytest.raises(DataError, match=r"list\.csv is not text in UTF-8"):
        listed(tmp_path / "list.csv")


INVENTORY = {
    "Bucket": ["b"] * 7,
    "Key": ["x/é 1.png", "x/a+b.png", "old.png", "gone.png", "notes.txt", ".trash/a.png", "q.TIFF"],
    "Size": [1, 2, 3, None, 5, 6, 7],
    "LastModifiedDate": ["2026-10-01T00:00:00.000Z"] * 7,
    "ETag": ["e1", '"e2"', "e3", None, "e5", "e6", "e7-2"],
    "IsLatest": [True, True, False, True, True, True, True],
    "IsDeleteMarker": [False, False, False, True, False, False, False],
}
IN_INVENTORY = [
    ("s3://b/q.TIFF", "e7-2", 7),
    ("s3://b/x/a+b.png", "e2", 2),
    ("s3://b/x/é 1.png", "e1", 1),
]


def facts(rows: list[Row]) -> list[tuple[str, str, int]]:
    return [(row["uri"], row["version"], row["size"]) for row in rows]


@pytest.mark.parametrize("spelling", [str, lambda name: {"ETag": "e_tag"}.get(name, name.lower())])
def test_an_inventory_file_is_a_collection(tmp_path: Path, spelling: Any) -> None:
    path = tmp_path / "inventory.parquet"
    pq.write_table(pa.table({spelling(k): v for k, v in INVENTORY.items()}), path)
    collection = open_collection(str(path))
    assert facts(rows_of(collection)) == IN_INVENTORY
    assert (collection.listed, collection.ignored) == (3, 1)


def test_an_inventory_with_a_header_is_a_collection(tmp_path: Path) -> None:
    path = tmp_path / "inventory.csv"
    path.write_text('bucket,key,size,etag\nb,"x/é 1.png",1,"""e1"""\nb,x/a+b.png,2,e2\n')
    assert facts(listed(path)) == IN_INVENTORY[1:]


def inventory(folder: Path, fmt: str) -> Path:
    """As S3 writes it: CONFIG/DATE/manifest.json and CONFIG/data/NAME."""
    (folder / "2026-10-01T00-00Z").mkdir()
    (folder / "data").mkdir()
    name = {"CSV": "one.csv.gz", "Parquet": "one.parquet", "ORC": "one.orc"}[fmt]
    if fmt == "CSV":
        from urllib.parse import quote_plus

        lines = [
            ",".join(
                f'"{"" if v is None else quote_plus(v, "/") if k == "Key" else str(v).lower()}"'
                for k, v in row.items()
            ).replace('""e2""', '"e2"')
            for row in pa.table(INVENTORY).to_pylist()
        ]
        (folder / "data" / name).write_bytes(gzip.compress("\n".join(lines).encode()))
    elif fmt == "Parquet":
        pq.write_table(pa.table(INVENTORY), folder / "data" / name)
    manifest = {
        "sourceBucket": "b",
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "creationTimestamp": "1514944800000",
        "fileFormat": fmt,
        "fileSchema": ", ".join(INVENTORY) if fmt == "CSV" else "message s3.inventory {…}",
        "files": [{"key": f"b/daily/data/{name}", "size": 1, "MD5checksum": "0"}],
    }
    path = folder / "2026-10-01T00-00Z" / "manifest.json"
    path.write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize("fmt", ["CSV", "Parquet"])
def test_s3_writes_inventories_as_files_and_a_manifest(tmp_path: Path, fmt: str) -> None:
    assert facts(listed(inventory(tmp_path, fmt))) == IN_INVENTORY


def test_bad_inventories(tmp_path: Path) -> None:
    path = inventory(tmp_path, "ORC")
    with pytest.raises(DataError, match="inventories in ORC can't be read; choose Parquet or CSV"):
        listed(path)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"is not the manifest\.json of an S3 Inventory"):
        listed(path)
    path.write_text("no")
    with pytest.raises(DataError, match=r"is not the manifest\.json of an S3 Inventory"):
        listed(path)
    with pytest.raises(SettingsError, match="partition site: only a manifest has columns"):
        listed(inventory_again(tmp_path), "site")


def inventory_again(folder: Path) -> Path:
    path = folder / "inventory.parquet"
    pq.write_table(pa.table(INVENTORY), path)
    return path


def test_an_inventory_names_images_as_a_listing_does(bucket: str, tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("s3", use_listings_cache=False)
    for key in ("a b.png", "sub/ü+%.png"):
        fs.pipe(f"{bucket}/inventoried/{key}", key.encode())
    found = fs.find(f"{bucket}/inventoried", detail=True)
    sink = io.BytesIO()
    pq.write_table(
        pa.table(
            {
                "bucket": [key.partition("/")[0] for key in found],
                "key": [key.partition("/")[2] for key in found],
                "size": [info["size"] for info in found.values()],
                "e_tag": [info["ETag"].strip('"') for info in found.values()],
            }
        ),
        sink,
    )
    fs.pipe(f"{bucket}/inventory/data/one.parquet", sink.getvalue())
    manifest = {
        "destinationBucket": f"arn:aws:s3:::{bucket.removeprefix('s3://')}",
        "fileFormat": "Parquet",
        "fileSchema": "",
        "files": [{"key": "inventory/data/one.parquet"}],
    }
    fs.pipe(f"{bucket}/inventory/today/manifest.json", json.dumps(manifest).encode())
    rows = listed(f"{bucket}/inventory/today/manifest.json")
    assert rows == listed(f"{bucket}/inventoried")
    assert len(rows) == 2


def test_partitions_come_from_the_uri_and_from_columns(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    uris = ["s3://b/2026-10-01/a.png", "s3://b/none/b.png", "s3://b/2026-10-02/c.png"]
    columns = {"uri": uris, "version": ["v"] * 3, "plate": [3, 4, None]}
    pq.write_table(pa.table(columns), path)
    spec = PartitionSpec.parse([r"date=\d{4}-\d{2}-\d{2}", "plate", r"letter=([a-z])\.png$"])
    collection = open_collection(str(path), spec)
    assert [(r["date"], r["plate"], r["letter"]) for r in rows_of(collection)] == [
        ("2026-10-01", "3", "a"),
        ("2026-10-02", None, "c"),
        (None, "4", "b"),
    ]
    assert collection.unpartitioned == 2
    with pytest.raises(
        DataError, match=r"list\.parquet has no column named site, but uri, version"
    ):
        open_collection(str(path), PartitionSpec.parse(["site"]))
    with pytest.raises(SettingsError, match="only a manifest has columns"):
        open_collection(str(tmp_path), PartitionSpec.parse(["site"]))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["uri=x"], "partition uri: the tables have a column of that name"),
        (["Shard"], "partition Shard: the tables have a column"),
        (["a b=x"], "takes NAME=REGEX or NAME"),
        (["_a=x"], "takes NAME=REGEX or NAME"),
        (["=x"], "takes NAME=REGEX or NAME"),
        (["1=x"], "takes NAME=REGEX or NAME"),
        (["a=(x"], r"partition a: '\(x' is no pattern: "),
        (["a=x", "A=y"], "partition a is given more than once"),
    ],
)
def test_wrong_partitions(settings: list[str], line: str) -> None:
    with pytest.raises(SettingsError, match=line) as caught:
        PartitionSpec.parse(settings)
    assert "\n" not in str(caught.value)


def test_no_partition_hides_a_column_of_the_tables() -> None:
    tables = [*schema.SCHEMAS.values(), schema.PLAN]
    assert {name for table in tables for name in table.names} <= partitions.RESERVED


ODD = [
    "2026-10-01", "a/b", "a b", "a=b", "ü€😀", "50%", "%41", "a+b", "#?&", "..", ".x", "q'\"",
    "007", "null", "1e5", "a\nb", "~", "*[x]?", "\\", "{a}",
]  # fmt: skip


def test_other_readers_find_the_same_values_in_the_folders(tmp_path: Path) -> None:
    values = [*ODD, None]
    for i, value in enumerate(values):
        folder = partition_dir(["site", "kind"], [value, "k"])
        assert partition_values(folder) == {"site": value, "kind": "k"}
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.table({"i": [i]}), tmp_path / folder / "x.parquet")
    glob = f"{tmp_path}/**/*.parquet"
    rows = duckdb.sql(
        f"select i, site, kind from read_parquet('{glob}', hive_types_autocast = false) order by i"
    ).fetchall()
    assert rows == [(i, value, "k") for i, value in enumerate(values)]
    hive = pa.schema([("site", pa.string()), ("kind", pa.string())])
    found = pads.dataset(tmp_path, partitioning=pads.partitioning(hive, flavor="hive")).to_table()
    assert sorted(found.to_pylist(), key=lambda row: row["i"]) == [
        {"i": i, "site": value, "kind": "k"} for i, value in enumerate(values)
    ]


def test_folders_of_partitions() -> None:
    assert partition_dir([], []) == ""
    assert partition_values("") == {}
    assert partition_dir(["a", "b"], ["", None]) == (
        "a=__HIVE_DEFAULT_PARTITION__/b=__HIVE_DEFAULT_PARTITION__"
    )
    with pytest.raises(DataError, match="partition a has a value too long for a folder"):
        partition_dir(["a"], ["ü" * 100])


def test_patterns_reach_us_as_they_are_typed() -> None:
    typed = [
        r"date=(\d{4}-\d{2}-\d{2})", r"site=([^/,]+)/[a,b]{1,2}", "[x]=[a,b]", 'a="q,r"', "plain",
        "b='x','y'", "{a:1}", '["j"]', "q=\\\\d,\\", "é😀",
    ]  # fmt: skip
    flags = [word for text in typed for word in ("--partition", text)]
    assert load(CollectionSettings, flags, {}).partition == tuple(typed)
    assert load(CollectionSettings, [f"--partition={t}" for t in typed], {}).partition == tuple(
        typed
    )
    values = {"partition": ["a=b"], "where": "x"}
    assert load(CollectionSettings, [], values).partition == ("a=b",)
    assert load(CollectionSettings, ["--partition", "c"], values).partition == ("c",)
    assert load(CollectionSettings, [], {"partition": "a={1,2}"}).partition == ("a={1,2}",)
    where = "site in ('a', 'b') and \"date\" > '2026'"
    assert load(CollectionSettings, ["--where", where], {}).where == where
    with pytest.raises(SettingsError, match="--partition: expected one argument"):
        load(CollectionSettings, ["--partition"], {})


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of a folder that holds an image."""
    (tmp_path / "a.png").write_bytes(b"x")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_web_has_an_image_or_not_or_does_not_answer(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch,) = open_collection(f"{web}/a.png").batches()
    assert batch["uri"].to_pylist() == [f"{web}/a.png"]
    for name in ("b.png", "list.csv"):
        with pytest.raises(DataError, match=f"{name} does not exist"):
            open_collection(f"{web}/{name}")
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.0)
    for name in ("a.png", "list.csv"):
        with pytest.raises(UnavailableError, match=r"cannot look up .* did not answer"):
            open_collection(f"http://127.0.0.1:9/{name}")
