"""A sweep: many whole L2L runs that differ in some settings, by Ray Tune; a table, a page, the best config.

    python jobs/sweep.py label_ratio --preset smoke
    python jobs/sweep.py reward_weights --samples 16 --seeds 0 1 2 --dry-run
    ray job submit -- python jobs/sweep.py reward_weights --samples 16 --asha
    python jobs/sweep.py label_ratio --preset smoke --resume

The first word names a module of `tune_spaces/`, or a file of your own like one of them. The options below are the
sweep's own; everything else (`--preset`, `--config`, single fields) is as for `selfevolve.py` and holds for all trials.
`--resume` continues a sweep that was killed: finished trials are read, the others go on from where they were.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from l2l_ray.config import RunConfig, load_config
from l2l_ray.config.reading import own_words
from l2l_ray.errors import ConfigError, L2LError, one_line
from l2l_ray.job import run_job
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.space import Space, checked_space
from l2l_ray.sweep.survey import survey
from l2l_ray.sweep.trials import Trial, short_names, trials_of

ROOT = Path(__file__).resolve().parent.parent
LEGEND = (
    "(percent: mean ± standard deviation over seeds, and its 95 % t-interval; val: last version, others: version best "
    "on val; seconds: mean of trials that were started once)"
)


def read_space(name: str, config: RunConfig) -> Space:
    """Return the space of a module of `tune_spaces/`, or of a file of one's own.

    Raises:
        ConfigError: There is neither, or it holds no space.
    """
    known = {path.stem: path for path in sorted((ROOT / "tune_spaces").glob("[!_]*.py"))}
    path = known.get(name, Path(name))
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.suffix == ".py" and path.exists() else None
    if spec is None or spec.loader is None:
        raise ConfigError(
            f"there is no space {name!r}; choose one of {', '.join(known)}, or give a Python file of your own with a "
            "function `space(config)` like those in tune_spaces/"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "space"):
            raise ConfigError(f"{path} has no function `space(config)`; write one like those in tune_spaces/")
        found = module.space(config)
    except L2LError:
        raise
    except Exception as error:  # whatever somebody's own code does
        raise ConfigError(
            f"the space {path} ended with {type(error).__name__}: {one_line(error)}; correct it"
        ) from error
    return checked_space(found)


def read_words(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the sweep's own options, and the words that are fields of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("space", help="a module of tune_spaces/, or a Python file like one of them")
    add = parser.add_argument
    add(
        "--samples", type=int, help="points, where something is drawn; the first is the config's own values (default 8)"
    )
    add("--draw-seed", type=int, default=0, help="the same seed draws the same points")
    seeds = "run every point with each; a seed sets loop.seed and data.split_seed (default 0)"
    add("--seeds", type=int, nargs="+", default=[0], metavar="N", help=seeds)
    asha = "stop trials that are behind the others of their seed, data and loop.rounds after the same number of them"
    add("--asha", action="store_true", help=asha)
    add("--sweep-name", help="folder under the run root (default sweep-SPACE)")
    add("--dry-run", action="store_true", help="check and list the trials, and run nothing")
    return own_words(parser, words)


def run_sweep(config: RunConfig, trials: list[Trial], folder: SweepFolder, words: list[str], asha: bool) -> int:
    """Run the trials, write the sweep's files and say what came out; return 1 where a trial failed, else 0."""
    from l2l_ray.actors.environment import set_environment

    set_environment(config)  # Ray reads its environment when it is imported, which is the next line
    from l2l_ray.actors.tuning import sweep
    from l2l_ray.report.sweep_page import headline
    from l2l_ray.report.sweep_summary import plain_text, points_table
    from l2l_ray.sweep.results import write_results

    if asha and min(trial.config.loop.rounds for trial in trials) < 2:
        raise ConfigError("--asha stops trials at a version before the last, got loop.rounds 1; raise it to 2 or more")
    resume = config.resume or (config.resume_if_begun and folder.has_begun)
    folder.require_startable(trials, resume, words)
    asked = survey(folder.open_trials(trials))
    with folder.begun(trials, words, resume):
        sys.stdout.write(f"sweep folder {folder.path}\n")
        sweep(config, trials, folder, asked, asha)
        unseen = folder.unseen(trials)
        found = write_results(folder, trials)
    names = short_names(list(trials[0].values))
    sys.stdout.write(f"\n{plain_text(points_table(found.points, list(names), names))}\n")
    sys.stdout.write(f"{LEGEND}\n\n")
    sys.stdout.write(f"{headline(found.points, found.trials, names)}\n")
    sys.stdout.write(f"table      {folder.path / 'sweep.csv'}\nreport     {folder.path / 'sweep.html'}\n")
    if found.best is not None:
        sys.stdout.write(f"run best   {found.command}\n")
    for trial, reason in found.failed:
        sys.stderr.write(
            f"sweep: trial {trial.id} ({trial.words()}) failed: {reason}; its folder: {trial.config.run_dir}\n"
        )
    if found.failed:
        sys.stderr.write("sweep: the same command with --resume tries the failed trials again\n")
    folder.require_seen(unseen)
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
        0 when the sweep ended, 1 when it could not or a trial failed, 130 when it was told to stop (Ctrl-C, SIGTERM,
        SIGHUP).
    """
    stopped = "everything finished stays: the same command with --resume continues"
    return run_job("sweep", lambda: _sweep(words), stopped, ", `l2l run` needs none")


def _sweep(words: list[str]) -> int:
    own, rest = read_words(words)
    config = load_config(rest, "sweep").rooted()  # trials find the folder where this process does
    name = f"sweep-{Path(own.space).stem}" if own.sweep_name is None else own.sweep_name
    folder = SweepFolder.named(name, config.root)
    name = folder.path.relative_to(config.root).as_posix()
    trials = trials_of(config, read_space(own.space, config), name, own.seeds, own.samples, own.draw_seed)
    if own.dry_run:
        list_trials(trials, folder)
        return 0
    return run_sweep(config, trials, folder, words, own.asha)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
