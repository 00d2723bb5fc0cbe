"""The dashboard and the alerts that come along: they ask for what the service tells, and Prometheus takes them."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import ConnectionPool

from service import metrics
from service.app import create_app
from service.programme import programme_from
from service.settings import Settings
from tests.tools import tool

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "matinee.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
[GROUP] = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
UNITS: dict[str, Any] = yaml.safe_load((PROMETHEUS / "rules.test.yaml").read_text())
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()

# What a histogram and a counter are called in a query.
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
# Those that Prometheus and its histograms add, and those that Grafana fills in.
ADDED_LABELS = {"job", "instance", "le"}
GRAFANAS = {"$__rate_interval": "5m", "$__range": "1h", "$job": ".*", "$instance": ".*"}


def queries() -> dict[str, str]:
    """Every query of the dashboard by the title of its panel, as Grafana sends it to Prometheus."""
    found = {}
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"]
            for variable, text in GRAFANAS.items():
                query = query.replace(variable, text)
            found[f"{panel['title']}, {target['refId']}"] = query
    return found


EXPRESSIONS = queries() | {name: rule["expr"] for name, rule in ALERTS.items()}


def named(expressions: Iterator[str]) -> set[str]:
    """The metrics that are asked for."""
    return {name for expression in expressions for name in re.findall(r"\bmatinee_\w+", expression)}


@pytest.fixture
async def families(pool: ConnectionPool) -> dict[str, Any]:
    """What a service tells after a few requests."""
    settings = Settings.from_environment({})
    async with TestClient(TestServer(create_app(settings, programme_from(settings), pool))) as client:
        booking = {"name": "Asha Rao", "phone": "+919812345678", "timing": "18:00"}
        await client.post("/v1/tickets", json=booking)
        text = await (await client.get("/metrics")).text()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    return {name: family for name, family in found.items() if not name.endswith("_created")}


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
async def test_dashboard_and_alerts_ask_for_what_there_is_and_the_dashboard_for_all_of_it(
    families: dict[str, Any],
) -> None:
    told = {name: [name + suffix for suffix in SUFFIXES[family.type]] for name, family in families.items()}
    assert named(iter(EXPRESSIONS.values())) <= {each for names in told.values() for each in names}
    shown = named(iter(queries().values()))
    assert [name for name, names in told.items() if not shown.intersection(names)] == []


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
async def test_they_ask_by_labels_that_there_are(families: dict[str, Any]) -> None:
    labels = {sample.name: {*sample.labels, *ADDED_LABELS} for family in families.values() for sample in family.samples}
    asked = [
        (name, label)
        for expression in EXPRESSIONS.values()
        for name, selector in re.findall(r"\b(matinee_\w+)\{([^{}]*)\}", expression)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", selector))
    ]
    assert len(asked) > 50
    assert [(name, label) for name, label in asked if label not in labels[name]] == []


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
async def test_counters_are_there_before_their_first_event(families: dict[str, Any]) -> None:
    for counter, expected in metrics.KNOWN_LABELS.items():
        values = {next(iter(sample.labels.values())): sample.value for sample in families[f"matinee_{counter}"].samples}
        assert set(values) >= set(expected)
        assert sum(values.values()) == (0 if counter == "shed" else 1)


def test_the_panels_explain_themselves_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_each_alert_leads_to_its_place_in_the_runbook() -> None:
    section = RUNBOOK.split("\n## Alerts\n")[1].split("\n## ")[0]
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"


def test_each_alert_is_shown_to_fire_and_to_leave_an_on_sale_alone() -> None:
    cases = [case for test in UNITS["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(ALERTS)
    assert {case["alertname"] for case in UNITS["tests"][0]["alert_rule_test"] if not case["exp_alerts"]} == set(ALERTS)


@pytest.fixture
def promtool() -> str:
    return tool("promtool", package="prometheus")


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_they_do_what_they_should(promtool: str) -> None:
    run(promtool, "check", "rules", "rules.yaml")
    run(promtool, "test", "rules", "rules.test.yaml")
    run(promtool, "check", "config", "--syntax-only", "prometheus.yaml")


def test_prometheus_takes_every_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries().values())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(promtool, "check", "rules", str(file))
