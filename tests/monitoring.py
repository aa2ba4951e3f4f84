"""What `infra/monitoring` holds: its panels, its rules, and the metrics that they ask for."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.conftest import ROOT

MONITORING = ROOT / "infra/monitoring"
DASHBOARD = MONITORING / "dashboard.json"
RULES = MONITORING / "alerts.yaml"
RULES_TEST = MONITORING / "alerts.test.yaml"

ONLY_WITH_GPUS = {"ray_node_gpus_utilization", "ray_node_gram_used"}
"""Metrics that Ray serves only where there is a GPU."""

_VARIABLES = {
    "$__rate_interval": "5m",
    "$__range": "6h",
    "$output": ".*",
    "$session": ".*",
}
# Quoted text, matchers, ranges, and the labels of a grouping: they hold names of no metrics.
_NO_METRICS = re.compile(
    r"\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'|\{[^}]*\}|\[[^\]]*\]"
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
)
_NAME = re.compile(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?!\w|\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"} | {
    "group_left",
    "group_right",
    "inf",
    "nan",
}


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return document


def panels() -> list[dict[str, Any]]:
    """All that show something; rows are titles."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    """Those that record, and those that alert."""
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panel_expressions() -> list[str]:
    """As Prometheus gets them, with the dashboard's variables filled in."""
    return [_filled(target["expr"]) for panel in panels() for target in panel.get("targets", [])]


def expressions() -> Iterator[str]:
    """Every query of panels, variables and rules."""
    yield from panel_expressions()
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            (metric,) = re.findall(r"label_values\((.*), *\w+\)", variable["query"]["query"])
            yield _filled(metric)
    for rule in rules():
        yield rule["expr"]


def metric_names(expression: str) -> set[str]:
    """The metrics that a PromQL expression names."""
    left = _NO_METRICS.sub(" ", expression)
    return {name for name in _NAME.findall(left) if name.lower() not in _WORDS}


def named_metrics() -> set[str]:
    """The metrics that the jobs and Ray must serve: all but those that rules record."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    return {name for each in expressions() for name in metric_names(each)} - recorded


def _filled(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression
