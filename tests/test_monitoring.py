"""The alert rules and the dashboard in docs/monitoring: what they ask for is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rounded_pbx.call import Switch
from rounded_pbx.metrics import Metrics, State
from rounded_pbx.records import CallRecord

MONITORING = Path(__file__).parents[1] / "docs/monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())
DASHBOARD = json.loads((MONITORING / "grafana.json").read_text())
NAME = re.compile(r"\brounded_(?!pbx)[a-z_]+\b")


def metrics() -> Metrics:
    """Metrics with a value of each kind."""
    one = {"asterisk": 1}
    made = Metrics(lambda: State(sessions=one, refused=one, breakers={"default": False}))
    made.count_call(CallRecord(time=0.0, switch=Switch.ASTERISK, outcome="STAGED", route="a"))
    made.count_request("POST /v1/calls/stage", "201", 0.1)
    made.count_dropped("default")
    made.count_reload(worked=True)
    return made


def rules() -> Iterator[dict[str, Any]]:
    for group in RULES["groups"]:
        yield from group["rules"]


def expressions() -> list[str]:
    """Every expression of the dashboard, its variables filled in."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [each.replace("$__rate_interval", "5m").replace("$instance", ".*") for each in asked]


def promtool(*arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool: Debian's package prometheus has it")
    return subprocess.run(
        [program, *map(str, arguments)], input=given, capture_output=True, check=False
    )


def test_every_metric_that_is_asked_for_is_there() -> None:
    there = set(NAME.findall(metrics().text().decode()))
    asked = {name for rule in rules() for name in NAME.findall(rule["expr"])}
    asked |= {name for each in expressions() for name in NAME.findall(each)}
    assert len(asked) > 8
    assert asked - there == set()


def test_every_label_that_is_asked_for_is_there() -> None:
    there = set(re.findall(r'[{,](\w+)="', metrics().text().decode())) | {"instance"}
    for text in [*(rule["expr"] for rule in rules()), *expressions()]:
        by = [label for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(", ")]
        matched = re.findall(r'[{,](\w+)[=!]~?"', text)
        assert {*by, *matched} - there <= {"job"}, text


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    found = list(rules())
    assert len(found) == len({rule["alert"] for rule in found})
    for rule in found:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_panels_do_not_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_promtool_takes_the_rules() -> None:
    ran = promtool("check", "rules", MONITORING / "alerts.yml")
    assert ran.returncode == 0, ran.stderr


def test_promtool_takes_the_dashboards_expressions(tmp_path: Path) -> None:
    recorded = [{"record": f"a:b{n}", "expr": each} for n, each in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": recorded}]}))
    ran = promtool("check", "rules", file)
    assert ran.returncode == 0, ran.stderr


def test_promtool_takes_the_metrics() -> None:
    ran = promtool("check", "metrics", given=metrics().text())
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("alert", "series", "values", "at", "fires"),
    [
        # A counter with labels is there once it has counted one, so that one is no increase.
        ("RoundedPbxDefect", 'rounded_calls_total{outcome="ERROR"}', "_x5 1x30", "8m", True),
        ("RoundedPbxDefect", 'rounded_calls_total{outcome="ERROR"}', "_x5 1x30", "25m", False),
        ("RoundedPbxDefect", 'rounded_calls_total{outcome="ERROR"}', "1x20 2x20", "25m", True),
        ("RoundedPbxDefect", 'rounded_calls_total{outcome="STAGED"}', "_x5 1x30", "8m", False),
        (
            "RoundedPbxKeyRefused",
            'rounded_calls_total{outcome="UNAUTHORIZED"}',
            "_ 1x9",
            "5m",
            True,
        ),
        (
            "RoundedPbxReloadRefused",
            'rounded_reloads_total{result="refused"}',
            "0x5 1x9",
            "8m",
            True,
        ),
    ],
)
def test_a_single_event_alerts_for_a_while(
    tmp_path: Path, alert: str, series: str, values: str, at: str, fires: bool
) -> None:
    file = tmp_path / "test.yml"
    count = {"expr": f'count(ALERTS{{alertname="{alert}"}})', "eval_time": at}
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values}],
        "promql_expr_test": [{**count, "exp_samples": [{"labels": "{}", "value": 1}] * fires}],
    }
    wanted = {"rule_files": [str(MONITORING / "alerts.yml")], "tests": [test]}
    file.write_text(yaml.safe_dump(wanted))
    ran = promtool("test", "rules", file)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_a_reload_came_to_is_counted_from_nothing() -> None:
    """Or the first that is refused would be no increase."""
    text = Metrics(State).text().decode()
    for result in ("done", "refused"):
        assert f'rounded_reloads_total{{result="{result}"}} 0.0\n' in text


def test_an_api_that_is_out_alerts(tmp_path: Path) -> None:
    file = tmp_path / "test.yml"
    labels = {"instance": "pbx1:9810", "account": "default"}
    series = "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
    alert = {
        "eval_time": "3m",
        "alertname": "RoundedPbxApiOut",
        "exp_alerts": [
            {
                "exp_labels": {**labels, "severity": "critical"},
                "exp_annotations": {
                    "summary": "pbx1:9810: account default does not reach the Rounded API",
                    "description": "Calls are not staged until it answers again; "
                    "the daemon tries by itself.",
                },
            }
        ],
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": f"rounded_breaker_open{series}", "values": "0 1 1 1 1"}],
        "alert_rule_test": [alert],
    }
    wanted = {"rule_files": [str(MONITORING / "alerts.yml")], "tests": [test]}
    file.write_text(yaml.safe_dump(wanted))
    ran = promtool("test", "rules", file)
    assert ran.returncode == 0, ran.stdout + ran.stderr
