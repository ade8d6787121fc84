"""Contact sheets: the object is drawn in, text is text, and what cannot be shown says why."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.sheet import pick, tile, write_sheet
from l2l_ray.errors import DataError
from tests.refer_folder import write_tiny


def test_the_mask_is_outlined(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path))
    with Image.open(tmp_path / "pictures" / "1.png") as picture:
        plain = np.asarray(picture.convert("RGB"))
    pixels = np.asarray(tile(inventory, inventory.items[0]))
    assert (pixels[2, 2] == (255, 45, 149)).all()  # a corner of the triangle
    assert (pixels[20:, 25:] == plain[20:, 25:]).all()


def test_a_box_is_drawn_where_there_is_no_mask(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path, segmentation=[]))
    assert (np.asarray(tile(inventory, inventory.items[0]))[2, 2] == (255, 196, 0)).all()


def test_a_hint_is_drawn_where_there_is_no_annotation(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path))
    hint = {"box": [2, 2, 10, 10], "points": [[25, 20]]}
    item = inventory.items[0]._replace(ann_ids=None, record={"hint": hint})
    pixels = np.asarray(tile(inventory, item))
    assert (pixels[2, 2:12] == (255, 196, 0)).all() and (pixels[20, 25] == (255, 196, 0)).all()
    with Image.open(tmp_path / "pictures" / "1.png") as picture:
        assert (pixels[7, 7] == np.asarray(picture.convert("RGB"))[7, 7]).all()
    beyond = item._replace(record={"hint": {"box": [90, 2, 10, 10]}})
    assert tile(inventory, beyond).size == (32, 24)


def test_html_escapes_what_users_wrote_and_needs_no_network(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path))
    item = inventory.items[0]._replace(sentences=((1, "<script>alert(1)</script>"),))
    write_sheet(tmp_path / "sheet.html", inventory, [item])
    page = (tmp_path / "sheet.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert 'src="data:image/jpeg;base64,' in page
    assert "http" not in page


def test_png_with_missing_pictures_and_foreign_letters(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path))
    (tmp_path / "pictures" / "2.png").unlink()
    items = [item._replace(sentences=((1, "左 man"),)) for item in inventory.items]
    write_sheet(tmp_path / "sheet.png", inventory, items)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 232 + 8, 2 * 284 + 8)
    assert not list(tmp_path.glob("*.tmp"))


def test_picked_refs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    items = take_inventory(write_tiny(tmp_path)).items
    assert pick(items, 3, 0) == sorted(pick(items[::-1], 3, 0), key=items.index)
    assert len(pick(items, 99, 0)) == 5
    assert {tuple(item.ref_id for item in pick(items, 2, seed)) for seed in range(20)} != {(1, 2)}


def test_wrong_endings_and_nothing_to_show(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path))
    with pytest.raises(DataError, match="a sheet is a .png or .html file"):
        write_sheet(tmp_path / "sheet.gif", inventory, inventory.items)
    with pytest.raises(DataError, match="has no refs to show"):
        write_sheet(tmp_path / "sheet.png", inventory, [])
