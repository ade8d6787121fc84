"""Writes deploy/monitoring/dashboard.json anew, for import into Grafana: the figures of `actors/telemetry.py`, per run.

python deploy/monitoring/dashboard.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).with_name("dashboard.json")
COLUMNS, HEIGHT, WIDTH = 3, 8, 8  # Grafana's grid has 24 columns
_RUN = '{run=~"$run"}'


class Panel(NamedTuple):
    """One graph.

    Example: `Panel("Newest version", "none", {"{{run}}": "ray_l2l_round"})`
    """

    title: str
    unit: str  # as Grafana names it
    queries: dict[str, str]  # legend -> PromQL


def _gauge(name: str, legend: str) -> dict[str, str]:
    return {legend: f"max by (run, {legend.strip('{}')}) (ray_l2l_{name}{_RUN})"}


def _quantile(name: str, quantile: float) -> str:
    return f"histogram_quantile({quantile}, sum by (le, actor) (rate(ray_l2l_{name}_bucket{_RUN}[5m])))"


PANELS = (
    Panel("Progress of the training stage", "percentunit", _gauge("train_done_frac", "{{stage}}")),
    Panel("Newest version", "none", _gauge("round", "{{method}}")),
    Panel("mean IoU, newest version", "percentunit", {
        "{{method}} {{split}}": f"max by (run, method, split) (ray_l2l_mean_iou{_RUN})"
    }),
    Panel("Labels per second", "ops", {"{{run}}": f"max by (run) (ray_l2l_labels_per_s{_RUN})"}),
    Panel("Labels in the last 5 minutes", "none", {
        "{{run}}": f"sum by (run) (increase(ray_l2l_labels_total{_RUN}[5m]))"
    }),
    Panel("Share of pixels believed", "percentunit", _gauge("accepted_frac", "{{method}}")),
    Panel("Seconds to label a shard", "s", {
        "half, {{actor}}": _quantile("label_shard_s", 0.5), "95 %, {{actor}}": _quantile("label_shard_s", 0.95)
    }),
    Panel("Seconds of an MLLM batch", "s", {
        "half, {{actor}}": _quantile("prior_latency_s", 0.5), "95 %, {{actor}}": _quantile("prior_latency_s", 0.95)
    }),
    Panel("MLLM: waiting, last batch, answers per second", "none", {
        "waiting, {{actor}}": f"max by (actor) (ray_l2l_prior_queue{_RUN})",
        "batch, {{actor}}": f"max by (actor) (ray_l2l_prior_batch{_RUN})",
        "answers/s, {{actor}}": f"sum by (actor) (rate(ray_l2l_prior_answers_total{_RUN}[5m]))",
    }),
    Panel("Terms of the reward", "none", {"{{method}} {{term}}": f"max by (run, method, term) (ray_l2l_reward{_RUN})"}),
    Panel("Training: losses, norms, shares", "none", _gauge("train", "{{name}}")),
    Panel("Memory by kind of process", "bytes", {
        "{{Component}}": 'sum by (Component) (ray_component_uss_bytes{Component=~"ray::.*"})'
    }),
    Panel("Disk that Ray's files may still take", "bytes", {"{{instance}}": "min by (instance) (ray_node_disk_free)"}),
    Panel("Memory of the machines", "percentunit", {
        "{{instance}}": "max by (instance) (ray_node_mem_used / ray_node_mem_total)"
    }),
    Panel("GPUs", "percent", {"{{instance}} {{GpuIndex}}": "max by (instance, GpuIndex) (ray_node_gpus_utilization)"}),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON model, schema 39 (Grafana 10.4); later ones migrate it."""
    return {
        "uid": "l2l-ray",
        "title": "L2L on Ray",
        "tags": ["l2l", "ray"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source_variable(), _run_variable()]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _run_variable() -> dict[str, Any]:
    query = "label_values(ray_l2l_train_done_frac, run)"
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "run"},
        "refresh": 2,  # when the time range changes
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


_SOURCE = {"type": "prometheus", "uid": "${source}"}


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    targets = [
        {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": expr, "legendFormat": legend}
        for i, (legend, expr) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {"showPoints": "auto"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def page() -> str:
    """Return the whole file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
