import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_ray.report import canvas, plots
from l2l_ray.report.record import RunRecord, read_run
from l2l_ray.selector.registry import PRIOR_ONLY, selectors, style_of

DRAWN: dict[str, Callable[[RunRecord], Figure | None]] = {
    "mean_iou": lambda record: plots.validation_curves(record, "mean_iou"),
    "accepted": plots.accepted_share,
    "reward": plots.reward_terms,
    "policy": plots.policy_terms,
    "losses": plots.losses,
    "label IoU": plots.label_iou,
    "makeup": plots.label_makeup,
    "risk": plots.risk_coverage,
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_run_gives_a_figure_or_nothing(name: str, run_dir: Path, tmp_path: Path) -> None:
    figure = DRAWN[name](read_run(run_dir))
    assert figure is not None
    assert ElementTree.fromstring(canvas.svg(figure)).tag == "{http://www.w3.org/2000/svg}svg"
    (tmp_path / "empty").mkdir()
    assert DRAWN[name](read_run(tmp_path / "empty")) is None


def test_the_same_run_gives_the_same_picture_and_a_dark_page_its_own(run_dir: Path) -> None:
    record = read_run(run_dir)
    titled = ("Losses", "by version")
    one, other = (canvas.drawn((*titled, plots.losses(record)), ("Nothing", "", None)) for _ in range(2))
    assert one == other and [(item.title, item.note) for item in one] == [titled]
    light, dark = (
        base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode() for uri in (one[0].light, one[0].dark)
    )
    for shade in ("card", "ink", "muted", "line"):
        assert getattr(canvas.LIGHT, shade) in light and getattr(canvas.LIGHT, shade) not in dark
        assert light.count(getattr(canvas.LIGHT, shade)) == dark.count(getattr(canvas.DARK, shade))


def test_seconds_are_stacked_where_they_were_logged(tmp_path: Path) -> None:
    assert plots.seconds_by_phase(read_run(tmp_path)) is None
    rounds = [
        {"event": "round", "method": "l2l", "round": r, "seconds": {"label": 3.0, "train": None if r else 4.0}}
        for r in range(2)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rounds)))
    assert plots.seconds_by_phase(read_run(tmp_path)) is not None


def test_what_became_of_labels_adds_up_to_all_of_them(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[float]] = {}
    keep = Axes.bar

    def recorded(self: Axes, xs: list[float], heights: list[float], **more: Any) -> Any:
        drawn[more["label"]] = heights
        return keep(self, xs, heights, **more)

    monkeypatch.setattr(Axes, "bar", recorded)
    assert plots.label_makeup(read_run(run_dir)) is not None
    assert {name: heights[0] for name, heights in drawn.items()} == {
        "used, right": pytest.approx(57 * 0.67),
        "used, poor outline": pytest.approx(5.7),
        "used, wrong object": pytest.approx(57 * 0.23),
        "not used, though right": pytest.approx(6.25),
        "not used, not right": pytest.approx(100 - 57 - 6.25),
    }
    assert [sum(heights) for heights in zip(*drawn.values(), strict=True)] == pytest.approx([100.0] * 4)


def test_every_panel_of_the_policy_has_a_name_in_plain_words(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = list[str]()
    monkeypatch.setattr(Axes, "set_title", lambda self, label, **more: titles.append(label))
    assert plots.policy_terms(read_run(run_dir)) is not None
    assert {"undecidedness (entropy)", "trust in agreement", "trust in stability"} <= set(titles)
    assert set(titles) <= set(plots.POLICY_NAMES.values())


def test_an_axis_shows_at_least_its_span_and_more_where_there_is_more() -> None:
    cases = (((69.8, 69.9), (67.35, 72.35)), ((10, 90), None), ((0, 1), (-0.05, 4.95)), ((99, 100), (95.05, 100.05)))
    for drawn, expected in cases:
        _, axes = canvas.new_figure("round", "percent")
        axes.plot((0, 1), drawn)
        before = axes.get_ylim()
        canvas.widen(axes, 5.0)
        assert axes.get_ylim() == pytest.approx(expected or before)


def test_odd_figures_are_passed_over(tmp_path: Path) -> None:
    odd = {"event": "evaluation", "method": "new_rule", "version": 0, "mean_iou": float("nan")}
    even = {"event": "evaluation", "method": "new_rule", "version": 1, "mean_iou": 0.3, "overall_iou": "high"}
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, (odd, even))))
    draw = partial(plots.validation_curves, read_run(tmp_path))
    assert draw("mean_iou") is not None
    assert draw("overall_iou") is None


def test_every_colour_stands_out_from_both_pages() -> None:
    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    styles = [style_of(name) for name in (PRIOR_ONLY, *(spec.name for spec in selectors()))]
    for color in (*(style[0] for style in styles if style), *plots.SPARE_COLORS):
        for page in (canvas.LIGHT.card, canvas.DARK.card):
            high, low = sorted((luminance(color), luminance(page)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 2.8, color


def test_lines_without_a_style_of_their_own_do_not_look_alike() -> None:
    assert len({plots.spare_style(index) for index in range(16)}) == 16
    assert len({color for color, _ in map(plots.spare_style, range(4))}) == 4
