"""A store that misbehaves: the same tables, and how much longer it takes.

    python -m benchmarks.backfill_faults --images 1000

20 % of the requests are answered with 503 SlowDown, 5 % end in a reset of the connection, 2 % of
the pieces of bodies are cut short; against the same store through the same proxy without faults.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import fsspec

from benchmarks.backfill_kills import make_images
from tests.chaos import Job, assert_same, predict_words
from tests.fault_proxy import Faults, fault_proxy
from tests.object_store import s3_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--model", default="models/nuclei")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        s3_server() as store,
        fault_proxy(store.port) as proxy,
    ):
        folder = Path(name)
        os.environ.update(store.environment)
        print(f"object store: {store.kind}", flush=True)
        fs = fsspec.filesystem("s3", use_listings_cache=False)
        fs.mkdir("faults")
        fs.put(str(make_images(folder / "images", given.images)), "faults/images", recursive=True)
        fs.put(str(Path(given.model).resolve()), "faults/model", recursive=True)
        seconds = {}
        for kind, faults in (
            ("without", Faults()),
            ("with", Faults(slow_down=0.2, reset=0.05, cut=0.02)),
        ):
            proxy.faults = faults
            words = predict_words("s3://faults/images", "s3://faults/model", f"s3://faults/{kind}")
            words += ["--images-per-shard", "32"]
            started = time.monotonic()
            job = Job.start(words, folder / kind, AWS_ENDPOINT_URL=proxy.endpoint)
            assert job.wait(3000) == 0, job.text()
            seconds[kind] = time.monotonic() - started
            print(f"{kind} faults: {seconds[kind]:.1f} s; {dict(proxy.injected)}", flush=True)
            fs.get(f"faults/{kind}", str(folder / f"out-{kind}"), recursive=True)
        assert_same(folder / "out-with", folder / "out-without")
        print(f"same tables; {seconds['with'] / seconds['without']:.2f} times the time")


if __name__ == "__main__":
    main()
