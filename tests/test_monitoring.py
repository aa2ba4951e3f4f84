"""The dashboard and the alerts: whole, understood by Prometheus, and right about what happens."""

import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring import (
    RULES,
    RULES_TEST,
    alerts,
    dashboard,
    expressions,
    metric_names,
    named_metrics,
    panel_expressions,
    panels,
)


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    return found


def test_every_panel_says_what_it_shows() -> None:
    for panel in panels():
        name = panel["title"]
        assert name, panel["id"]
        assert len(panel["description"].split()) > 3, name
        assert panel["fieldConfig"]["defaults"]["unit"], name
        assert panel["targets"], name
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["expr"], name
            assert target["legendFormat"], name


def test_it_can_be_imported_beside_any_prometheus() -> None:
    board = dashboard()
    assert "id" not in board  # of another Grafana
    assert not board.get("__inputs")
    kinds = {one["name"]: one["type"] for one in board["templating"]["list"]}
    assert kinds == {"datasource": "datasource", "output": "query", "session": "query"}
    variables = [one for one in board["templating"]["list"] if one["type"] == "query"]
    targets = [target for panel in panels() for target in panel["targets"]]
    for place in [*variables, *panels(), *targets]:
        assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_are_distinct_and_don_t_overlap() -> None:
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    for panel in every:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
    for one, other in combinations(every, 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_every_alert_says_what_to_do() -> None:
    assert len(alerts()) == len({alert["alert"] for alert in alerts()}) >= 5
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description"}
        assert "{{ $labels." in alert["annotations"]["summary"]
        assert "`" in alert["annotations"]["description"], alert["alert"]  # a command


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    cases: dict[str, set[bool]] = {}
    for test in yaml.safe_load(RULES_TEST.read_text())["tests"]:
        for case in test.get("alert_rule_test", []):
            cases.setdefault(case["alertname"], set()).add(bool(case.get("exp_alerts")))
    assert cases == {alert["alert"]: {True, False} for alert in alerts()}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (le, x) (rate(a_total{b="c d",e=~"f.*"}[5m])) / 1e6', {"a_total"}),
        ("a unless on (b) (c:d:e offset 2m > 3) or 0 * f", {"a", "c:d:e", "f"}),
        ("a / on (b) group_left (c) d and time() - 5 > bool 2", {"a", "d"}),
        ("max_over_time(a[1d:1m] offset 1h)", {"a"}),
        ("count(a) by (b) == +Inf", {"a"}),
    ],
)
def test_metrics_are_told_from_the_rest_of_an_expression(expression: str, names: set[str]) -> None:
    assert metric_names(expression) == names


def test_all_metrics_are_ours_or_ray_s() -> None:
    assert all(metric_names(each) for each in expressions())
    assert all(name.startswith("ray_") for name in named_metrics())
    assert len([name for name in named_metrics() if name.startswith("ray_tessera_")]) >= 11


def test_prometheus_takes_the_rules(promtool: str) -> None:
    _run(promtool, "check", "rules", str(RULES))


def test_prometheus_takes_the_panels(promtool: str, tmp_path: Path) -> None:
    group = [{"record": f"panel:{i}", "expr": each} for i, each in enumerate(panel_expressions())]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump(_group(group)))
    _run(promtool, "check", "rules", str(tmp_path / "panels.yaml"))


def test_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    _run(promtool, "test", "rules", str(RULES_TEST))


def _group(members: list[dict[str, Any]]) -> dict[str, Any]:
    return {"groups": [{"name": "panels", "rules": members}]}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
