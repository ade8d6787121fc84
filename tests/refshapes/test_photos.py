from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2l_ray.errors import DataError
from l2l_ray.refshapes.photos import write_photos


def test_a_folder_lies_there_as_own_photos_would(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", num=5, num_masks=2, side_px=64)
    assert sorted(path.name for path in folder.glob("*.jpg")) == [f"photo_{n:03d}.jpg" for n in range(5)]
    assert sorted(path.name for path in folder.glob("*_mask.png")) == ["photo_000_mask.png", "photo_001_mask.png"]
    for number in range(5):
        texts = (folder / f"photo_{number:03d}.txt").read_text().splitlines()
        assert texts
        assert all(texts)
    with Image.open(folder / "photo_000_mask.png") as drawn, Image.open(folder / "photo_000.jpg") as photo:
        mask = np.asarray(drawn)
        assert drawn.size == photo.size
    assert set(np.unique(mask)) == {0, 255}


def test_the_same_arguments_give_the_same_photos(tmp_path: Path) -> None:
    one, two, other = (write_photos(tmp_path / name, 2, 1, 64, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    photos = [(folder / "photo_001.jpg").read_bytes() for folder in (one, two, other)]
    assert photos[0] == photos[1] != photos[2]


def test_nothing_is_written_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="is not empty; name a new folder"):
        write_photos(tmp_path)
    with pytest.raises(DataError, match="--masks must lie between 0 and --num"):
        write_photos(tmp_path / "new", num=2, num_masks=3)
    assert not (tmp_path / "new").exists()
