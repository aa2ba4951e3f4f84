"""Look at annotated images: what is in them, what is wrong, what a training would choose."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from jobs._console import console, live
from jobs._log import TextLog
from jobs._main import DONE, run_job
from jobs._survey import print_summaries, tell_choices, tell_notes
from pipeline.config import InspectSettings, TrainSettings

if TYPE_CHECKING:  # Ray and PyTorch are imported when there is work for them
    from pipeline.distributed.survey import Survey
    from pipeline.survey.configure import Configuration
    from pipeline.training.pretrained import Pretrained


def work(settings: InspectSettings) -> int:
    """Read all images, print what they say, and fail as a training would."""
    from pipeline import storage
    from pipeline.distributed.session import ray_session, unwrapped_errors
    from pipeline.distributed.survey import survey
    from pipeline.labels import open_data

    if settings.picture:
        storage.check_writable(settings.picture)
    given = TrainSettings(
        data=settings.data,
        output="none is written",
        max_minutes=settings.max_minutes,
        pretrained=settings.pretrained,
    )
    before = _pretrained(given) if given.pretrained else None
    filled = before.fill_in(given) if before else given
    data = open_data(settings.data, settings.labels, settings.val_fraction)
    with ray_session() as resources, unwrapped_errors():
        with live("reading", quiet=settings.json_output) as show:
            found = survey(
                data,
                on_progress=lambda done, total: show(done / total, f"{done:,}/{total:,} images"),
            )
        workers = settings.workers or resources.gpus or resources.nodes
        chosen = found.configure(filled, workers, resources) if found.can_configure else None
    if before and chosen:
        chosen = before.explain(chosen, data.classes)
    if settings.json_output:
        print(_to_json(found, chosen))
    else:
        _print(found, chosen)
    if settings.picture and found.facts:  # else there is nothing to draw but the problems below
        _write_picture(found, settings.picture, settings.images)
        if not settings.json_output:
            console.print(f"\npicture: {settings.picture}", highlight=False)
    found.findings.check()
    return DONE


def _pretrained(given: TrainSettings) -> "Pretrained | None":
    from pipeline.training.pretrained import find_pretrained

    return find_pretrained(given)


def _print(found: "Survey", chosen: "Configuration | None") -> None:
    from pipeline.survey.summary import summaries

    if found.facts:
        print_summaries(summaries(found.fingerprint))
        console.print()
    log = TextLog()
    tell_notes(log, found.findings)
    if chosen:
        console.print()
        tell_choices(log, chosen.choices, "a training would choose")


def _to_json(found: "Survey", chosen: "Configuration | None") -> str:
    from pipeline.survey.summary import summaries

    return json.dumps(
        {
            "fingerprint": [asdict(one) for one in summaries(found.fingerprint)],
            "problems": [asdict(problem) for problem in found.findings.problems],
            "notes": [asdict(note) for note in found.findings.notes],
            "choices": [asdict(choice) for choice in chosen.choices] if chosen else [],
        },
        indent=2,
    )


def _write_picture(found: "Survey", uri: str, count: int) -> None:
    from pipeline import storage
    from pipeline.distributed.survey import read_again
    from pipeline.drawing import to_png
    from pipeline.survey.picture import draw_survey, pick_images

    picks = pick_images(found.facts, found.data.classes, count)
    samples = read_again(found.data, [pick.facts for pick in picks])
    storage.write_bytes(uri, to_png(draw_survey(picks, samples, found.facts, found.fingerprint)))


if __name__ == "__main__":
    sys.exit(run_job(InspectSettings, work))
