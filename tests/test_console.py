"""What the jobs print."""

import pytest

from jobs._console import print_table


def test_away_from_a_terminal_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    uris = [f"s3://bucket/{'a-long-folder/' * 20}{i}.png" for i in range(2)]
    print_table(["uri", "n"], [[uri, 7] for uri in uris])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["uri", "n"],
        *([uri, "7"] for uri in uris),
    ]
