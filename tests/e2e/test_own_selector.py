"""docs/add_a_selector.md, word for word: its rule goes through a whole run, and its test passes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.loop.local import run_local
from tests.whole_run import changed, tiny_config

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "add_a_selector.md"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_the_documents_rule_runs_and_its_test_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, test = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "my_rules.py").write_text(rule)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(test, names)
    names["test_a_sample_is_used_where_its_object_is_sure_on_average"]()

    name, sterner = "my_rules:mean_certainty", "my_rules:mean_certainty@0.99"
    fields = {"selector": {"name": name, "threshold": 0.51}, "compare": (sterner,), "loop": {"rounds": 1}}
    run = run_local(changed(tiny_config(tmp_path), **fields))
    rows = {row["method"]: row for row in json.loads((run.path / "results.json").read_text())["rows"]}
    assert rows[name]["label"] == "sure on average" and rows[sterner]["label"] == "sure on average 0.99"
    assert set(rows[name]["splits"]) == {"val", "testA", "testB"}
    entries = [json.loads(line) for line in run.ledger_path.read_text().splitlines()]
    used = {method: sum(e["num_gated_on"] for e in entries if e["method"] == method) for method in rows}
    assert used[name] > 0 and used[sterner] == 0
    selection = json.loads((run.path / "selection.json").read_text())
    assert selection["method"] == name and set(selection["summary"]["sources"]) == {"guided"}
    assert "sure on average 0.99" in (run.path / "report.html").read_text()
