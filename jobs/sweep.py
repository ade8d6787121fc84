"""A sweep: many whole L2L runs that differ in some settings, by Ray Tune; tables, a page and the best config at the end.

    python jobs/sweep.py label_ratio --preset smoke
    python jobs/sweep.py reward_weights --samples 16 --seeds 0 1 2 --dry-run
    ray job submit -- python jobs/sweep.py reward_weights --samples 16 --asha
    python jobs/sweep.py label_ratio --preset smoke --resume

The first word names a module of `tune_spaces/`. The options below are the sweep's own; everything else (`--preset`,
`--config`, single fields) is as for `selfevolve.py` and holds for all trials. `--resume` continues a sweep that was
killed: finished trials are read, the others go on from where they were.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from l2l_ray.config import RunConfig, load_config
from l2l_ray.errors import L2LError, one_line
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.space import Space
from l2l_ray.sweep.survey import survey
from l2l_ray.sweep.trials import Trial, short_names, trials_of

ROOT = Path(__file__).resolve().parent.parent


def read_space(name: str, config: RunConfig) -> Space:
    """Return the space of one module of `tune_spaces/`."""
    sys.path.insert(0, str(ROOT))
    space: Space = importlib.import_module(f"tune_spaces.{name}").space(config)
    return space


def read_words(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the sweep's own options, and the words that are fields of a run."""
    spaces = sorted(path.stem for path in (ROOT / "tune_spaces").glob("[!_]*.py"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("space", choices=spaces)
    parser.add_argument("--samples", type=int, help="points of a space with something to draw; the first is the "
                        "config's own values (default 8)")  # fmt: skip
    parser.add_argument(
        "--draw-seed", type=int, default=0, help="seed of the draws; the same one draws the same points"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N",
                        help="run every point with each; a seed sets loop.seed and data.split_seed (default 0)")  # fmt: skip
    parser.add_argument("--asha", action="store_true", help="stop trials that are behind the others of their seed and "
                        "data after the same number of rounds")  # fmt: skip
    parser.add_argument("--sweep-name", help="folder under the run root (default sweep-SPACE)")
    parser.add_argument("--dry-run", action="store_true", help="check and list the trials, and run nothing")
    return parser.parse_known_args(words)


def run_sweep(config: RunConfig, trials: list[Trial], folder: SweepFolder, words: list[str], asha: bool) -> int:
    """Run the trials, write the sweep's files and say what came out; return 1 where a trial failed, else 0."""
    from l2l_ray.actors.environment import set_environment

    set_environment(config)  # Ray reads its environment when it is imported, which is the next line
    from l2l_ray.actors.tuning import sweep
    from l2l_ray.report.sweep_page import headline
    from l2l_ray.report.sweep_summary import plain_text, points_table
    from l2l_ray.sweep.results import write_results

    with folder.begun(trials, words, config.resume):
        sys.stdout.write(f"sweep folder {folder.path}\n")
        sweep(config, trials, folder, asha)
        found = write_results(folder, trials)
    names = short_names(list(trials[0].values))
    sys.stdout.write(f"\n{plain_text(points_table(found.points, list(names), names))}\n\n")
    sys.stdout.write(f"{headline(found.points, found.trials, names)}\n")
    sys.stdout.write(f"table      {folder.path / 'sweep.csv'}\nreport     {folder.path / 'sweep.html'}\n")
    if found.best is not None:
        sys.stdout.write(f"run best   python jobs/selfevolve.py --config {folder.path / 'best.yaml'}\n")
    for trial, reason in found.failed:
        sys.stderr.write(f"sweep: trial {trial.id} ({trial.words()}) failed: {reason}; see {trial.config.run_dir}\n")
    if found.failed:
        sys.stderr.write("sweep: the same command with --resume tries the failed trials again\n")
    return 1 if found.failed else 0


def list_trials(trials: list[Trial], folder: SweepFolder) -> None:
    """Check the trials and say what each is, and what is known of it."""
    survey(trials)
    outcomes = folder.outcomes(trials)
    for trial in trials:
        sys.stdout.write(f"{trial.id}  {outcomes[trial.id].state:<10}  {trial.words()}\n")
    sys.stdout.write(f"{len(trials)} trials, each a whole run in {folder.path}; nothing was started\n")


def main(words: list[str]) -> int:
    """Run the sweep the command line describes.

    Returns:
        0 when the sweep ended, 1 when it could not or a trial failed, 130 when it was told to stop (Ctrl-C, SIGTERM).
    """
    own, rest = read_words(words)
    try:
        config = load_config(rest, "sweep")
        name = own.sweep_name or f"sweep-{own.space}"
        trials = trials_of(config, read_space(own.space, config), name, own.seeds, own.samples, own.draw_seed)
        folder = SweepFolder(config.root / name)
        if own.dry_run:
            list_trials(trials, folder)
            return 0
        return run_sweep(config, trials, folder, words, own.asha)
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        sys.stderr.write("Ray is not installed; `pip install '.[ray]'` brings it, `l2l run` needs none\n")
        return 1
    except (L2LError, OSError) as error:
        sys.stderr.write(f"sweep: {one_line(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; everything finished stays: the same command with --resume continues\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
