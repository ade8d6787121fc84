"""The `l2l` command: one process, no Ray. The same run on a cluster is `ray job submit -- python jobs/selfevolve.py`.

    l2l label FOLDER|TABLE.csv [--dry-run] [--preset photos-small]   masks for photos with texts: import, run, export
    l2l run [--preset photos-small] [--section.field value ...]      the whole method, in this process
    l2l config [same options]                                        every setting that these words mean, as YAML
    l2l runs [--run_root R] [--all] [--json]                         every run: state, data, figure, size, how to go on
    l2l compare RUN RUN [--split val] [--method NAME]                differences with intervals; settings that differ
    l2l report RUN                                                   write report.html again
    l2l review RUN [--port 8765] [--reviewer NAME]                   look at the doubtful labels, in the browser
    l2l save RUN FOLDER [--onnx] [--push OWNER/NAME]                 the trained model as a folder of its own
    l2l predict PHOTO "the left cup" --run RUN [--out FOLDER]        the mask of one photo and text
    l2l predict FOLDER|TABLE.csv --run RUN [--out FOLDER]            of many, the models loaded once
    l2l prior check [--num 100] [same options as l2l run]            is the language model right about labeled images?
    l2l evaluate RUN [--split testA] [--protocol lavt480]            its figures again, also as others count
    l2l data import|check|stats|split|leaks ...                      own and published data: see docs/data.md
    l2l export RUN --format coco --out FOLDER [--split val]          pseudo-labels or predictions as files
    l2l export RUN ... --guarantee "iou>=0.7 for 90% at 95%"         as many labels as keep a promise
    l2l suggest RUN [--count 20] [--out FOLDER]                      which photos to label next

RUN is the run folder that `l2l run` prints. Each command's --help lists its options.
Exit status: 0 fine; 1 something is wrong or some items failed, each in a line on stderr; 2 the command was not
understood; 130 stopped by Ctrl-C; 141 whoever read the output closed it, as `head` does.
"""

# Every import that takes time is inside the command that needs it, so that help and mistakes answer at once.

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from l2l_ray.storage import here, place

