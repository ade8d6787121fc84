import builtins
import logging
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.report.board import write_tensorboard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_come_back_once_however_often_they_are_written(run_dir: Path) -> None:
    write_tensorboard(run_dir)
    folder = write_tensorboard(run_dir)
    assert folder == run_dir / "tensorboard"
    assert sorted(path.name for path in folder.iterdir())[:2] == ["accept_all", "fixed_threshold"]
    found = scalars(folder / "l2l")
    assert [step for step, _ in found["val/mean_iou"]] == [0, 1, 2, 3, 4]
    assert found["reward/label"][0][1] == pytest.approx(0.25)
    assert "version" not in found and found["quality/val.object_precision"][0][1] == pytest.approx(0.7)


def test_without_the_package_it_warns(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch.utils.tensorboard":
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with caplog.at_level(logging.WARNING):
        assert write_tensorboard(run_dir) is None
    assert "install the tensorboard package" in caplog.text
