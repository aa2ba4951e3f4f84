"""What the tests of laws share: small collections, runs that die at a named place, comparisons."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import ray

from jobs import predict, verify
from pipeline.config import PredictSettings, VerifySettings
from pipeline.synthetic import encode_image, make_scene
from pipeline.tables.schema import SCHEMAS
from tests.chaos import assert_same, tables
from tests.conftest import ROOT

SITES = r"site=/site-(\w)/"
"""A partition that the collections below have in their URIs."""


def write_image(path: Path, seed: int, height: int = 48, width: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(make_scene(height, width, 5, seed).image, "png"))


def write_sites(folder: Path, a: int = 4, b: int = 4, bad: int = 2) -> None:
    """Images of two sites; the bad ones are of site b and come last."""
    for n in range(a):
        write_image(folder / f"site-a/{n}.png", n)
    for n in range(b):
        write_image(folder / f"site-b/{n}.png", 100 + n)
    for n in range(bad):
        (folder / f"site-b/bad{n}.png").write_bytes(b"nothing like a PNG")


def settings(images: Path, model: str, output: Path, **more: object) -> PredictSettings:
    values = {"images_per_shard": 2, "max_reject_share": 1.0, "workers": 1, "partition": (SITES,)}
    given = values | more
    return PredictSettings(input=str(images), model=model, output=str(output), **given)


def words(images: Path, model: str, output: Path, *more: str) -> list[str]:
    """The same as a command line."""
    given = ["--input", str(images), "--model", model, "--output", str(output), "--workers", "1"]
    shards = ["--images-per-shard", "2", "--max-reject-share", "1", "--partition", SITES]
    return ["jobs.predict", *given, *shards, *more]


def sql(output: Path, query: str) -> list[tuple[object, ...]]:
    """Ask plain DuckDB over a plain glob, as README says."""
    for table in SCHEMAS:
        query = query.replace(f"${table}", f"read_parquet('{output}/{table}/**/*.parquet')")
    return duckdb.sql(query).fetchall()


def uris(output: Path, table: str = "images") -> list[str]:
    """With every repetition."""
    return [str(uri) for (uri,) in sql(output, f"select uri from ${table} order by uri")]


def names(output: Path, table: str = "images") -> list[str]:
    return sorted("/".join(Path(uri).parts[-2:]) for uri in uris(output, table))


def table_files(output: Path) -> dict[str, int]:
    """Every file of every table with the time when it was written."""
    found = [path for table in SCHEMAS for path in (output / table).rglob("*") if path.is_file()]
    return {str(path.relative_to(output)): path.stat().st_mtime_ns for path in found}


def rows(output: Path) -> dict[str, pa.Table]:
    """Every row; which shard holds them is nobody's business."""
    return tables(output, without=("shard",))


def assert_same_rows(found: Path, expected: Path) -> None:
    assert rows(expected)["images"].num_rows > 0
    assert_same(found, expected, without=("shard",))


_KILLED = 9
_DIES = f"""
import importlib, os, runpy, sys

module, name, calls, *sys.argv = sys.argv[1:]
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, left = getattr(owner, last), int(calls)

def dying(*args, **kwargs):
    global left
    left -= 1
    if left < 0:
        os._exit({_KILLED})
    return original(*args, **kwargs)

setattr(owner, last, dying)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def die_at(point: str, command: list[str]) -> None:
    """Run a job that ends without a word where it calls something.

    Args:
        point: `module:name:n`, the call of `name` in `module` that follows n others.
    """
    died = subprocess.run(
        [sys.executable, "-c", _DIES, *point.split(":"), *command],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert died.returncode == _KILLED, f"{point}:\n{died.stdout}{died.stderr}"


GOOD = [f"site-{site}/{n}.png" for site in "ab" for n in range(4)]
BAD = ["site-b/bad0.png", "site-b/bad1.png"]


@dataclass(frozen=True)
class Scene:
    """A collection, and the output of its first run."""

    images: Path
    output: Path
    model: str

    def settings(self, **more: object) -> PredictSettings:
        return settings(self.images, self.model, self.output, **more)

    def predict(self, **more: object) -> None:
        assert predict.work(self.settings(**more)) == 0

    def change(self, name: str, seed: int = 500) -> None:
        write_image(self.images / name, seed, 50, 70)

    @classmethod
    def predicted(cls, folder: Path, model: str) -> "Scene":
        """Images of two sites, and a first run over them."""
        write_sites(folder / "images")
        scene = cls(folder / "images", folder / "out", model)
        scene.predict()
        return scene

    @contextlib.contextmanager
    def to_change(self, folder: Path) -> "Iterator[Scene]":
        """For one test: the images become again what they were, times included."""
        shutil.copytree(self.images, folder / "kept")
        shutil.copytree(self.output, folder / "out")
        yield Scene(self.images, folder / "out", self.model)
        shutil.rmtree(self.images)
        shutil.copytree(folder / "kept", self.images)

    def assert_whole(self) -> None:
        """Clean, by our own fsck and by what a plain glob sees."""
        assert verify.work(VerifySettings(dataset=str(self.output))) == 0
        assert not list((self.output / "_replaced").glob("*"))
        assert uris(self.output) == sorted(set(uris(self.output)))
        ids = "select image_id from $images"
        for table in ("objects", "counts", "masks"):
            strange = f"select count(*) from ${table} where image_id not in ({ids})"
            assert sql(self.output, strange) == [(0,)]
