"""Draw predicted objects over their images, in one picture."""

import sys

from jobs._console import console
from jobs._main import DONE, run_job
from pipeline.config import OverlaySettings


def work(settings: OverlaySettings) -> int:
    """Draw, and say where the picture is."""
    from pipeline import storage
    from pipeline.drawing import to_png
    from pipeline.overlay import draw_sheet
    from pipeline.tables.dataset import OutputDataset

    storage.check_writable(settings.picture)
    sheet = draw_sheet(OutputDataset.open(settings.dataset), settings.images, settings.side)
    storage.write_bytes(settings.picture, to_png(sheet))
    console.print(f"picture: {settings.picture}", highlight=False)
    return DONE


if __name__ == "__main__":
    sys.exit(run_job(OverlaySettings, work))
