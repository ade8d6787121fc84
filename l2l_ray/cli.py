"""The `l2l` command: one process, no Ray. The same run on a cluster is `ray job submit -- python jobs/selfevolve.py`.

    l2l label FOLDER|TABLE [--dry-run]     [--preset photos-small]   masks for photos with texts: import, run, export
    l2l example FOLDER [--num 40] [--masks 12]                       drawn photos with texts, to try that with
    l2l run [--preset photos-small] [--section.field value ...]      the whole method, in this process
    l2l config [same options]                                        every setting that these words mean, as YAML
    l2l runs [--run_root R] [--all] [--json]                         every run: state, data, figure, size, how to go on
    l2l compare RUN RUN [--split val] [--method NAME]                differences with intervals; settings that differ
    l2l report RUN                                                   write report.html again
    l2l review RUN [--port 8765] [--reviewer NAME]                   look at the doubtful labels, in the browser
    l2l save RUN FOLDER [--graph] [--onnx] [--push OWNER/NAME]       the trained model as a folder of its own
    l2l predict PHOTO "the left cup" --run RUN [--out FOLDER]        the mask of one photo and text
    l2l predict FOLDER|TABLE.csv --run RUN [--out FOLDER]            of many, the models loaded once
    l2l prior check [--num 100] [same options as l2l run]            is the language model right about labeled images?
    l2l evaluate RUN [--split testA] [--protocol lavt480]            its figures again, also as others count
    l2l data import|check|stats|split|leaks ...                      own and published data: see docs/data.md
    l2l export RUN --format coco --out FOLDER [--split val]          pseudo-labels or predictions as files
    l2l export RUN ... --guarantee "iou>=0.7 for 90% at 95%"         as many labels as keep a promise
    l2l suggest RUN [--count 20] [--out FOLDER]                      which photos to label next

RUN is the run folder that `l2l run` prints. Each command's --help lists its options.
Exit status: 0 fine; 1 something is wrong, a setting of a run too, or some items failed, each in a line on stderr;
2 the command was not understood; 130 stopped by Ctrl-C; 141 whoever read the output closed it, as `head` does.
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

from l2l_ray.job import STOPPED
from l2l_ray.run_commands import compare, evaluate, export, report, review, runs, save, suggest
from l2l_ray.storage import here, place
from l2l_ray.wording import counted

PIPE_CLOSED = 141  # 128 and the number of the signal, as shells count


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
        print(f"\nstopped; {str(stop) or 'what is written stays'}", file=sys.stderr)
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
    parser.add_argument("--force", action="store_true", help="write the masks again, also over what was changed there")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen and how long it would take")
    if any(word in ("-h", "--help") for word in words):
        parser.parse_args(["--help"])
    from l2l_ray.config.reading import own_words

    given, rest = own_words(parser, words, ("--name", "--run_root"))
    from l2l_ray.device import no_loading_bars
    from l2l_ray.label import Source, config_of, dry_run
    from l2l_ray.label import label as label_source

    source = Source.of(given.source, given.images)
    settings = config_of(source, given.name, given.run_root, rest)
    with no_loading_bars():
        if given.dry_run:
            return dry_run(source, settings, print)
        try:
            return label_source(source, settings, given.out, print, given.force)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on") from None


def config(words: Sequence[str]) -> None:
    """Print the config that these words mean, every field of it."""
    from l2l_ray.config import config_yaml, load_config

    print(config_yaml(load_config(words)), end="")


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
    from l2l_ray.datatools.row_files import TABLES
    from l2l_ray.types import PhotoText

    if given.images and given.source.suffix.lower() not in TABLES:
        parser.error(f"--images is the folder of a table's photos; {given.source} is no table: leave it out")
    photos = given.source if given.source.is_dir() else given.source.parent
    if given.out.resolve() == photos.resolve():
        parser.error(f"--out {given.out} holds the photos; its masks would be taken for photos: choose another folder")
    read_config(given.run / "config.yaml")
    images = given.images and given.images.absolute()  # the files hold the photos' paths, wherever they are read
    found = photos_and_texts(given.source.absolute(), given.text, images)
    from l2l_ray.loop.state.version_record import weights_sha256
    from l2l_ray.predictions import FailedPrediction, PredictionFolder, predict_into
    from l2l_ray.predictor import Predictor, run_and_version

    run, method, version = run_and_version(given.run)
    weights = weights_sha256(run.version_dir(method, version))
    folder = PredictionFolder.open(given.out, str(given.run.absolute()), weights)

    def answer(items: list[PhotoText]) -> int:
        num_failed = 0
        for result in Predictor.from_run(given.run).predict_many(items):
            mask = folder.add(result)
            if isinstance(result, FailedPrediction):
                num_failed += 1
                print(f"{result.item}: {result.error}", file=sys.stderr)
            else:
                area = f"{result.area_frac:.1%} of the photo" if result.area_frac else "nothing found"
                alone = f" (no box from the language model: {result.prior.failure})" if result.prior.failure else ""
                print(f"{result.item}: confidence {result.confidence:.2f}, {area}, {mask}{alone}", flush=True)
        return num_failed

    return predict_into(folder, found, (method, version), given.again or len(found) == 1, answer, print)


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


def example(words: Sequence[str]) -> None:
    """Draw photos with texts beside them and masks for a few: something to try `l2l label` with."""
    parser = argparse.ArgumentParser(prog="l2l example", description=example.__doc__)
    parser.add_argument("folder", type=here, help="is made, or empty")
    parser.add_argument("--num", type=int, default=40, help="photos")
    parser.add_argument("--masks", type=int, default=12, help="how many of them have a mask")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    from l2l_ray.refshapes.photos import write_photos

    folder = write_photos(given.folder, given.num, given.masks, seed=given.seed)
    print(f"{folder}: {counted(given.num, 'photo')} with texts, {given.masks} of them with a mask")


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "label": label,
    "example": example,
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
