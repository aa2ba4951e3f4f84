"""Kills at random moments: readers, predictors, committers, whole nodes and the driver itself.

    python -m benchmarks.backfill_kills --kills 25 --store s3

A Ray cluster of three nodes on this machine (a head without CPUs, two workers) and a collection of
small images, on local disk or on a real S3 server. Whenever the driver has been killed the same
command is given again; whenever it has finished, the tables are compared, row by row, with those of
an undisturbed run, and it starts over until there were enough kills. Ends with `jobs.verify`.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec

from tests.chaos import Job, assert_same, cluster, predict_words
from tests.object_store import s3_server

KINDS = ("read_shard", "PredictShard", "CommitShard", "node", "driver")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--store", choices=["local", "s3"], default="local")
    parser.add_argument("--model", default="models/nuclei")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as open_things:
        folder = Path(name)
        images = make_images(folder / "images", given.images)
        model = str(Path(given.model).resolve())
        root = str(folder)
        if given.store == "s3":
            store = open_things.enter_context(s3_server())
            os.environ.update(store.environment)
            print(f"object store: {store.kind}", flush=True)
            root = "s3://kills"
            fs = fsspec.filesystem("s3", use_listings_cache=False)
            fs.mkdir("kills")
            fs.put(str(images), f"{root}/images", recursive=True)
            images_uri = f"{root}/images"
        else:
            images_uri = str(images)
        words = predict_words(images_uri, model, f"{root}/undisturbed")
        words += ["--images-per-shard", "8"]
        started = time.monotonic()
        job = Job.start(words, folder / "undisturbed.log")
        assert job.wait(3000) == 0, job.text()
        alone = time.monotonic() - started
        print(f"undisturbed: {alone:.0f} s, {given.images} images", flush=True)
        torment(given, folder, root, images_uri, model)


def torment(given: Any, folder: Path, root: str, images_uri: str, model: str) -> None:
    chance, killed, rounds = random.Random(given.seed), Counter[str](), 0
    started = time.monotonic()
    with cluster() as (address, nodes):
        while killed.total() < given.kills:
            output = f"{root}/killed{rounds}"
            words = predict_words(images_uri, model, output, "--images-per-shard", "8")
            while True:
                job = Job.start(words, folder / f"log{killed.total()}", RAY_ADDRESS=address)
                code = hurt(job, nodes, chance, killed, given.kills)
                if code == 0:
                    break
                assert code in (None, -signal.SIGKILL), (code, job.text())
            compare(folder, root, rounds)
            verified = Job.start(["jobs.verify", output], folder / "verify.log")
            assert verified.wait(600) == 0, verified.text()
            rounds += 1
            print(f"round {rounds}: {dict(killed)}; tables equal, verify clean", flush=True)
    print(f"{killed.total()} kills in {rounds} rounds, {time.monotonic() - started:.0f} s")


def hurt(
    job: Job, nodes: Any, chance: random.Random, killed: Counter[str], most: int
) -> int | None:
    """Kill something every few seconds; the job's exit code, None where it was killed itself."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it goes on
            return job.process.wait(chance.uniform(2, 9) if killed.total() < most else 3000)
        kind = chance.choice(KINDS)
        if kind == "driver":
            job.kill()
            killed[kind] += 1
            return None
        if kind == "node":
            nodes.replace_one(chance)
            killed[kind] += 1
        elif nodes.kill_worker(kind, chance):
            killed[kind] += 1


def make_images(folder: Path, count: int) -> Path:
    from pipeline.synthetic import encode_image, make_scene

    folder.mkdir(parents=True)
    for i in range(count):
        scene = make_scene(64, 64, 3, i)
        (folder / f"{i:05d}.png").write_bytes(encode_image(scene.image, "png"))
    for i in range(0, count, 100):
        (folder / f"{i:05d}-bad.png").write_bytes(b"nothing like a PNG")
    return folder


def compare(folder: Path, root: str, number: int) -> None:
    """Row by row; from an object store by way of a copy."""
    names = ("undisturbed", f"killed{number}")
    if "://" in root:
        fs = fsspec.filesystem("s3", use_listings_cache=False)
        for name in names:
            if not (folder / name).exists():
                fs.get(f"{root}/{name}", str(folder / name), recursive=True)
    assert_same(folder / names[1], folder / names[0])


if __name__ == "__main__":
    main()
