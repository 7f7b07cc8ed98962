"""The dashboard and the alerts ask for metrics that a hub has, and `docs/operations.md` lists them.

`monitoring.py METRICS REPOSITORY`: a file with what `/metrics` of a hub with TLS says, and the
repository. The queries are parsed, and each name, label and value in them is looked up.
"""

import json
import re
import sys
from pathlib import Path

import promql_parser
import yaml

REPOSITORY = Path(sys.argv[2])

#: Of each sample: the values of its labels.
SAMPLES = {}
for line in Path(sys.argv[1]).read_text().splitlines():
    if line and not line.startswith("#"):
        name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()
        known = SAMPLES.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels or ""):
            known.setdefault(label, set()).add(value)
#: Prometheus adds these to each sample, and makes this metric for each target.
TARGET = {"job": set(), "instance": set()}
SAMPLES["up"] = {}

FAMILIES = {re.sub("_(bucket|sum|count)$", "", name) for name in SAMPLES}


def selectors(node):
    """All selectors of a query."""
    if type(node).__name__ == "VectorSelector":
        yield node
    for attribute in ("lhs", "rhs", "expr", "vector_selector"):
        inner = getattr(node, attribute, None)
        if inner is not None:
            yield from selectors(inner)
    for argument in getattr(node, "args", None) or []:
        yield from selectors(argument)


def check(query, place):
    """Looks up what the query asks for, and returns the families of metrics."""
    # What Grafana puts in.
    query = query.replace("$__rate_interval", "1m")
    asked, labels = set(), set(TARGET)
    for selector in selectors(promql_parser.parse(query)):
        assert selector.name in SAMPLES, f"{place}: a hub has no metric `{selector.name}`"
        known = SAMPLES[selector.name] | TARGET
        labels |= known.keys()
        asked.add(re.sub("_(bucket|sum|count)$", "", selector.name))
        for matcher in selector.matchers.matchers:
            assert matcher.name in known, f"{place}: {selector.name} has no `{matcher.name}`"
            if matcher.name not in TARGET:
                wrong = set(matcher.value.split("|")) - known[matcher.name]
                assert not wrong, f"{place}: {selector.name} has no {matcher.name} {wrong}"
    for listed in re.findall(r"\b(?:by|without|on|ignoring) ?\(([^)]*)\)", query):
        wrong = set(re.split(r",\s*", listed)) - labels
        assert not wrong, f"{place}: no metric of this query has {wrong}"
    assert asked, f"{place}: nothing is asked for"
    return asked


def dashboard():
    path = REPOSITORY / "deploy/grafana/dashboards/fanfare.json"
    board = json.loads(path.read_text())
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == ["datasource", "job", "instance"], variables
    for variable in board["templating"]["list"][1:]:
        inner = re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])
        check(inner[1], f"variable {variable['name']}")
    shown, taken = set(), set()
    for panel in board["panels"]:
        place = f"panel `{panel['title']}`"
        box = panel["gridPos"]
        columns, rows = range(box["x"], box["x"] + box["w"]), range(box["y"], box["y"] + box["h"])
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & taken and box["x"] + box["w"] <= 24, f"{place}: no room at {box}"
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}", place
            shown |= check(target["expr"], place)
            selected = target["expr"].count('job=~"$job",instance=~"$instance"')
            assert selected == target["expr"].count("{"), f"{place}: not of the chosen hubs"
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert f"by ({label})" in target["expr"], f"{place}: no {label} to show"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids), "two panels have one id"
    unseen = {name for name in FAMILIES - shown if name.startswith("fanfare_")}
    assert not unseen, f"no panel shows {unseen}"


def alerts():
    rules = yaml.safe_load((REPOSITORY / "deploy/prometheus/alerts.yml").read_text())
    names = []
    for group in rules["groups"]:
        assert group.keys() <= {"name", "rules", "interval"}, group.keys()
        for rule in group["rules"]:
            place = f"alert {rule['alert']}"
            assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}, place
            assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m")), place
            assert rule["labels"]["severity"] in ("page", "warn"), place
            check(rule["expr"], place)
            summary = rule["annotations"]["summary"]
            for label in re.findall(r"\$labels\.(\w+)", summary):
                assert re.search(rf"by \([^)]*\b{label}\b", rule["expr"]), f"{place}: no {label}"
            names.append(rule["alert"])
    assert len(set(names)) == len(names), names
    told = re.findall(r"^- \*\*`(\w+)`\*\*", OPERATIONS, re.MULTILINE)
    assert sorted(told) == sorted(names), f"docs/operations.md has {set(told) ^ set(names)}"


def table():
    told = {}
    for name, labels in re.findall(r"^\| `(fanfare_\w+)(?:\{([\w,]+)\})?` \|", OPERATIONS, re.M):
        told[name] = set(labels.split(",")) - {""}
    for name in FAMILIES - {"up"}:
        if name.startswith("fanfare_"):
            labels = SAMPLES.get(name, {}).keys()
            assert told.pop(name, None) == labels, f"docs/operations.md: {name}{list(labels)}"
    assert not told, f"docs/operations.md: a hub has no {told}"


OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()

dashboard()
alerts()
table()
print(f"{len(FAMILIES)} metrics")
