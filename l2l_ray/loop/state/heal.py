"""What was damaged or lost is set aside and made again by the ordinary plan: everything a run keeps can be re-derived.

    ledger line       its shard is labeled again
    shard             revoked in the ledger, labeled again
    version           its method goes back to the version before: this one, and all that was made with it or after it,
                      is set aside and made again. So a run never mixes what was made with two versions of one number.
    training state    set aside; training goes on from the state before it, or from the burn-in
    evaluation        measured again
    priors            written again from the store of all priors
    example table     written again from the data; refused where that does not give the same bytes
    results           written again

Nothing is deleted: it goes to `<run>/quarantine/<epoch>/`, under the name it had. Where nondeterminism makes a version
differ from the one before (another device), nothing made with the old one is left, but for labels and figures of the
versions before.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from l2l_ray.errors import DataError, run_remedy
from l2l_ray.files import move
from l2l_ray.loop.state.digests import Digests, give_up
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.verify import Findings, check
from l2l_ray.loop.state.version_record import TRAINING_FILES, forget_files
from l2l_ray.wording import Say, counted

# What is done about a file, by how its name begins.
_AGAIN = {
    "examples/": "written again from the data",
    "data.json": "written again from the data",
    "skips.jsonl": "written again from the data",
    "priors/": "written again from the store of priors",
    "evals/": "measured again",
    "": "written again",
}


def is_settled(run: RunFolder) -> bool:
    """Whether nothing is left to do: the run is finished and, where it is told to go on, everything is as it was."""
    return run.finished and not (run.config.resume and check(run).num_damaged)


def heal(run: RunFolder, say: Say) -> None:
    """Check a run that goes on, set aside what is damaged, and say so, a line each.

    Args:
        run: The folder, held by this process.
        say: Told what was found.
    Raises:
        DataError: Something cannot be moved or written; the next start with `--resume` goes on with it.
        LedgerError: A line cannot be written.
    """
    if not run.config.resume:
        return
    found = check(run)
    size = f"{counted(found.num_files, 'file')}, {found.num_bytes / 1e6:.1f} MB, in {found.seconds:.1f} s"
    say(f"checked    {size}: {f'{found.num_damaged} damaged or lost' if found.num_damaged else 'all as written'}")
    try:
        for name in found.unknown:
            run.promise(run.path / name)
        if found.num_damaged:
            (run.path / "FINISHED").unlink(missing_ok=True)
            _Healing(run, say).apply(found)
    except OSError as error:
        raise DataError(f"cannot set aside what is damaged in {run.path}: {error}; {run_remedy(error)}") from error


class _Healing:
    def __init__(self, run: RunFolder, say: Say) -> None:
        self._run = run
        self._say = say
        self._place = Path("quarantine") / str(run.epoch)
        self._promised = Digests.load(run.path).promised
        self._ledger = Ledger(run.ledger_path, run.epoch)

    def apply(self, found: Findings) -> None:
        self._lines(found)
        for name, problem in found.files.items():
            remedy = next(again for begin, again in _AGAIN.items() if name.startswith(begin))
            self._tell(name, problem, remedy)
            self._file(name)
        for entry, problem in found.shards:
            self._tell(entry.path, problem, "labeled again")
            self._ledger.revoke(entry.key)
            self._move(entry.path)
        if len(found.lost_labels) > len(found.ledger_lines):  # else they are those of the damaged lines
            lost = Counter(Stage(method, round_index).label for method, round_index, _ in found.lost_labels)
            what = ", ".join(f"{counted(num, 'shard')} of {label}" for label, num in lost.items())
            self._say(f"lost       ledger.jsonl: {what}, though a version was trained on them; labeled again")
        for key in found.lost_labels:
            self._ledger.revoke(key)
        for place, problem in found.states:
            self._tell(f"train/{place.folder_name}", problem, "training goes on from the state before it")
            self._state(place)
        first = {
            method: min(p.version for p, _ in found.versions if p.method == method)
            for method in {str(p.method) for p, _ in found.versions}
        }
        for place, problem in found.versions:
            remedy = "trained again"
            if place.version == first[str(place.method)]:
                back = f"version {place.version - 1}" if place.version else "the burn-in"
                remedy = f"{place.method} goes back to {back}, and what came after it is made again"
            self._tell(f"train/{place.folder_name}", problem, remedy)
        for method, version in first.items():
            self._roll_back(method, version)

    def _tell(self, name: str, problem: str, remedy: str) -> None:
        moved = f"moved to {self._place}, " if (self._run.path / name).exists() else ""
        self._say(f"damaged    {name}: {problem}; {moved}{remedy}")

    def _lines(self, found: Findings) -> None:
        if not self._ledger.damaged:
            return
        copy = self._run.path / self._place / "ledger-lines.jsonl"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"".join(line + b"\n" for _, line in self._ledger.damaged))
        numbers = ", ".join(map(str, found.ledger_lines))
        self._say(f"damaged    ledger.jsonl, line {numbers}: moved to {self._place}, its shard is labeled again")
        self._ledger.drop_damaged()

    def _file(self, name: str) -> None:
        names = [name]
        if name.startswith("evals/"):  # a figure and what lies beside it belong together
            folder, stem = Path(name).parent, Path(name).stem.split("-")[0]
            beside = (self._run.path / folder).glob(f"{stem}[.-]*")
            names += [path.relative_to(self._run.path).as_posix() for path in beside]
        for each in dict.fromkeys(names):
            self._move(each)

    def _state(self, place: Position) -> None:
        folder = f"train/{place.folder_name}"
        for name in [folder] if place.step else [f"{folder}/{file}" for file in TRAINING_FILES]:
            self._move(name)
        if not place.step:
            forget_files(self._run.path / folder, TRAINING_FILES)

    def _roll_back(self, method: str, version: int) -> None:
        """Set aside a version and all that was made with it or after it, the last first."""
        entries = [e for e in self._ledger.all_entries() if e.method == method and e.version >= version]
        for entry in reversed(entries):
            self._ledger.revoke(entry.key)
        for parent in ("evals", "train"):
            places = [Position.named(path.name) for path in (self._run.path / parent).glob(f"{method}-v*")]
            later = [p for p in places if p is not None and p.method == method and p.version >= version]
            for place in sorted(later, key=lambda p: (p.version, p.step), reverse=True):
                self._move(f"{parent}/{place.folder_name}")

    def _move(self, name: str) -> None:
        """Move a file or folder of the run to the quarantine; what was promised of it is given up."""
        source, target = self._run.path / name, self._run.path / self._place / name
        if source.is_dir():
            for path in sorted(source.iterdir()):
                self._move(f"{name}/{path.name}")
            source.rmdir()
        elif source.exists():
            move(source, target)
        if self._promised.pop(name, None) is not None:
            give_up(self._run.path, name)
