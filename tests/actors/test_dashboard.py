"""The Grafana dashboard: every figure we export is on it, it names none that is not, and its queries mean something.

Grafana is in no package registry: that the dashboard looks right in it was not tested. Where Prometheus is installed
(`apt-get install prometheus`), it scrapes a real node and evaluates every query.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from ray.util.metrics import Counter, Gauge, Histogram

from l2l_ray.actors.telemetry import METRICS, Meters

MONITORING = Path(__file__).resolve().parent.parent.parent / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
EXPRESSIONS = [
    target["expr"].replace("$run", "test-run") for panel in DASHBOARD["panels"] for target in panel["targets"]
]
WAIT_S = 60.0


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", MONITORING / "dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_up_to_date() -> None:
    assert _generator().page() == (MONITORING / "dashboard.json").read_text(), "run `make format`"


def test_every_figure_is_shown_and_no_other_is_named() -> None:
    named = set(re.findall(r"ray_(l2l_\w+?)(?:_bucket)?\{", " ".join(EXPRESSIONS)))
    assert named == set(METRICS)


def test_labels_that_queries_group_by_are_those_of_the_figures() -> None:
    for expression in EXPRESSIONS:
        (grouping, *_), names = (
            re.findall(r"by \(([^)]+)\)", expression),
            re.findall(r"ray_(l2l_\w+?)(_bucket)?\{", expression),
        )
        for name, bucket in names:
            assert set(grouping.split(", ")) <= {"run", *METRICS[name].tags, *(["le"] if bucket else [])}, expression


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
    variables = {f"${{{variable['name']}}}" for variable in DASHBOARD["templating"]["list"]}
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} <= variables


class _Everything:
    """Exports every figure once a second, as our actors do, in a process of its own."""

    def __init__(self) -> None:
        self._meters = Meters("test-run")

    def report(self) -> None:
        for name, spec in METRICS.items():
            tags = dict.fromkeys(spec.tags, "x")
            if spec.kind is Gauge:
                self._meters.set(name, 0.5, **tags)
            elif spec.kind is Counter:
                self._meters.add(name, 1, **tags)
            else:
                assert spec.kind is Histogram
                self._meters.observe(name, 0.5, **tags)


@dataclass
class Node:
    """A node that exports every figure, while `report` is called now and then: Ray forgets what is not said again."""

    address: str
    report: Callable[[], None]


@pytest.fixture
def node(ray_local: str) -> Iterator[Node]:
    import ray

    actor = ray.remote(_Everything).options(num_cpus=0).remote()
    address = f"127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}"
    found = Node(address, lambda: ray.get(actor.report.remote(), timeout=WAIT_S))
    deadline = time.monotonic() + WAIT_S
    while "ray_l2l_label_shard_s_bucket" not in _scrape(address):
        assert time.monotonic() < deadline, "no figures of ours within a minute"
        found.report()
        time.sleep(0.5)
    yield found
    ray.kill(actor)


def _scrape(address: str) -> str:
    return str(urlopen(f"http://{address}/metrics", timeout=10).read().decode())


@pytest.mark.slow  # alone it takes 20 s; after other Ray tests of its process its figures do not arrive, why is open
def test_a_real_node_exports_what_the_queries_name(node: Node) -> None:
    exported = set(re.findall(r"^(\w+)\{", _scrape(node.address), re.MULTILINE))
    named = set(re.findall(r"\b(ray_l2l_\w+)", " ".join(EXPRESSIONS)))
    assert named <= exported


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_prometheus_understands_every_query(node: Node, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{probe.getsockname()[1]}"
    config = (MONITORING / "prometheus.yml").read_text().replace("../../.ray/prometheus.json", "targets.json")
    (tmp_path / "prometheus.yml").write_text(config.replace("scrape_interval: 5s", "scrape_interval: 1s"))
    (tmp_path / "targets.json").write_text(json.dumps([{"targets": [node.address], "labels": {"job": "ray"}}]))
    options = [f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={at}", "--log.level=error"]
    with subprocess.Popen(["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", *options]) as server:
        try:
            deadline = time.monotonic() + WAIT_S
            while not _answered(at, "ray_l2l_round"):
                assert time.monotonic() < deadline, "Prometheus has no figures of ours within a minute"
                node.report()
                time.sleep(0.5)
            gauges = [expr for expr in EXPRESSIONS if "ray_l2l_" in expr and "[5m]" not in expr]
            others = [expr for expr in EXPRESSIONS if expr not in gauges]  # rates need a longer past
            assert [expr for expr in gauges if not _answered(at, expr)] == []
            assert [_answered(at, expr) is None for expr in others] == [False] * len(others)
        finally:
            server.terminate()


def _answered(server: str, expression: str) -> int | None:
    """Return how many series a query finds; None where the server does not answer yet.

    A query that is no PromQL raises HTTPError 400.
    """
    try:
        with urlopen(f"http://{server}/api/v1/query?{urlencode({'query': expression})}", timeout=10) as reply:
            return len(json.load(reply)["data"]["result"])
    except URLError as error:
        if getattr(error, "code", 503) == 503:
            return None
        raise
