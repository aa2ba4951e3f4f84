"""Make a small synthetic collection, train on it, predict, evaluate, count and draw."""

import sys
from collections.abc import Callable
from typing import Any

from jobs import count, evaluate, overlay, predict, train
from jobs._command import command
from jobs._console import console
from jobs._main import DONE, run_job
from pipeline import storage
from pipeline.config import (
    CountSettings,
    DemoSettings,
    EvaluateSettings,
    JobSettings,
    NetworkSettings,
    OverlaySettings,
    PredictSettings,
    TrainSettings,
)
from pipeline.errors import SettingsError

_TRAIN_SIZES = [(192, 192), (160, 224), (200, 168), (256, 256)] * 10
_TEST_SIZES = [(256, 256), (240, 320), (180, 180), (301, 199), (64, 64), (480, 640)] * 5


def work(settings: DemoSettings) -> int:
    """The whole path, with the commands that do each step of it."""
    from pipeline.distributed.session import ray_session
    from pipeline.synthetic import write_annotated

    root = settings.output
    data, collection = f"{root}/annotated", f"{root}/collection"
    model, output, picture = f"{root}/model", f"{root}/output", f"{root}/overlay.png"
    marker = f"{root}/demo.txt"
    if storage.list_names(storage.absolute(root)) and not storage.exists(marker):
        raise SettingsError(f"setting output: {root} exists and is not a demo's; give another")
    storage.write_bytes(marker, b"made by `python -m jobs.demo`, which makes all of it anew\n")
    for path in (data, collection, model, output):
        storage.remove_folder(path)
    console.rule(f"synthetic images in {root}", align="left")
    splits = ["val" if i % 5 == 4 else "train" for i in range(len(_TRAIN_SIZES))]
    write_annotated(data, _TRAIN_SIZES, splits, seed=0)
    write_annotated(collection, _TEST_SIZES, ["test"] * len(_TEST_SIZES), seed=1000)
    storage.write_bytes(f"{collection}/images/broken.png", b"\x89PNG\r\n\x1a\nnot really")
    console.print(f"{len(_TRAIN_SIZES)} annotated images, {len(_TEST_SIZES)} more and a broken one")
    with ray_session():  # one for all the steps, since starting Ray takes a while
        steps: list[tuple[Callable[[Any], int], JobSettings]] = [
            (
                train.work,
                TrainSettings(
                    data=data,
                    output=model,
                    epochs=settings.epochs,
                    network=NetworkSettings(depth=3, width=16),
                    crop=128,
                ),
            ),
            (
                predict.work,
                PredictSettings(
                    input=f"{collection}/images", model=model, output=output, images_per_shard=8
                ),
            ),
            (evaluate.work, EvaluateSettings(predictions=output, data=collection)),
            (count.work, CountSettings(dataset=output)),
            (overlay.work, OverlaySettings(dataset=output, picture=picture)),
        ]
        for job, given in steps:
            code = _step(job, given)
            if code != DONE:
                console.print("the demo ends here; the same command begins anew")
                return code
    console.rule("where everything lies", align="left")
    for path, what in (
        (data, "annotated images, to train on"),
        (model, "the model bundle"),
        (collection, "images to predict, and the truth about them"),
        (output, "masks, objects, counts and rejects in Parquet"),
        (picture, "objects drawn over their images"),
    ):
        console.print(f"{path:22} {what}", highlight=False)
    return DONE


def _step(job: Callable[[Any], int], settings: JobSettings) -> int:
    console.print()
    console.rule(characters="─")
    console.print(f"$ {command(settings)}\n", highlight=False, soft_wrap=True)
    return job(settings)


if __name__ == "__main__":
    sys.exit(run_job(DemoSettings, work))
