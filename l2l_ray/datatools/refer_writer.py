"""Writes a data set in the REFER layout, whole or not at all.

Pictures are collected in a folder with a temporary name or remembered as links; `write` puts them in place, and renames
the folder with `instances.json` and `refs(<split_by>).p` into place as its last act: a data set stands only when all of
it is there. Nothing that exists is overwritten, but the data set that an update names. The pickle holds built-in types
only.
"""

from __future__ import annotations

import filecmp
import json
import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from l2l_ray.data.layout import ALL_PICTURES, NO_CATEGORY_ID, Notice, image_folder, plain_name
from l2l_ray.data.origin import write_origin
from l2l_ray.data.pixels import Header, upright_copy
from l2l_ray.datatools.kept_problems import FILES, Kept, kept_problems, sources_of, without_sources, write_problems
from l2l_ray.errors import DataError
from l2l_ray.files import locked, replacing, replacing_folder, saying_why, temporary_path
from l2l_ray.storage import at_home
from l2l_ray.wording import counted, first_of

UNUSABLE = "unusable_truth"  # field of a ref: what an import named as wrong with its truth, until there is another one


class ReferWriter:
    """Collects images, annotations and refs of one data set; a context that leaves no half-written files behind.

    Example: `with ReferWriter(Path("data/refer"), "own", "l2l") as writer: ...; writer.write()`

    Args:
        root: Data root; made when it is missing.
        dataset: Name of the new data set.
        split_by: Name of its splits.
        copy: Copy the pictures; False links to them.
        update: The data set is there, and `merge.py` adds to it what is collected; `write` then replaces it.
    Raises:
        DataError: If a name is unusable, the data set exists, or, with `update`, does not.
    """

    def __init__(self, root: Path, dataset: str, split_by: str, copy: bool = False, update: bool = False) -> None:
        self.root = at_home(Path(root)).absolute()
        self.dataset, self.split_by = plain_name("dataset", dataset), plain_name("split_by", split_by)
        if dataset == ALL_PICTURES:
            raise DataError(
                f"the name {dataset!r} is that of the folder of all pictures; choose another (--dataset; for l2l label "
                "--name)"
            )
        self.images: dict[int, dict[str, Any]] = {}
        self.annotations: dict[int, dict[str, Any]] = {}
        self.categories: dict[int, str] = {}
        self.refs: list[dict[str, Any]] = []
        self.is_published = False  # an importer of published data says so; of own data every mask is learned from
        self.notices: list[Notice] = []  # what importers have to tell besides problems
        self.problems: list[str] = []  # what they named as wrong; kept beside the data, for runs to tell of it
        self.origins: list[Path] = []  # resolved: what they read
        self.solved: set[str] = set()  # problems of earlier imports that an update did away with
        self.sources: dict[str, Path] = {}  # by name: the file of each picture that `write` has to put in place
        self._sizes: dict[str, tuple[int, int] | None] = {}
        self._copy, self._update = copy, update
        self._held = ExitStack()
        self._staging = temporary_path(self.folder)
        with saying_why(self.folder):
            exists, has_refs = self.folder.exists(), (self.folder / self._refs).is_file()
        if update and not has_refs:
            raise DataError(f"{self.folder} has no {self._refs} to update; import it first, without --update")
        if exists and not update:
            raise DataError(
                f"{self.folder} exists and is not overwritten; add to it by --update, or choose another --dataset"
            )

    @property
    def folder(self) -> Path:
        """Where `instances.json` and the refs go."""
        return self.root / self.dataset

    @property
    def _refs(self) -> str:
        return f"refs({self.split_by}).p"

    def __enter__(self) -> ReferWriter:
        """Hold a data set that is updated: of two updates at once, one would take away the other's work.

        Raises:
            DataError: Another process holds it.
        """
        if self._update:
            with saying_why(self.folder):
                try:
                    self._held.enter_context(locked(self.root / f".{self.dataset}.lock", timeout_s=0))
                except TimeoutError:
                    raise DataError(f"another process updates {self.folder}; try again when it has ended") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            shutil.rmtree(self._staging, ignore_errors=True)

    def add_image(self, image_id: int, name: str, size: tuple[int, int] | None, source: Path | bytes | None) -> None:
        """Add one image; a second call with its id changes nothing.

        Args:
            image_id: Its id.
            name: Path below the image folder, checked by the caller.
            size: Width and height, px.
            source: The picture's file or content; None = it is in the image folder already, or will be.
        """
        if image_id in self.images:
            return
        self._sizes[name] = size
        width, height = size or (None, None)
        self.images[image_id] = {"id": image_id, "file_name": name, "width": width, "height": height}
        if isinstance(source, bytes):
            staged = self._staging / ALL_PICTURES / name
            with saying_why(staged.parent):
                staged.parent.mkdir(parents=True, exist_ok=True)
                staged.write_bytes(source)
            self.sources[name] = staged
        elif source is not None:
            self.sources[name] = source.resolve()  # a link to a link would break with the one between

    def add_picture(self, image_id: int, name: str, path: Path, header: Header) -> None:
        """Add a picture of own data, or a copy turned as its EXIF says; a second call with its id changes nothing.

        Args:
            image_id: Its id.
            name: Path below the image folder, checked by the caller.
            path: The picture.
            header: Of the picture.
        Raises:
            BadPicture: If it is to be turned and cannot be read.
        """
        if image_id in self.images:
            return
        if header.is_turned:
            self.add_image(image_id, name, header.shown, upright_copy(path))
            self.notices.append(Notice(name, "turned as EXIF says, the data set holds an upright copy"))
        else:
            self.add_image(image_id, name, header.shown, path)

    def size_of(self, name: Any) -> tuple[int, int] | None:
        """Return the size with which a file was added under whatever id, None if it was not, or without a size."""
        return self._sizes.get(name) if isinstance(name, str) else None

    def add_ref(self, ref: Mapping[str, Any], sentences: Sequence[Mapping[str, Any]]) -> None:
        """Add one ref with its sentences."""
        self.refs.append(
            {**ref, "sent_ids": [s["sent_id"] for s in sentences], "sentences": [dict(s) for s in sentences]}
        )

    def tells_else(self) -> bool:
        """Tell whether other problems are to be kept than those that are kept beside the data set by now."""
        return self._told(self.folder) != kept_problems(self.folder)

    def _told(self, folder: Path) -> Kept:
        """Return what is wrong with the data: what is kept about other sources and not solved, and what was named."""
        kept = kept_problems(folder)
        others = without_sources(kept, self.origins)
        told = {line: about for line, about in others.items() if line not in self.solved}
        for line in self.problems:
            told[line] = sorted({*told.get(line, ()), *sources_of(line, self.origins)})
        for line in (ref[UNUSABLE] for ref in self.refs if UNUSABLE in ref):
            told.setdefault(line, kept.get(line) or sources_of(line, self.origins))
        return told

    def write(self) -> Path:
        """Put everything in place and return the folder.

        Raises:
            DataError: If there is nothing to write, a different picture has the place of one of these, or the place
                cannot be written.
        """
        if not self.refs:
            raise DataError(f"there is no usable item for {self.folder}; nothing is written; give it some")
        with saying_why(self.folder):
            return self._write()

    def _write(self) -> Path:
        used = {ref["image_id"] for ref in self.refs}
        images = [row for image_id, row in self.images.items() if image_id in used or self._update]
        content = {
            "images": images,
            "annotations": [_for_coco(row) for row in self.annotations.values()],
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
        }
        target = image_folder(self.root, self.dataset)
        names = dict.fromkeys(row["file_name"] for row in images if row["file_name"] in self.sources)
        lacking = [name for name in names if not _is_there(self.sources[name], target / name)]
        if lacking and target.is_symlink():
            raise DataError(
                f"{target} is a link to a folder that lacks {counted(len(lacking), 'picture')} of these "
                f"({first_of(lacking)}), and nothing is written there; leave --images out where the folder has them "
                "all, else remove the link, or choose another --dataset"
            )
        for name in lacking:
            self._place(self.sources[name], target / name)
        if self._update:
            place = self.folder.resolve()
            with replacing_folder(place) as complete:
                shutil.copytree(place, complete, symlinks=True, dirs_exist_ok=True)
                self._write_tables(complete, content)
            return self.folder
        complete = self._staging / "complete"
        complete.mkdir(parents=True)
        self._write_tables(complete, content)
        os.rename(complete, self.folder)
        return self.folder

    def _write_tables(self, folder: Path, content: Mapping[str, Any]) -> None:
        told = self._told(folder)
        for name in ("instances.json", self._refs, *FILES):
            (folder / name).unlink(missing_ok=True)  # it may be a link to another data set's
        (folder / "instances.json").write_text(json.dumps(content, allow_nan=False))
        (folder / self._refs).write_bytes(pickle.dumps(self.refs, protocol=4))
        if self.is_published or not self._update:  # of data that are there, their own file says it, or nobody knows
            write_origin(folder, "published" if self.is_published else "own")
        write_problems(folder, told)

    def _place(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_relative_to(self._staging):
            os.replace(source, target)
            return
        with replacing(target) as temporary:
            if self._copy:
                shutil.copyfile(source, temporary)
            else:
                temporary.symlink_to(source)


def _is_there(source: Path, target: Path) -> bool:
    """Whether a picture has its place already.

    Raises:
        DataError: A different one has it.
    """
    if not target.exists():
        return False
    if target.samefile(source) or filecmp.cmp(source, target, shallow=False):
        return True
    raise DataError(
        f"{target} is a different picture than {source}; no data set is written; choose another --dataset, or remove it"
    )


def _for_coco(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an annotation as pycocotools reads it: it has a category_id, and a polygon stands in a list of such."""
    found = {"category_id": NO_CATEGORY_ID, **row}
    segmentation = row.get("segmentation")
    if isinstance(segmentation, list) and segmentation and not isinstance(segmentation[0], list | dict):
        found["segmentation"] = [segmentation]
    return found


def sentence(sent_id: int, text: str) -> dict[str, Any]:
    """Return one sentence of a ref; case is kept, white space is collapsed."""
    tokens = text.split()
    return {"sent_id": sent_id, "raw": text, "sent": " ".join(tokens), "tokens": tokens}
