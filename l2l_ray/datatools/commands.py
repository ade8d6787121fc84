"""The `l2l data` commands: own and published data in, what is wrong with it, what is in it, who is labeled, what leaks.

    l2l data import KIND SOURCE ... --root ROOT --dataset NAME [--split-by NAME] [--images FOLDER] [--copy] [--update]
    l2l data check  FOLDER [--split-by NAME] [--decode]
    l2l data stats  FOLDER [--split-by NAME] [--sheet FILE.png|FILE.html] [--num N]
    l2l data split  FOLDER OUT.txt (--fraction P | --count N | --all) [--seed N] [--procedure keyed|stratified|semires]
    l2l data leaks  --train FOLDER[@SPLIT_BY][:SPLITS] --test FOLDER[@SPLIT_BY][:SPLITS] ... [--drop NAME]

FOLDER is `<root>/<dataset>`. KIND is rows (JSONL, CSV, Parquet), folder, coco, grefcoco, jxu124, lmms-lab,
labelstudio (corrected labels, exported as JSON) or review (RUN: what was decided by `l2l review RUN`).
Exit status: 0 fine, 1 when there are problems or leaks, 2 wrong usage. Each command's --help lists its options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from l2l_ray.data.layout import Notice, Problem, by_kind, gathered, listed
from l2l_ray.errors import DataError
from l2l_ray.files import require_new
from l2l_ray.storage import StorePath, at_home, here
from l2l_ray.wording import Say, counted

if TYPE_CHECKING:
    from l2l_ray.datatools.refer_writer import ReferWriter

# What is to be done where a source of this kind gave nothing, and no problem says why.
_NOTHING = {
    "rows": "the file has no rows; write one for each expression, with image and expression",
    "folder": "there are no pictures with texts beside them; put photo.txt, one expression per line, beside photo.jpg",
    "coco": "no annotation carries an expression; give each one an `expression`, or a file of them by --captions",
    "grefcoco": "the list of refs is empty; download grefs(unc).json again",
    "jxu124": "the files have no rows; download them again",
    "lmms-lab": "the files have no rows; download them again",
    "labelstudio": "no task has an annotation; submit some tasks in Label Studio, then export the project again",
    "review": "nothing was decided; `l2l review RUN` opens the page",
}
# Options that the other kinds have no use for.
_ONLY_FOR = {
    "images": ("rows", "folder", "coco", "grefcoco", "jxu124", "labelstudio", "review"),
    "masks": ("rows", "folder"),
    "instances": ("grefcoco",),
    "captions": ("coco",),
    "split": ("coco",),
}
_NUM_ON_SHEET = 24
KINDS = ("rows", "folder", "coco", "grefcoco", "jxu124", "lmms-lab", "labelstudio", "review")


def data_command(words: Sequence[str], say: Say) -> int:
    """Run one command.

    Args:
        words: Words after `l2l data`.
        say: Takes each line of output.
    Returns:
        Exit status.
    Raises:
        L2LError: With what failed and what to do.
    """
    if not words or words[0] not in COMMANDS:
        say((__doc__ or "").strip())
        return 0 if list(words[:1]) in (["-h"], ["--help"]) else 2
    return COMMANDS[words[0]](words[1:], say)


def import_(words: Sequence[str], say: Say) -> int:
    """Convert data into the REFER layout; bad items are listed and left out."""
    parser = _parser("import", import_.__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("sources", type=here, nargs="+", help="files; kind folder: the folder; kind review: a run")
    parser.add_argument("--root", type=here, required=True, help="data root to write below")
    parser.add_argument("--dataset", required=True, help="name of the new data set")
    parser.add_argument(
        "--split-by", default=None, help="name of its splits (unc and umd for the published ones, else own)"
    )
    parser.add_argument(
        "--images",
        type=here,
        help="folder of the pictures; for rows and labelstudio: that of the file if not given; for review: the run's",
    )
    parser.add_argument("--masks", type=here, help="rows: folder of mask files; that of the pictures if not given")
    parser.add_argument("--instances", type=here, help="grefcoco: the instances file; beside the refs if not given")
    parser.add_argument("--captions", type=here, help="coco: file of expressions by annotation id")
    parser.add_argument("--split", help="coco: split of annotations that name none; train if not given")
    parser.add_argument("--copy", action="store_true", help="copy pictures; they are linked to otherwise")
    parser.add_argument("--strict", action="store_true", help="write nothing when any item is bad")
    parser.add_argument(
        "--update", action="store_true", help="add masks, corrections, texts and photos to a data set that is there"
    )
    given = parser.parse_args(words)
    for option, kinds in _ONLY_FOR.items():
        if given.kind not in kinds:
            _refuse_idle(parser, given, [option], f"on kind {given.kind}, only on {', '.join(kinds)}")
    from l2l_ray.data.origin import is_published
    from l2l_ray.datatools.merge import merge
    from l2l_ray.datatools.record import is_made_by_a_model
    from l2l_ray.datatools.refer_writer import UNUSABLE, ReferWriter

    split_by = given.split_by or (given.update and _only_split_by(given)) or _usual_split_by(given)
    with ReferWriter(given.root, given.dataset, split_by, given.copy, given.update) as writer:
        writer.origins = [source.resolve() for source in given.sources]
        problems = _convert(given, writer)
        if given.update and writer.is_published and not is_published(writer.folder, split_by):
            text = (
                "with published data in it, a run learns from a share of its masks (data.benchmark_frac), not from all"
            )
            writer.notices.append(Notice(str(writer.folder), text))
        update = merge(writer) if given.update and writer.refs else None
        problems = [*map(update.as_it_is, problems), *update.problems] if update else problems
        _list(problems, say)
        _tell(writer.notices, say)
        if not writer.refs:
            why = "correct the problems above" if problems else _NOTHING[given.kind]
            raise DataError(f"{given.sources[0]} gave no item; nothing is written; {why}")
        if problems and given.strict:
            raise DataError(
                f"{counted(len(problems), 'bad item')} and --strict: nothing is written; correct what is named, or "
                "leave --strict out"
            )
        unusable = {ref.get(UNUSABLE) for ref in writer.refs}  # kept with these
        writer.problems = [str(problem) for problem in gathered([p for p in problems if str(p) not in unusable])]
        is_new = update is None or update.num_changes or update.num_noted or writer.tells_else()
        folder = writer.write() if is_new else writer.folder
        num_truths = sum("ann_id" in ref or "ann_ids" in ref for ref in writer.refs)
        num_sentences = sum(len(ref["sentences"]) for ref in writer.refs)
        images, refs = counted(len({ref["image_id"] for ref in writer.refs}), "image"), counted(len(writer.refs), "ref")
        if update:
            say(f"updated {folder}: {update.line}")
        say(
            f"{'it has' if update else f'wrote {folder}:'} {images}, {refs} ({num_truths} with truth), "
            f"{counted(num_sentences, 'sentence')}"
        )
        if num := sum("ann_id" in ref and is_made_by_a_model(ref.get("provenance")) for ref in writer.refs):
            one = f"{num} of the masks {'is' if num == 1 else 'are'} a model's, corrected by nobody"
            say(f"{one}: a run would learn from {'it' if num == 1 else 'them'} as from truth")
        if update and update.num_changes:
            say("if you made a split file for it before, it is refused now: make it again by `l2l data split`")
    say(f"use it: --data.root {writer.root} --data.dataset {writer.dataset} --data.split_by {writer.split_by}")
    return 1 if problems else 0


def check(words: Sequence[str], say: Say) -> int:
    """List everything that is wrong with a data set."""
    parser = _folder_parser("check", check.__doc__)
    parser.add_argument("--decode", action="store_true", help="read every picture to its end (minutes for a large set)")
    given = parser.parse_args(words)
    from l2l_ray.datatools.check import check as find_problems
    from l2l_ray.datatools.inventory import take_inventory

    inventory = take_inventory(given.folder, given.split_by)
    problems = find_problems(inventory, given.decode)
    _list(problems, say)
    if not given.decode:
        inventory.notices.append(Notice("pictures", "their heads were looked at; --decode reads each to its end"))
    _tell(inventory.notices, say)
    found = counted(len(problems), "problem") if problems else "no problems"
    say(f"{inventory.dataset} ({inventory.split_by}): {counted(len(inventory.items), 'ref')}, {found}")
    return 1 if problems else 0


def stats(words: Sequence[str], say: Say) -> int:
    """Count what a data set holds, and draw a contact sheet of it."""
    parser = _folder_parser("stats", stats.__doc__)
    parser.add_argument("--sheet", type=here, metavar="FILE", help="write a contact sheet, .png or .html")
    parser.add_argument("--split", help="refs of the sheet; all splits if not given")
    parser.add_argument("--num", type=int, help=f"number of refs on the sheet; {_NUM_ON_SHEET} if not given")
    parser.add_argument("--seed", type=int, help="which refs; 0 if not given")
    given = parser.parse_args(words)
    if not given.sheet:
        _refuse_idle(parser, given, ["split", "num", "seed"], "without --sheet")
    if given.num is not None and given.num < 1:
        parser.error(f"--num must be at least 1, got {given.num}")
    from l2l_ray.datatools.inventory import take_inventory
    from l2l_ray.datatools.sheet import pick, write_sheet
    from l2l_ray.datatools.stats import statistics

    if given.sheet:
        require_new(given.sheet, "--sheet")
    inventory = take_inventory(given.folder, given.split_by)
    for line in statistics(inventory):
        say(line)
    if given.sheet:
        items = inventory.items if given.split is None else inventory.of([given.split])
        write_sheet(given.sheet, inventory, pick(items, given.num or _NUM_ON_SHEET, given.seed or 0))
        say(f"sheet: {given.sheet}")
    return 0


def split(words: Sequence[str], say: Say) -> int:
    """Choose the labeled train images and write their ids to a file."""
    parser = _folder_parser("split", split.__doc__)
    parser.add_argument("out", type=here, help="file to write; give it to a run by --data.split_file")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--fraction", type=float, help="share of the train images, in (0, 1]")
    amount.add_argument("--count", type=int, help="number of images")
    amount.add_argument("--all", action="store_true", help="every image whose refs all have truth")
    parser.add_argument("--seed", type=int, help="0 if not given")
    parser.add_argument("--procedure", help="keyed, stratified or semires; keyed if not given")
    parser.add_argument("--strata", help="stratified: category; refs; category,refs; category if not given")
    given = parser.parse_args(words)
    if given.all:
        _refuse_idle(parser, given, ["seed", "procedure", "strata"], "with --all")
    seed, chosen_by, strata = given.seed or 0, given.procedure or "keyed", given.strata or "category"
    if chosen_by != "stratified":
        _refuse_idle(parser, given, ["strata"], f"on --procedure {chosen_by}, only on stratified")
    from l2l_ray.data.refer import ReferDataset
    from l2l_ray.data.split_files import write_split
    from l2l_ray.datatools.choose_labeled import choose_labeled
    from l2l_ray.datatools.inventory import take_inventory

    require_new(given.out, "file")
    inventory = take_inventory(given.folder, given.split_by)
    wanted = given.count if given.fraction is None else given.fraction
    labeled = choose_labeled(inventory, wanted, seed, chosen_by, strata)
    digest = ReferDataset.open(inventory.folder.parent, inventory.dataset, inventory.split_by).digest
    procedure = f"stratified by {strata}" if chosen_by == "stratified" else chosen_by
    num_train = len(inventory.image_ids("train"))
    data_set = (inventory.dataset, inventory.split_by, digest)
    write_split(given.out, labeled, num_train, *data_set, seed, procedure)
    say(f"wrote {given.out}: {len(labeled)} of {num_train} train images are labeled")
    say(f"use it: --data.split_file {given.out}")
    return 0


def leaks(words: Sequence[str], say: Say) -> int:
    """Name the test images that a training set contains."""
    parser = _parser("leaks", leaks.__doc__)
    parser.add_argument(
        "--train", required=True, metavar="FOLDER[@SPLIT_BY][:SPLITS]", help="splits: train if not given"
    )
    parser.add_argument(
        "--test",
        nargs="+",
        required=True,
        metavar="FOLDER[@SPLIT_BY][:SPLITS]",
        help="splits: all but train if not given",
    )
    parser.add_argument("--bits", type=int, help="most bits of 128 in which look-alikes differ; 8 if not given")
    parser.add_argument("--ids-only", action="store_true", help="compare ids and names, open no picture")
    parser.add_argument("--drop", metavar="NAME", help="write the training set without these images, under this name")
    given = parser.parse_args(words)
    if given.ids_only:
        _refuse_idle(parser, given, ["bits"], "with --ids-only")
    if given.bits is not None and not 0 <= given.bits <= 128:
        parser.error(f"--bits must be from 0 to 128, got {given.bits}")
    from l2l_ray.datatools.leaks import MAX_DISTANCE, drop_train_images, find_leaks, parse_part, summary

    train, tests = parse_part(given.train, True), [parse_part(word, False) for word in given.test]
    bits = None if given.ids_only else MAX_DISTANCE if given.bits is None else given.bits
    found, problems = find_leaks(train, tests, bits)
    for leak in found:
        say(str(leak))
    _list(problems, say)
    for line in summary(train, tests, found):
        say(line)
    if given.drop:
        folder, num = drop_train_images(train, found, given.drop)
        say(f"wrote {folder} without {counted(num, 'train image')}")
    return 1 if found or problems else 0


COMMANDS: dict[str, Callable[[Sequence[str], Say], int]] = {
    "import": import_,
    "check": check,
    "stats": stats,
    "split": split,
    "leaks": leaks,
}


def _convert(given: argparse.Namespace, writer: ReferWriter) -> list[Problem]:
    """Hand the sources to the importer of their kind."""
    from l2l_ray.datatools.import_coco import import_coco, import_grefcoco
    from l2l_ray.datatools.import_folder import folder_rows
    from l2l_ray.datatools.import_hub import import_jxu124, import_lmms
    from l2l_ray.datatools.import_rows import import_rows
    from l2l_ray.datatools.label_studio import read_label_studio
    from l2l_ray.datatools.review import read_review
    from l2l_ray.datatools.row_files import read_rows
    from l2l_ray.datatools.texts_beside import note_texts_beside

    first: Path = given.sources[0]
    if given.kind == "jxu124":
        return import_jxu124(given.sources, given.images, writer)
    if given.kind == "lmms-lab":
        return import_lmms(given.sources, writer)
    if len(given.sources) > 1 and given.kind != "rows":
        raise DataError(f"kind {given.kind} takes one source, got {len(given.sources)}; import them one by one")
    if given.kind == "grefcoco":
        return import_grefcoco(first, given.instances or first.parent / "instances.json", given.images, writer)
    if given.kind == "coco":
        return import_coco(first, given.captions, given.images, given.split or "train", writer)
    images = given.images or (first if given.kind == "folder" else first.parent)
    if given.kind == "folder":
        rows = folder_rows(first)
    elif given.kind == "labelstudio":
        rows = iter(read_label_studio(first))
    elif given.kind == "review":
        rows, root = read_review(first)
        images = given.images or root
    else:
        rows = chain.from_iterable(map(read_rows, given.sources))
    if isinstance(images, StorePath):
        raise DataError(f"the photos lie in {images}; copy that folder to this machine, and name it by --images")
    problems = import_rows(rows, images, given.masks or images, writer, from_viewer=given.kind == "labelstudio")
    if given.kind == "folder":
        note_texts_beside(writer.refs, first)
    return problems


def _usual_split_by(given: argparse.Namespace) -> str:
    if given.kind == "jxu124":
        from l2l_ray.datatools.import_hub import is_refcocog

        return "umd" if given.dataset == "refcocog" or is_refcocog(given.sources) else "unc"
    return {"grefcoco": "unc", "lmms-lab": "lmms"}.get(given.kind, "own")


def _only_split_by(given: argparse.Namespace) -> str | None:
    """Return the name of a data set's splits where there is one."""
    found = [path.name[5:-3] for path in (at_home(given.root) / given.dataset).glob("refs(*).p")]
    return found[0] if len(found) == 1 else None


def _refuse_idle(parser: argparse.ArgumentParser, given: argparse.Namespace, options: Sequence[str], why: str) -> None:
    """End with a message where an option was given that does nothing, and say why."""
    for option in options:
        if getattr(given, option) is not None:
            parser.error(f"--{option} has no effect {why}; leave it out")


def _list(problems: Sequence[Problem], say: Say) -> None:
    for problem in gathered(problems):
        say(str(problem))
    if problems:
        say(f"{counted(len(problems), 'problem')}: {by_kind(problems)}")


def _tell(notices: Sequence[Notice], say: Say) -> None:
    for line in listed(notices):
        say(f"notice: {line}")


def _parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"l2l data {name}", description=doc)


def _folder_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    parser = _parser(name, doc)
    parser.add_argument("folder", type=here, help="<root>/<dataset>")
    parser.add_argument("--split-by", help="which refs(<split_by>).p; not needed where there is one")
    return parser
