"""The filter of Ray's one known notice lets everything else pass."""

import os
import sys

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