STOPPED, PIPE_CLOSED = 130, 141  # 128 and the number of the signal, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after `l2l`; None = those of this process.
    Returns:
        Exit status, as the text at the top says.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold half a character
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(words)
    except BrokenPipeError:
        # Python writes what is left when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _command(words: list[str]) -> int:
    if words == ["--version"]:
        from l2l_ray import __version__

        print(__version__)
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(__doc__, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name = words[0]
    if name not in COMMANDS:
        return _unknown("l2l", name, COMMANDS)
    from l2l_ray.errors import L2LError, one_line

    try:
        status = COMMANDS[name](words[1:]) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        raise
    except (L2LError, OSError) as error:
        print(f"l2l {name}: {one_line(error)}", file=sys.stderr)
    except KeyboardInterrupt as stop:
        print(f"\nstopped; {stop or 'what is written stays'}", file=sys.stderr)
        return STOPPED
    return 1


def _unknown(program: str, word: str, known: Iterable[str]) -> int:
    from l2l_ray.config.messages import meant

    names = list(known)
    print(
        f"{program}: there is no command {word!r}; {meant([word], names)}expected one of {', '.join(names)}; "
        f"`{program} --help` says what they do",
        file=sys.stderr,
    )
    return 2


def _resumed(words: Sequence[str], has_begun: bool) -> str:
    resume = ["--resume"] if has_begun and "--resume" not in words else []
    return f"continue with: l2l run {shlex.join([*words, *resume])}"


def run(words: Sequence[str]) -> None:
    """Run the whole method in this process; what it prints last is where the report is and what to do next."""
    from l2l_ray.config import load_config

    config = load_config(words, "run")
    from l2l_ray.device import no_loading_bars
    from l2l_ray.loop.local import run_local
    from l2l_ray.loop.progress import Console

    try:
        with no_loading_bars(), Console(config).with_warnings() as console:
            run_local(config, console=console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_resumed(words, (config.run_dir / "config.yaml").exists())) from None


def label(words: Sequence[str]) -> int:
    """Make masks for photos with texts, of which a few have masks; the same command goes on where it was stopped.

    Further options are those of `l2l run`.
    """
    parser = argparse.ArgumentParser(prog="l2l label", description=label.__doc__, allow_abbrev=False)
    parser.add_argument("source", type=here, help="folder of photos with texts beside them, CSV, JSONL, Parquet, JSON")
    parser.add_argument("--images", type=here, help="folder of a table's photos; that of the table if not given")
    parser.add_argument("--name", help="of the data set and the run; the source's name if not given")
    parser.add_argument("--out", type=here, help="folder of the masks; `masks` in the run's folder if not given")
    parser.add_argument("--run_root", help="folder of all runs; $L2L_HOME, else ~/l2l_runs, if not given")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen and how long it would take")
    given, rest = parser.parse_known_args(words)
    from l2l_ray.device import no_loading_bars
    from l2l_ray.label import Source, config_of, dry_run
    from l2l_ray.label import label as label_source

    source = Source.of(given.source, given.images)
    settings = config_of(source, given.name, given.run_root, rest)
    with no_loading_bars():
        if given.dry_run:
            return dry_run(source, settings, print)
        try:
            return label_source(source, settings, given.out, print)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on") from None


def config(words: Sequence[str]) -> None:
    """Print the config that these words mean, every field of it."""
    from l2l_ray.config import config_yaml, load_config

    print(config_yaml(load_config(words)), end="")


def runs(words: Sequence[str]) -> None:
    """List the runs below the run root, the last active first: state, data, main figure, size, and how to go on."""
    parser = argparse.ArgumentParser(prog="l2l runs", description=runs.__doc__)
    parser.add_argument("--run_root", help="folder of all runs; $L2L_HOME, else ~/l2l_runs, if not given")
    parser.add_argument("--all", action="store_true", help="also each run of a sweep, comparison or other folder")
    parser.add_argument("--json", action="store_true", help="every run and every fact, for programs")
    given = parser.parse_args(words)
    from l2l_ray.config import RunConfig
    from l2l_ray.overview.listing import list_runs
    from l2l_ray.overview.table import runs_json, runs_text

    root = RunConfig(run_root=given.run_root).root
    found = list_runs(root)
    print(runs_json(found, root) if given.json else runs_text(found, root, given.all))


def compare(words: Sequence[str]) -> None:
    """Compare runs that were measured on the same sentences: differences with intervals, and which settings differ.

    The first is compared with each of the others.
    """
    parser = argparse.ArgumentParser(prog="l2l compare", description=compare.__doc__)
    parser.add_argument("run_dirs", type=place, nargs="+", metavar="RUN", help="two finished runs or more")
    parser.add_argument("--split", help="on this split alone; default: each one that all have")
    parser.add_argument("--method", help="compare this selector of each run; default: each run's main one")
    parser.add_argument(
        "--common", action="store_true", help="where splits differ, compare on the sentences that both have"
    )
    given = parser.parse_args(words)
    if len(given.run_dirs) < 2:
        parser.error(f"got one run, {given.run_dirs[0]}; give two or more")
    from l2l_ray.overview.comparing import comparison

    print("\n".join(comparison(given.run_dirs, given.split, given.method, given.common)))


def report(words: Sequence[str]) -> None:
    """Write the report of a run folder again."""
    parser = argparse.ArgumentParser(prog="l2l report", description=report.__doc__)
    parser.add_argument("run_dir", type=place)
    run_dir = parser.parse_args(words).run_dir
    from l2l_ray.errors import DataError
    from l2l_ray.report.page import write_report

    if run_dir.is_dir() and not any((run_dir / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
        raise DataError(f"{run_dir} is no run folder: it has no config.yaml; give the folder that a run printed")

    print(f"report: {write_report(run_dir)}")


def predict(words: Sequence[str]) -> int:
    """Find the pixels that a text refers to, with the best version of a run: in one photo, or in many."""
    parser = argparse.ArgumentParser(prog="l2l predict", description=predict.__doc__)
    parser.add_argument(
        "source",
        type=here,
        metavar="PHOTO|FOLDER|TABLE",
        help="a photo; a folder of photos, each with a text file of the same name beside it; or a CSV, JSONL or "
        "Parquet file with the columns image and expression",
    )
    parser.add_argument("text", nargs="?", help="what to look for; for a folder: the same in every photo")
    parser.add_argument("--run", type=place, required=True, metavar="RUN", help="a finished run")
    parser.add_argument(
        "--out", type=here, default=Path("predictions"), metavar="FOLDER", help="where results and their index go"
    )
    parser.add_argument("--images", type=here, metavar="FOLDER", help="of a table's photos, if not the table's own")
    parser.add_argument("--again", action="store_true", help="also ask what FOLDER holds the answer of")
    given = parser.parse_args(words)
    from l2l_ray.config import read_config
    from l2l_ray.datatools.photos import photos_and_texts
    from l2l_ray.types import PhotoText

    read_config(given.run / "config.yaml")
    found = photos_and_texts(given.source, given.text, given.images)
    asked = [item for item in found if isinstance(item, PhotoText)]
    problems = [item for item in found if not isinstance(item, PhotoText)]
    for problem in problems:
        print(problem, file=sys.stderr)
    from l2l_ray.predictions import FailedPrediction, PredictionFolder
    from l2l_ray.predictor import Predictor

    with PredictionFolder.open(given.out, str(given.run.absolute())) as folder:
        predictor = Predictor.from_run(given.run)
        version = predictor.method, predictor.version
        todo = [item for item in asked if given.again or len(found) == 1 or not folder.has(item, *version)]
        if len(todo) < len(asked):
            print(f"{len(asked) - len(todo)} of {len(asked)} are answered already; --again asks them too")
        num_failed = len(problems)
        for result in predictor.predict_many(todo):
            mask = folder.add(result)
            if isinstance(result, FailedPrediction):
                num_failed += 1
                print(f"{result.item}: {result.error}", file=sys.stderr)
            else:
                area = f"{result.area_frac:.1%} of the photo" if result.area_frac else "nothing found"
                alone = f" (no box from the language model: {result.prior.failure})" if result.prior.failure else ""
                print(f"{result.item}: confidence {result.confidence:.2f}, {area}, {mask}{alone}", flush=True)
    if len(found) > 1:
        print(f"{len(found) - num_failed} of {len(found)} answered; index: {folder.table_path}")
    return 1 if num_failed else 0


def save(words: Sequence[str]) -> None:
    """Write a run's best model as a folder of its own, to keep, to give away or to put on the model hub."""
    parser = argparse.ArgumentParser(prog="l2l save", description=save.__doc__)
    parser.add_argument(
        "run", type=place, metavar="RUN", help="a finished run, or a version in it: RUN/train/l2l-v0002"
    )
    parser.add_argument("folder", type=here, metavar="FOLDER", help="where the model goes")
    parser.add_argument("--graph", action="store_true", help="also as a graph of torch.export, which needs torch alone")
    parser.add_argument("--onnx", action="store_true", help="also as ONNX")
    parser.add_argument("--push", metavar="OWNER/NAME", help="also put it on the model hub, under this id")
    parser.add_argument("--private", action="store_true", help="with --push: not for everybody")
    given = parser.parse_args(words)
    if given.private and not given.push:
        parser.error("--private has no effect without --push")
    from l2l_ray.device import no_loading_bars
    from l2l_ray.predictor import save_version
    from l2l_ray.segmenter.graph import save_graph

    with no_loading_bars():
        segmenter = save_version(given.run, given.folder)
    print(f"model      {given.folder}: Predictor.from_pretrained({str(given.folder)!r})")
    for is_wanted, as_onnx in ((given.graph, False), (given.onnx, True)):
        if is_wanted:
            print(f"graph      {save_graph(segmenter, given.folder, as_onnx)}")
    if given.push:
        from l2l_ray.saved_model import push

        print(f"pushed     {push(given.folder, given.push, given.private or None)}")


def evaluate(words: Sequence[str]) -> None:
    """Evaluate the version that a finished run chose, under a protocol of your choice; see docs/metrics.md."""
    parser = argparse.ArgumentParser(prog="l2l evaluate", description=evaluate.__doc__)
    parser.add_argument("run_dir", type=place)
    parser.add_argument("--split", default="val", help="an evaluation split of the run")
    parser.add_argument("--protocol", default="native", help="native, or lavt480 for comparisons with LAVT's tables")
    parser.add_argument("--out", type=here, metavar="FILE", help="also write one row per sentence, as Parquet")
    given = parser.parse_args(words)
    from l2l_ray.device import no_loading_bars
    from l2l_ray.loop.evaluation.reevaluate import reevaluate

    with no_loading_bars():
        evaluation = reevaluate(given.run_dir, given.split, given.protocol)
    print("\n".join(evaluation.lines()))
    if given.out:
        evaluation.save(given.out)
        print(given.out)


def export(words: Sequence[str]) -> None:
    """Write a run's pseudo-labels, or its masks of a split, for other programs; see docs/export.md."""
    parser = argparse.ArgumentParser(prog="l2l export", description=export.__doc__)
    parser.add_argument("run_dir", type=place)
    parser.add_argument("--format", required=True, help="coco, jsonl, parquet, hf, png, labelstudio or yolo")
    parser.add_argument("--out", type=here, required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument("--split", help="predict on this split (val, testA, unlabeled, ...) instead of pseudo-labels")
    parser.add_argument("--round", type=int, metavar="N", help="pseudo-labels of this round; default: the last whole")
    parser.add_argument("--method", help="pseudo-labels of this selector; default: the run's main one")
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.0,
        metavar="X",
        help="leave out masks whose confidence, an estimated IoU, is lower; 0 to 1",
    )
    parser.add_argument("--all", action="store_true", help="also pseudo-labels that training did not use")
    parser.add_argument(
        "--guarantee",
        metavar="PROMISE",
        help="as many pseudo-labels as keep a promise: 'iou>=0.7 for 90%% at 95%%' = with 95 %% certainty, 90 %% of "
        "them have an IoU of 0.7 or more",
    )
    parser.add_argument("--force", action="store_true", help="replace an export that is there")
    given = parser.parse_args(words)
    if given.split and (given.round is not None or given.method or given.all or given.guarantee):
        parser.error("--round, --method, --all and --guarantee choose pseudo-labels; they have no effect with --split")
    if given.guarantee and (given.all or given.min_confidence):
        parser.error("--guarantee says which labels are exported; leave --all and --min-confidence out")
    from l2l_ray.device import no_loading_bars
    from l2l_ray.loop.evaluation.export import export_predictions, export_pseudo_labels

    wanted = (given.run_dir, given.format, given.out)
    if given.split:
        with no_loading_bars():
            done = export_predictions(*wanted, given.split, given.min_confidence, given.force)
    else:
        choice = (given.round, given.method, given.min_confidence, given.all, given.force, given.guarantee)
        done = export_pseudo_labels(*wanted, *choice)
    print(done.line)


def suggest(words: Sequence[str]) -> None:
    """Say which photos to label next: of doubtful labels, and like many others; see docs/export.md."""
    parser = argparse.ArgumentParser(prog="l2l suggest", description=suggest.__doc__)
    parser.add_argument("run_dir", type=place)
    parser.add_argument("--count", type=int, default=20, help="how many photos; they are chosen together")
    parser.add_argument("--out", type=here, metavar="FOLDER", help="also a list, a sheet and tasks for Label Studio")
    given = parser.parse_args(words)
    from l2l_ray.device import no_loading_bars
    from l2l_ray.loop.evaluation.suggest import require_new, write_suggestions
    from l2l_ray.loop.evaluation.suggest import suggest as found_by

    if given.out:
        require_new(given.out)
    with no_loading_bars():
        found = found_by(given.run_dir, given.count)
    for number, one in enumerate(found, 1):
        print(f"{number:4} {one.image}  doubt {one.doubt:.2f}, gain {one.gain:.2f}: {' / '.join(one.texts[:3])}")
    if given.out:
        print(write_suggestions(given.run_dir, found, given.out))


def data(words: Sequence[str]) -> int:
    """Import, check, count, split and compare data sets."""
    from l2l_ray.datatools.commands import COMMANDS as DATA_COMMANDS
    from l2l_ray.datatools.commands import data_command

    if words and words[0] not in (*DATA_COMMANDS, "-h", "--help"):
        return _unknown("l2l data", words[0], DATA_COMMANDS)
    return data_command(words, print)


def prior(words: Sequence[str]) -> int:
    """Ask the configured language model about labeled images: how often is its box right, and read in which unit?

    Further options are those of `l2l run`; see docs/priors.md.
    """
    if words and words[0] not in ("check", "-h", "--help"):
        return _unknown("l2l prior", words[0], ["check"])
    parser = argparse.ArgumentParser(prog="l2l prior check", description=prior.__doc__, allow_abbrev=False)
    parser.add_argument("--num", type=int, default=100, help="labeled images to ask about, at most; one text each")
    if words[:1] != ["check"]:
        parser.print_help(sys.stdout if words else sys.stderr)
        return 0 if words else 2
    given, rest = parser.parse_known_args(words[1:])
    if given.num < 1:
        parser.error(f"--num is {given.num}; expected at least 1")
    from l2l_ray.config import load_config

    config = load_config(rest)
    from l2l_ray.device import no_loading_bars
    from l2l_ray.loop.inference.prior_command import ask_and_check

    with no_loading_bars():
        return 0 if ask_and_check(config, given.num, print) else 1


def review(words: Sequence[str]) -> None:
    """Look at a finished run's labels in the browser, the doubtful first, and decide about them."""
    from l2l_ray.review.server import review_command

    review_command(words, lambda line: print(line, flush=True))


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "label": label,
    "run": run,
    "config": config,
    "runs": runs,
    "compare": compare,
    "report": report,
    "review": review,
    "save": save,
    "predict": predict,
    "prior": prior,
    "evaluate": evaluate,
    "data": data,
    "export": export,
    "suggest": suggest,
}


if __name__ == "__main__":
    sys.exit(main())
