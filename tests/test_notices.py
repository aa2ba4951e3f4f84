"""The filter of known notices of Ray lets everything else pass."""

import os
import sys
import threading

import pytest

from pipeline.distributed.notices import without_known_notices


def test_only_the_known_notice_is_kept_back(capfd: pytest.CaptureFixture[str]) -> None:
    with without_known_notices():
        os.write(2, b"E core_worker.cc] Actor has constructor arguments in the object store and ")
        os.write(2, b"max_restarts > 0. See ray#53727\n")
        print("error: something real", file=sys.stderr)
        os.write(2, b"without an end")
    os.write(2, b", and after\n")
    assert capfd.readouterr().err == "error: something real\nwithout an end, and after\n"


def test_standard_output_is_ours_alone(capfd: pytest.CaptureFixture[str]) -> None:
    def report() -> None:
        print("(raylet) Task f failed, so the task will be retried.")
        print("(raylet) something new")

    with without_known_notices():
        print('{"event": "progress"}')
        rays = threading.Thread(target=report, name="ray_listen_error_messages")
        rays.start()
        rays.join()
        print("\033[33m(raylet)\033[0m Task f failed, so the task will be retried.")  # at its end
        print('{"event": "done"}')
        sys.stderr.flush()
    assert capfd.readouterr() == (
        '{"event": "progress"}\n{"event": "done"}\n',
        "(raylet) something new\n",
    )
