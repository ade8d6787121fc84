"""Which runs that lie there may become a row's."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.compare.worker import remove_foreign
from l2l_ray.config import save_config, smoke_config


def test_a_run_goes_on_where_processor_and_digest_began_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smoke_config().model_copy(update={"run_root": str(tmp_path), "name": "row"})

    def goes_on(digest: str) -> bool:
        config.run_dir.mkdir(exist_ok=True)
        save_config(config, config.run_dir / "config.yaml")
        mark = config.run_dir / "mark"
        mark.touch()
        remove_foreign(config, digest)
        return mark.exists()

    remove_foreign(config, "first")
    assert goes_on("first") and goes_on("first")
    assert not goes_on("second"), "of other code or models"
    assert goes_on("second")
    monkeypatch.setattr("benchmarks.compare.worker.processor", lambda: "another kind")
    assert not goes_on("second") and goes_on("second")
