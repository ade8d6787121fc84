"""`jobs/sweep.py` as far as it goes without Ray: what it lists, and what it refuses before anything starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sweep_job", ROOT / "jobs" / "sweep.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run root in which a command finds the data set that an earlier one wrote."""
    return tmp_path_factory.mktemp("runs")


def _smoke(root: Path) -> list[str]:
    return ["--preset", "smoke", "--run_root", str(root)]


def test_a_dry_run_lists_the_trials_and_starts_nothing(
    job: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.main(["label_ratio", "--seeds", "0", "1", "--dry-run", *_smoke(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 17 and all(line.split()[1] == "waiting" for line in lines[:-1])
    assert lines[0].endswith("labeled_frac=0.1 selector=supervised seed=0")
    assert lines[-1] == f"16 trials, each a whole run in {root / 'sweep-label_ratio'}; nothing was started"
    assert not (root / "sweep-label_ratio").exists()


def test_the_same_command_draws_the_same_points(
    job: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = []
    for words in (["--samples", "4"], ["--samples", "4"], ["--samples", "4", "--draw-seed", "1"]):
        assert job.main(["reward_weights", *words, "--dry-run", *_smoke(root)]) == 0
        listed.append(capsys.readouterr().out)
    assert listed[0] == listed[1] != listed[2]


def test_a_list_in_place_of_a_domain_is_refused(
    job: ModuleType, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rates.py").write_text("def space(config):\n    return {'loop.lr': [1e-3, 2e-3]}\n")
    assert job.main([str(tmp_path / "rates.py"), "--dry-run", *_smoke(root)]) == 1
    assert "the sweep's domain of loop.lr is [0.001, 0.002]; expected" in capsys.readouterr().err


@pytest.mark.slow
def test_a_space_may_be_a_file_of_ones_own(job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = "from l2l_ray.sweep.space import Grid\ndef space(config):\n    return {'loop.lr': Grid((1e-3, 2e-3))}\n"
    (tmp_path / "rates.py").write_text(space)
    assert job.main([str(tmp_path / "rates.py"), "--dry-run", *_smoke(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "lr=0.001 seed=0" in out and str(tmp_path / "sweep-rates") in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label_rato"], "there is no space 'label_rato'; choose one of label_ratio, reward_weights, selectors, or"),
        (["nothing.py"], "nothing.py has no function `space(config)`"),
        (["label_ratio", "--samples", "2"], "--samples 2 has nothing to draw"),
        (["label_ratio", "--seeds", "1", "1"], "--seeds must be different numbers from 0 up, got [1, 1]"),
        (["reward_weights", "--asha", "--loop.rounds", "1"], "--asha stops trials at a version before the last"),
        (["label_ratio", "--resume"], "there is no sweep in"),
        (["label_ratio", "--sweep-name", "../x"], "--sweep-name must name a folder below another one, got '../x'"),
        (["label_ratio", "--sweep-name", "cache", "--dry-run"], "--sweep-name cannot be 'cache': cache and data hold"),
        (["label_ratio", "--sweep-name", "a/b/c/d"], "it has 4 names with slashes between, and runs are looked for 3"),
        (["label_ratio", "--sweep-name", "run", "--dry-run"], "run is a run; choose another --sweep-name"),
        (["./breaks.py"], "the space breaks.py ended with ZeroDivisionError: division by zero; correct it"),
        (["label_ratio", "--data.num_train_refs", "16"], "trials cannot run, so none was started: "),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_begun(
    job: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing.py").write_text("")
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "config.yaml").touch()
    (tmp_path / "breaks.py").write_text("1 / 0")
    assert job.main([*words, *_smoke(tmp_path / "runs")]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("sweep: ") and message in said.err and said.err.count("\n") == 1
    assert said.out == "" and not list(tmp_path.glob("runs/sweep-*"))
