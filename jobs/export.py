"""Write predicted objects in a format that other tools open."""

import sys

from jobs._console import console, live
from jobs._main import DONE, run_job
from pipeline.config import ExportSettings
from pipeline.wording import plural


def work(settings: ExportSettings) -> int:
    """Export image by image, and say where the files are."""
    from pipeline import storage
    from pipeline.exporting import FORMATS, WHOLE, choose_images, claim_target
    from pipeline.tables.dataset import OutputDataset

    dataset = OutputDataset.open(settings.dataset).at_one_moment()
    target = storage.absolute(settings.target)
    images = choose_images(dataset, settings.images)
    claim_target(target, dataset.uri, settings.to)
    with live("exporting") as show:
        if settings.to in WHOLE:
            WHOLE[settings.to](dataset, images, target)
        else:
            for done, image in enumerate(images):
                show(done / len(images), f"{done:,}/{len(images):,} images")
                FORMATS[settings.to](dataset, image, target)
    console.print(
        f"{plural(len(images), 'image')}: {settings.target}", highlight=False, markup=False
    )
    return DONE


if __name__ == "__main__":
    sys.exit(run_job(ExportSettings, work))
