"""Every kind of file a run keeps, harmed in every way: found, named, set aside, and open again in the ordinary plan."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.errors import DataError
from l2l_ray.loop.evaluation.evaluate import Evaluations
from l2l_ray.loop.inference.priors import lacks_priors
from l2l_ray.loop.local import run_local
from l2l_ray.loop.progress import Console
from l2l_ray.loop.state.heal import heal
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.prepare import prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.verify import check
from l2l_ray.loop.state.versions import newest_checkpoint
from l2l_ray.wording import counted
from tests.damage import HARMS, copy_of, flip
from tests.loop.partly_labeled import config_of, set_mask, write_partly
from tests.whole_run import assert_same, changed, killed_before, outcome, single_thread

SHARD = "l2l/labels/r000-s00001.parquet"
STATE = "train/l2l-v0001-s00002"


@pytest.fixture(scope="module")
def half(whole_run: RunFolder) -> RunFolder:
    """Give a run that was killed in the last round, one step before its end."""
    with single_thread():
        config = changed(whole_run.config, name="half", compare=(), loop={"checkpoint_steps": 1})
        return killed_before(config, "train/l2l-v0002")


@pytest.fixture
def run(half: RunFolder) -> Iterator[RunFolder]:
    copy = copy_of(half, "copy")
    with copy.held("a local run") as held:
        yield held
    shutil.rmtree(copy.path)


def _healed(run: RunFolder) -> list[str]:
    said: list[str] = []
    heal(run, said.append)
    assert check(run).num_damaged == 0
    return said


def _harmed(run: RunFolder, name: str, harm: str) -> str:
    """Harm a file, heal the run, and check that the file was named and set aside; return the line that names it."""
    found = (run.path / name).read_bytes()
    HARMS[harm](run.path / name)
    harmed = None if harm == "missing" else (run.path / name).read_bytes()
    assert harmed != found
    first, *lines = _healed(run)
    assert first.startswith("checked    ") and first.endswith("1 damaged or lost")
    aside = run.path / "quarantine" / str(run.epoch) / name
    assert harmed is None or aside.read_bytes() == harmed
    assert len(lines) == 1 and lines[0].startswith("damaged    ")
    assert (f"moved to quarantine/{run.epoch}" in lines[0]) == (harm != "missing" or name.startswith("train"))
    return lines[0]


def test_a_run_that_nothing_happened_to_is_said_to_be_whole(run: RunFolder) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    (line,) = _healed(run)
    assert line.startswith("checked    ") and line.endswith(" s: all as written") and " MB, in " in line
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("harm", HARMS)
def test_a_shard_is_revoked_and_open_again(run: RunFolder, harm: str) -> None:
    before = Ledger(run.ledger_path).keys()
    assert _harmed(run, SHARD, harm).endswith("labeled again")
    assert before - Ledger(run.ledger_path).keys() == {("l2l", 0, 1)}
    plan = prepare(run.config, run).plan(run.config, run.methods)
    plan.priors_ready("unlabeled")
    plan.restore(Ledger(run.ledger_path).keys(), {}, {"l2l": run.published("l2l")})
    item = plan.next()
    assert item is not None and (item.method, item.version) == ("l2l", 0)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", ["teacher.safetensors", "version.json"])
def test_a_method_goes_back_to_the_version_before(run: RunFolder, file: str, harm: str) -> None:
    line = _harmed(run, f"train/l2l-v0001/{file}", harm)
    assert f"train/l2l-v0001: {file}: it" in line and "l2l goes back to version 0, and what came after it" in line
    assert run.published("l2l") == {0}
    assert newest_checkpoint(run, "l2l") in (run.train_dir / "l2l-v0000", None)
    assert {key for key in Ledger(run.ledger_path).keys() if key[0] == "l2l"} == {("l2l", 0, s) for s in range(3)}
    assert not [group for group in Evaluations(run).mean_ious() if group[:2] == ("l2l", 1)]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", ["train_state.pt"])
def test_training_goes_on_from_the_state_before(run: RunFolder, file: str, harm: str) -> None:
    assert newest_checkpoint(run, "l2l") == run.path / STATE
    assert _harmed(run, f"{STATE}/{file}", harm).endswith("training goes on from the state before it")
    assert newest_checkpoint(run, "l2l") == run.train_dir / "l2l-v0001-s00001"


@pytest.mark.parametrize("harm", HARMS)
def test_a_figure_is_measured_again(run: RunFolder, harm: str) -> None:
    before = Evaluations(run).mean_ious().keys()
    assert _harmed(run, "evals/l2l-v0001/val.parquet", harm).endswith("measured again")
    assert before - Evaluations(run).mean_ious().keys() == {("l2l", 1, "val")}
    assert not list(run.path.glob("evals/l2l-v0001/val*"))


@pytest.mark.parametrize("harm", HARMS)
def test_priors_are_written_again_from_the_store(run: RunFolder, harm: str) -> None:
    assert not lacks_priors(run, prepare(run.config, run))
    assert _harmed(run, "priors/unlabeled.parquet", harm).endswith("written again from the store of priors")
    assert lacks_priors(run, prepare(run.config, run))


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["examples/val.parquet"])
def test_tables_are_written_again_as_they_were(run: RunFolder, name: str, harm: str) -> None:
    before = (run.path / name).read_bytes()
    assert _harmed(run, name, harm).endswith("written again from the data")
    prepare(run.config, run)
    assert (run.path / name).read_bytes() == before
    assert check(run).num_damaged == 0


def test_a_table_that_cannot_be_made_again_as_it_was_is_refused(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 6, {0, 1, 2})
    config = config_of(smoke, root)
    prepare(config, RunFolder.open(config))
    again = RunFolder.open(changed(config, resume=True))
    with again.held("a local run") as run:
        flip(run.examples_path("labeled"))
        run.data_path.unlink()
        _healed(run)
        set_mask(root, 1, [[1.0, 1, 20, 1, 20, 20]])
        with pytest.raises(
            DataError, match=r"labeled\.parquet was lost and cannot be made again as it was: the data or"
        ):
            prepare(run.config, run)
        assert not run.data_path.exists()


def _lines(run: RunFolder) -> list[bytes]:
    return run.ledger_path.read_bytes().splitlines()


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty"])
def test_a_bad_ledger_line_is_set_aside_and_its_shard_open_again(run: RunFolder, harm: str) -> None:
    lines = _lines(run)
    bad = {"flipped": lines[1].replace(b'"shard": ', b'"shard": 1'), "cut": lines[1][:40], "empty": b""}[harm]
    run.ledger_path.write_bytes(b"\n".join([lines[0], bad, *lines[2:], b""]))
    first, *rest = _healed(run)
    assert rest[0] == f"damaged    ledger.jsonl, line 2: moved to quarantine/{run.epoch}, its shard is labeled again"
    assert (run.path / "quarantine" / str(run.epoch) / "ledger-lines.jsonl").read_bytes() == bad + b"\n"
    *kept, revoked = _lines(run)
    assert kept == [lines[0], *lines[2:]] and b"revoked" in revoked
    assert len(Ledger(run.ledger_path).keys()) == len(lines) - 1


@pytest.mark.parametrize("num_left", [1, 0, None])
def test_labels_that_a_version_was_trained_on_are_missed(run: RunFolder, num_left: int | None) -> None:
    lines = _lines(run)
    run.ledger_path.unlink()
    if num_left is not None:
        run.ledger_path.write_bytes(b"".join(line + b"\n" for line in lines[:num_left]) + lines[num_left][:9])
    expected = f"lost       ledger.jsonl: {counted(3 - (num_left or 0), 'shard')} of l2l round 0, though a version was "
    assert _healed(run)[-1] == f"{expected}trained on them; labeled again"


def test_damage_of_a_state_is_said_once(run: RunFolder) -> None:
    states = sorted(run.train_dir.glob("l2l-*/student.safetensors"))
    for state in states:
        flip(state)
    assert states and len(_healed(run)) == 1 + len(states)
    assert newest_checkpoint(run, "l2l") is None and run.published("l2l") == {0, 1}


def test_files_of_an_older_version_are_taken_as_they_are(run: RunFolder) -> None:
    (run.path / "digests.jsonl").unlink()
    _healed(run)
    flip(run.path / "priors" / "val.parquet")
    assert "damaged    priors/val.parquet" in _healed(run)[-1]
    (run.path / "digests.jsonl").unlink()
    (run.path / "evals" / "l2l-v0001" / "val.parquet").write_bytes(b"PAR1 and then nothing")
    assert "damaged    evals/l2l-v0001/val.parquet: it cannot be read" in _healed(run)[-1]


def _continued(run: RunFolder) -> RunFolder:
    """Run to the end with what the folder holds; drawing the examples takes as long as making them, so they stay."""
    return run_local(changed(run.config, resume=True), console=Console(run.config, None))


@pytest.mark.usefixtures("one_thread")
def test_a_healed_run_comes_to_the_same_end(half: RunFolder, whole_run: RunFolder) -> None:
    run = copy_of(half, "many")
    for number, name in enumerate(
        (SHARD, f"{STATE}/student.safetensors", "examples/testA.parquet", "priors/val.parquet",
         "evals/prior_only-v0000/testB.parquet", "evals/l2l-v0000/val-quality.json")
    ):  # fmt: skip
        list(HARMS.values())[number % len(HARMS)](run.path / name)
    lines = _lines(run)
    run.ledger_path.write_bytes(b"\n".join([b"{" + lines[0], *lines[1:], b""]))
    done = _continued(run)
    assert done.finished
    assert_same(outcome(done, "l2l"), outcome(whole_run, "l2l"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_finished_run_is_healed_too(whole_run: RunFolder) -> None:
    run = copy_of(whole_run, "finished")
    flip(run.version_dir("supervised", 1) / "teacher.safetensors")  # its training state was removed long ago
    (run.path / "selection.json").write_text("")
    done = _continued(run)
    assert done.finished
    for method in whole_run.methods:
        assert_same(outcome(done, method), outcome(whole_run, method))
    for name in ("results.json", "selection.json"):
        assert (done.path / name).read_bytes() == (whole_run.path / name).read_bytes()
    aside = sorted(path.relative_to(run.path).as_posix() for path in run.path.glob("quarantine/*/train/*"))
    assert aside == ["quarantine/2/train/supervised-v0001", "quarantine/2/train/supervised-v0002"]
