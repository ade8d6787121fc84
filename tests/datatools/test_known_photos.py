"""Photos of an update that are in the data set already: known by file, content or name, moved, or replaced."""

from __future__ import annotations

import builtins
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.check import check
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.known_photos import match_photos
from l2l_ray.datatools.merge import merge
from l2l_ray.datatools.refer_writer import ReferWriter, sentence
from tests.own_data import LEFT, RIGHT, Import, own_masks, own_refs, polygon_rle
from tests.refer_folder import draw


def test_photos_are_known_by_their_file_or_content_and_never_overwritten(own: Import, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    (other / "sub").mkdir(parents=True)
    (other / "sub" / "other name.png").write_bytes((tmp_path / "photos" / "c.png").read_bytes())
    row = {"image": "sub/other name.png", "expression": "bird", "polygon": LEFT}
    assert "0 corrected, 1 new mask, 2 unchanged" in own([row], "--update", images=other)[1]
    draw(other / "b.png", 77)
    rows = [{"image": "b.png", "expression": "dog", "polygon": LEFT}, row | {"expression": "a new text"}]
    status, printed = own(rows, "--update", images=other)
    assert status == 1 and "image b.png: photo: got" in printed and "give this one another name" in printed
    assert "1 new object" in printed, "the other rows are brought in"
    assert (tmp_path / "root" / "images" / "own" / "b.png").samefile(tmp_path / "photos" / "b.png")
    assert not own_masks(tmp_path / "root").keys() & {"dog"}


def test_photos_that_were_moved_are_there_again(own: Import, tmp_path: Path) -> None:
    moved = (tmp_path / "photos").rename(tmp_path / "moved")
    linked = tmp_path / "root" / "images" / "own"
    assert not (linked / "a.png").exists()
    rows = [{"image": "a.png", "expression": "left cat"}, {"image": "c.png", "expression": "bird"}]
    assert "0 corrected, 2 photos there again, 3 unchanged" in own(rows, "--update", images=moved)[1]
    assert [(linked / name).exists() for name in ("a.png", "b.png", "c.png")] == [True, False, True]
    assert (linked / "a.png").read_bytes() == (moved / "a.png").read_bytes()
    assert "0 corrected, 3 unchanged" in own(rows, "--update", images=moved)[1]


def test_each_photo_is_read_once_however_many_have_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(writer: ReferWriter, folder: str) -> None:
        for number in range(20):
            photo = tmp_path / folder / f"{number}.bmp"
            photo.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(photo)  # all of one size in bytes
            writer.add_image(number, photo.name if folder == "old" else f"new-{photo.name}", (8, 8), photo)
            writer.add_ref({"ref_id": number, "image_id": number, "split": "train"}, [sentence(number, "red")])

    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        fill(writer, "old")
        writer.write()
    opened: list[Any] = []
    usual = io.open
    with ReferWriter(tmp_path / "root", "own", "own", update=True) as writer:
        fill(writer, "copied")
        for module in (io, builtins):
            monkeypatch.setattr(module, "open", lambda *args, **more: opened.append(args) or usual(*args, **more))
        found = match_photos(writer, {i: {**row, "file_name": f"{i}.bmp"} for i, row in writer.images.items()})
        monkeypatch.undo()
    assert found.image_of == {number: number for number in range(20)} and len(opened) <= 2 * 20


def _sizes(root: Path) -> dict[str, tuple[int, int]]:
    rows = json.loads((root / "own" / "instances.json").read_text())["images"]
    return {row["file_name"]: (row["width"], row["height"]) for row in rows}


def _replace(tmp_path: Path, name: str) -> None:
    """Replace a photo of 32 x 24 px in its place by one of twice the size."""
    draw(tmp_path / "photos" / name, 99, (64, 48))


BOTH = {"image": "a.png", "expression": ["left cat", "the cat"], "id": "cat"}


@pytest.mark.parametrize("mask", [{"polygon": LEFT}, {"polygon": [2 * side for side in LEFT]}])
def test_a_photo_of_another_size_has_it_and_the_new_masks(own: Import, tmp_path: Path, mask: dict[str, Any]) -> None:
    before = own_refs(tmp_path / "root")
    _replace(tmp_path, "a.png")
    status, printed = own([BOTH | mask], "--update")
    assert status == 0 and "1 corrected, 1 photo of another size, 2 unchanged" in printed, printed
    assert "notice: image a.png: it is 64 x 48 px now, 32 x 24 px before; its masks are the new ones\n" in printed
    assert _sizes(tmp_path / "root") == {"a.png": (64, 48), "b.png": (32, 24), "c.png": (32, 24)}
    expected = polygon_rle(mask["polygon"], (64, 48))
    assert own_masks(tmp_path / "root") == {"left cat": expected, "the cat": expected}
    found = check(take_inventory(tmp_path / "root" / "own"), decode=True)
    assert not [problem for problem in found if problem.what != "missing mask"]
    after = own_refs(tmp_path / "root")[0]
    assert after["sent_ids"] == before[0]["sent_ids"] and after["provenance"]["replaced"] == {"ann_id": 1}
    tables = json.loads((tmp_path / "root" / "own" / "instances.json").read_text())
    (drawn,) = [row["segmentation"] for row in tables["annotations"] if row["id"] == 1]
    assert drawn == polygon_rle(LEFT), "the mask of before is kept, at the size of the photo that it was drawn on"
    assert "0 corrected, 3 unchanged" in own([BOTH | mask], "--update")[1]


@pytest.mark.parametrize(
    "rows",
    [
        [BOTH],
        [{"image": "a.png", "expression": "a new text", "polygon": RIGHT}],
        [BOTH | {"rle": polygon_rle(LEFT)}],
        [BOTH | {"polygon": RIGHT, "provenance": {"source": "prediction"}}],
        [BOTH | {"polygon": RIGHT}, {"image": "a.png", "expression": "the cat", "polygon": LEFT}],
        [{"image": "a.png", "expression": "the cat", "no_target": True}],
    ],
)
def test_masks_that_a_photo_of_another_size_would_leave_unfit_are_refused(
    own: Import, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    root = tmp_path / "root"
    before, masks, sizes = own_refs(root), own_masks(root), _sizes(root)
    _replace(tmp_path, "a.png")
    status, printed = own([*rows, {"image": "c.png", "expression": "bird", "polygon": LEFT}], "--update")
    assert status == 1 and "0 corrected, 1 new mask, 2 unchanged" in printed, printed
    assert (
        "image a.png: photo of another size: got 64 x 48 px, without a new mask of 'left cat'; expected 32 x 24 px as "
        "before, or every mask and hint of it anew; bring the earlier photo back, or give them all in one update"
    ) in printed
    assert _sizes(root) == sizes and own_refs(root)[:2] == before[:2]
    assert own_masks(root) == masks | {"bird": polygon_rle(LEFT)}, "the other photos are brought in"
    draw(tmp_path / "photos" / "a.png", ord("a"))
    assert "0 corrected, 3 unchanged" in own([BOTH | {"polygon": LEFT}], "--update")[1], "the earlier one is back"


def test_a_hint_about_a_photo_of_another_size_is_given_anew(own: Import, tmp_path: Path) -> None:
    row = {"image": "c.png", "expression": "bird"}
    own([row | {"point": [20, 9]}], "--update")
    _replace(tmp_path, "c.png")
    for lacking in (row, row | {"polygon": LEFT}):
        status, printed = own([lacking], "--update")
        assert status == 1 and "64 x 48 px, without a new hint of 'bird'; expected 32 x 24 px" in printed
        assert own_refs(tmp_path / "root")[2]["hint"] == {"points": [[20, 9]]}
    status, printed = own([row | {"point": [20, 9]}], "--update")
    assert status == 0 and "1 new hint, 1 photo of another size, 2 unchanged" in printed
    assert _sizes(tmp_path / "root")["c.png"] == (64, 48)


def test_a_photo_without_masks_takes_its_new_size(own: Import, tmp_path: Path) -> None:
    digest = ReferDataset.open(tmp_path / "root", "own", "own").digest
    _replace(tmp_path, "c.png")
    status, printed = own([{"image": "c.png", "expression": "bird"}], "--update")
    assert status == 0 and "0 corrected, 1 photo of another size, 3 unchanged" in printed
    assert _sizes(tmp_path / "root")["c.png"] == (64, 48)
    assert ReferDataset.open(tmp_path / "root", "own", "own").digest != digest, "a run that began before is told"


NO_MOUSE = {"image": "a.png", "expression": "mouse", "no_target": True}


@pytest.mark.parametrize("anew", [NO_MOUSE, {"image": "a.png", "expression": "mouse", "polygon": RIGHT}])
def test_that_a_photo_of_another_size_has_no_target_is_said_anew(
    own: Import, tmp_path: Path, anew: dict[str, Any]
) -> None:
    root = tmp_path / "root"
    own([NO_MOUSE], "--update")
    before = own_refs(root)
    _replace(tmp_path, "a.png")
    status, printed = own([BOTH | {"polygon": LEFT}], "--update")
    assert status == 1 and "got 64 x 48 px, without a new no_target of 'mouse'; expected 32 x 24 px" in printed
    assert own_refs(root) == before
    rows = [BOTH | {"polygon": LEFT}, anew]
    status, printed = own(rows, "--update")
    assert status == 0 and "2 corrected, 1 photo of another size, 2 unchanged" in printed, printed
    mouse = own_refs(root)[3]
    assert mouse["provenance"]["replaced"]["ann_ids"] == [] and "of_size" not in mouse
    assert own_masks(root)["mouse"] == polygon_rle(anew.get("polygon", [0] * 8), (64, 48))
    assert "0 corrected, 4 unchanged" in own(rows, "--update")[1]


def test_what_was_no_target_in_the_earlier_photo_may_be_it_in_the_new_one(own: Import, tmp_path: Path) -> None:
    own([NO_MOUSE], "--update")
    own([{"image": "a.png", "expression": "mouse", "polygon": RIGHT}], "--update")
    _replace(tmp_path, "a.png")
    status, printed = own([BOTH | {"polygon": LEFT}, NO_MOUSE], "--update")
    assert status == 0 and "2 corrected, 1 photo of another size, 2 unchanged" in printed, printed
    assert own_refs(tmp_path / "root")[3]["ann_ids"] == []


def test_a_photo_that_another_split_file_has_too_keeps_its_size(own: Import, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "own"
    (folder / "refs(two).p").write_bytes((folder / "refs(own).p").read_bytes())
    before, sizes = own_refs(tmp_path / "root"), _sizes(tmp_path / "root")
    _replace(tmp_path, "a.png")
    words = ["--update", "--split-by", "own"]
    status, printed = own(
        [BOTH | {"polygon": RIGHT}, {"image": "c.png", "expression": "bird", "polygon": LEFT}], *words
    )
    assert status == 1 and "0 corrected, 1 new mask, 2 unchanged" in printed, printed
    assert (
        "image a.png: photo of another size: got 64 x 48 px, while refs(two).p has it, too; expected 32 x 24 px as "
        "before, where several split files share a photo; bring the earlier photo back"
    ) in printed
    assert own_refs(tmp_path / "root")[:2] == before[:2] and _sizes(tmp_path / "root") == sizes
    before[0]["image_id"], before[2]["image_id"] = before[1]["image_id"], before[1]["image_id"]
    (folder / "refs(two).p").write_bytes(pickle.dumps(before, protocol=4))
    assert own([BOTH | {"polygon": RIGHT}], *words)[0] == 0, "the other one has other photos"


def test_a_file_of_two_names_is_known_by_its_name_and_resized_under_both(own: Import, tmp_path: Path) -> None:
    (tmp_path / "photos" / "l.png").symlink_to(tmp_path / "photos" / "a.png")
    rows = [{"image": name, "expression": "cat", "polygon": LEFT} for name in ("l.png", "a.png")]
    two = ["--dataset", "two"]
    assert own(rows, *two)[0] == 0

    def masks() -> list[tuple[int, Any]]:
        examples, _ = ReferDataset.open(tmp_path / "root", "two", "own").labeled_examples("train")
        return [(example.image_id, example.mask_rle) for example in examples]

    assert own([rows[0] | {"polygon": RIGHT}], *two, "--update")[0] == 0
    assert masks() == [(1, polygon_rle(RIGHT)), (2, polygon_rle(LEFT))], "the photo of that name"
    _replace(tmp_path, "a.png")
    status, printed = own([rows[0] | {"polygon": RIGHT}], *two, "--update")
    assert status == 1 and "image a.png: photo of another size: got 64 x 48 px, without a new mask of 'cat'" in printed
    assert masks() == [(1, polygon_rle(RIGHT)), (2, polygon_rle(LEFT))], "under both names, or under none"
    status, printed = own([row | {"polygon": RIGHT} for row in rows], *two, "--update")
    assert status == 0 and "2 corrected, 2 photos of another size, 0 unchanged" in printed, printed
    assert masks() == [(1, polygon_rle(RIGHT, (64, 48))), (2, polygon_rle(RIGHT, (64, 48)))]


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_copy_is_replaced_once_it_was_moved_away(own: Import, tmp_path: Path, is_turned: bool) -> None:
    photo, exif = tmp_path / "photos" / "e.png", Image.Exif()
    exif[0x0112] = 6  # people see it turned by 90 degrees

    def take(seed: int, size: tuple[int, int]) -> None:
        draw(photo, seed, size if not is_turned else size[::-1])
        if is_turned:
            with Image.open(photo) as picture:
                picture.load()
            picture.save(photo, exif=exif)

    take(1, (32, 24))
    owl = {"image": "e.png", "expression": "owl", "polygon": LEFT}
    words = ["--update"] if is_turned else ["--update", "--copy"]
    assert "1 new photo" in own([owl], *words)[1]
    copied = tmp_path / "root" / "images" / "own" / "e.png"
    assert not copied.is_symlink()
    take(2, (64, 48))
    status, printed = own([owl | {"polygon": RIGHT}], *words)
    remedy = f"if it replaces that one, move {copied} away first, and give all its masks anew"
    assert status == 1 and f"give this one another name; {remedy}" in printed
    assert _sizes(tmp_path / "root")["e.png"] == (32, 24)
    copied.unlink()
    status, printed = own([owl | {"polygon": RIGHT}], *words)
    assert status == 0 and "1 corrected, 1 photo there again, 1 photo of another size" in printed, printed
    assert _sizes(tmp_path / "root")["e.png"] == (64, 48)
    assert own_masks(tmp_path / "root")["owl"] == polygon_rle(RIGHT, (64, 48))


def test_a_moved_photo_of_another_size_does_not_take_the_place_of_the_one_with_masks(
    own: Import, tmp_path: Path
) -> None:
    moved = (tmp_path / "photos").rename(tmp_path / "moved")
    draw(moved / "a.png", 99, (64, 48))
    linked = tmp_path / "root" / "images" / "own" / "a.png"
    status, printed = own([BOTH], "--update", images=moved)
    assert status == 1 and "without a new mask of 'left cat'" in printed and not linked.exists()
    status, printed = own([BOTH | {"polygon": LEFT}], "--update", images=moved)
    assert status == 0 and "1 corrected, 1 photo there again, 1 photo of another size, 2 unchanged" in printed
    assert linked.samefile(moved / "a.png") and own_masks(tmp_path / "root")["the cat"] == polygon_rle(LEFT, (64, 48))


def test_a_size_that_the_picture_does_not_have_is_refused(own: Import, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with ReferWriter(root, "own", "own", update=True) as writer:
        writer.add_image(1, "a.png", (64, 48), None)  # as tables say it that come without pictures
        writer.add_ref({"ref_id": 1, "image_id": 1, "split": "train", "ann_ids": []}, [sentence(1, "mouse")])
        (problem,) = merge(writer).problems
    assert str(problem) == (
        "image a.png: photo size: got 64 x 48 px; expected 32 x 24 px as in the data set, whose picture has no other; "
        "correct the size, or give it another name"
    )
