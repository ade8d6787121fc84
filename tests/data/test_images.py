"""Image store, labeled and evaluation sets, keyed batches."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_ray.data.images import ImageStore, LabeledSet, batch_indices
from l2l_ray.data.masks import encode, mask_to_grid
from l2l_ray.errors import DataError
from l2l_ray.types import Example, LabeledExample


@pytest.fixture
def store() -> Iterator[ImageStore]:
    opened = ImageStore(16, cache_mb=1)
    yield opened
    opened.close()


def photo(path: Path, width: int = 40, height: int = 30, seed: int = 0, **options: object) -> str:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, **options)
    return str(path)


def example(path: str, sent_id: int = 1, width: int = 40, height: int = 30) -> Example:
    return Example(sent_id, 1, 1, path, width, height, "cat")


def labeled(sent_id: int, mask: np.ndarray, path: str = "a.png") -> LabeledExample:
    height, width = mask.shape
    return LabeledExample(sent_id, 1, 1, path, width, height, "cat", encode(mask), "animal")


def test_get_squashes_to_rgb_in_order(tmp_path: Path, store: ImageStore) -> None:
    red = str(tmp_path / "red.png")
    Image.new("RGB", (50, 20), (255, 0, 51)).save(red)
    other = photo(tmp_path / "b.jpg", 640, 480)
    batch = store.get([other, red, other])
    assert batch.shape == (3, 3, 16, 16) and batch.dtype == torch.float32
    torch.testing.assert_close(batch[1], torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(3, 16, 16))
    assert torch.equal(batch[0], batch[2])
    reference = np.asarray(Image.open(other).resize((16, 16), Image.Resampling.BILINEAR)) / np.float32(255)
    np.testing.assert_allclose(batch[0].permute(1, 2, 0).numpy(), reference, atol=1e-6)


def test_every_mode_becomes_rgb(tmp_path: Path, store: ImageStore) -> None:
    color = Image.new("RGB", (20, 20), (200, 100, 50))
    palette, clear = color.convert("P", palette=Image.Palette.ADAPTIVE), color.convert("RGBA")
    clear.putalpha(7)
    files = {
        "p.png": (palette, {}),
        "pt.png": (palette, {"transparency": bytes([9] * 4)}),
        "rgba.png": (clear, {}),
        "cmyk.jpg": (color.convert("CMYK"), {"quality": 100}),
        "gif.gif": (palette, {"transparency": 0}),
    }
    for name, (image, options) in files.items():
        image.save(tmp_path / name, **options)
        pixel = store.get([str(tmp_path / name)])[0, :, 8, 8] * 255
        torch.testing.assert_close(pixel, torch.tensor([200.0, 100.0, 50.0]), atol=4, rtol=0)
    for name, gray in {
        "l.png": Image.new("L", (20, 20), 100),
        "la.png": Image.new("LA", (20, 20), (100, 3)),
        "deep.png": Image.fromarray(np.full((20, 20), 100 * 256 + 7, dtype=np.uint16)),
        "one.png": Image.new("1", (20, 20), 1),
    }.items():
        gray.save(tmp_path / name)
        value = 255 if name == "one.png" else 100
        assert (store.get([str(tmp_path / name)]) * 255).round().unique().tolist() == [value]


def test_exif_rotation_is_not_applied(tmp_path: Path, store: ImageStore) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    image = Image.new("RGB", (40, 30))
    image.paste((255, 255, 255), (0, 0, 20, 30))
    image.save(tmp_path / "a.png", exif=exif)
    path = str(tmp_path / "a.png")
    pixels = store.get([path])[0]
    assert pixels[:, :, :7].min() == 1 and pixels[:, :, 9:].max() == 0  # the left half is white, as stored
    assert not store.check([example(path)])[1]


def test_missing_and_truncated_images_are_named(tmp_path: Path, store: ImageStore) -> None:
    missing, cut = str(tmp_path / "no.jpg"), tmp_path / "cut.jpg"
    data = Path(photo(tmp_path / "whole.jpg", 640, 480, quality=95)).read_bytes()
    with pytest.raises(DataError, match=r"no\.jpg cannot be read: image file not found.*restore the file"):
        store.get([str(tmp_path / "whole.jpg"), missing])
    for size in (0, 10, len(data) // 2, len(data) * 9 // 10):
        cut.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"cut\.jpg cannot be read: "):
            store.get([str(cut)])
    # An error is not remembered: the restored file is read.
    cut.write_bytes(data)
    assert store.get([str(cut)]).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("suffix", ["png", "gif", "webp", "bmp"])
def test_truncation_is_seen_in_other_formats(tmp_path: Path, store: ImageStore, suffix: str) -> None:
    path = Path(photo(tmp_path / f"a.{suffix}", 200, 200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert [skip.kind for skip in store.check([example(str(path), width=200, height=200)])[1]] == ["truncated_image"]


def test_check_sorts_out_every_sentence_of_a_bad_image(tmp_path: Path, store: ImageStore) -> None:
    good, cut, missing = photo(tmp_path / "good.png"), photo(tmp_path / "cut.jpg"), str(tmp_path / "no.jpg")
    Path(cut).write_bytes(Path(cut).read_bytes()[:300])
    examples = [example(cut, 1), example(good, 2), example(missing, 3), example(cut, 4), example(good, 5, width=41)]
    usable, skips = store.check(examples)
    assert usable == [examples[1]]
    assert [(skip.kind, skip.sent_id) for skip in skips] == [
        ("truncated_image", 1),
        ("missing_image", 3),
        ("truncated_image", 4),
        ("size_mismatch", 5),
    ]
    assert skips[3].reason == "file is 40 x 30 px, annotations say 41 x 30" and skips[3].path == good
    assert store.check([]) == ([], [])


def test_check_keeps_the_type_and_fills_the_cache(tmp_path: Path, store: ImageStore) -> None:
    path = photo(tmp_path / "a.png", 8, 6)
    usable, _ = store.check([labeled(1, np.ones((6, 8), dtype=bool), path)])
    assert isinstance(usable[0], LabeledExample)
    Path(path).unlink()
    assert store.get([path]).shape == (1, 3, 16, 16)


def test_cache_is_bounded_and_drops_the_oldest(tmp_path: Path) -> None:
    store = ImageStore(256, cache_mb=1)  # 192 KiB an image: room for 5
    paths = [photo(tmp_path / f"{i}.png", seed=i) for i in range(8)]
    first = store.get(paths)
    assert store.cached_bytes == 5 * 3 * 256**2
    store.get([paths[3]])
    for path in paths[3:]:
        Path(path).unlink()
    torch.testing.assert_close(store.get([paths[3], paths[7]]), first[[3, 7]], atol=0, rtol=0)
    store.get([paths[0], paths[1], paths[2]])  # pushes out 4, 5 and 6; 3 and 7 were used since
    torch.testing.assert_close(store.get([paths[3], paths[7]]), first[[3, 7]], atol=0, rtol=0)
    with pytest.raises(DataError, match="not found"):
        store.get([paths[4]])
    store.close()


def test_a_bound_below_one_image_keeps_nothing(tmp_path: Path) -> None:
    store = ImageStore(600, cache_mb=1)
    path = photo(tmp_path / "a.png")
    assert torch.equal(store.get([path]), store.get([path])) and store.cached_bytes == 0
    assert store.check([example(path)])[0]
    store.close()


def test_prefetch_is_picked_up_and_reports_errors_late(tmp_path: Path, store: ImageStore) -> None:
    path = photo(tmp_path / "a.png")
    store.prefetch([path, str(tmp_path / "no.png"), path])
    assert store.get([path]).shape == (1, 3, 16, 16)
    with pytest.raises(DataError, match="not found"):
        store.get([str(tmp_path / "no.png")])


def test_threads_get_the_same_pixels(tmp_path: Path) -> None:
    store = ImageStore(256, cache_mb=1, num_threads=3)
    paths = [photo(tmp_path / f"{i}.png", seed=i) for i in range(9)]
    expected = {path: store.get([path])[0] for path in paths}
    wrong: list[str] = []

    def read(seed: int) -> None:
        order = np.random.default_rng(seed).integers(9, size=20)
        batch = store.get([paths[i] for i in order])
        wrong.extend(paths[i] for row, i in enumerate(order) if not torch.equal(batch[row], expected[paths[i]]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and store.cached_bytes <= 2**20
    store.close()


def test_labeled_set_gives_coverage_masks() -> None:
    masks = [np.eye(6, 8, dtype=bool), np.ones((6, 8), dtype=bool)]
    examples = [labeled(1, masks[0]), labeled(2, masks[1]), labeled(3, masks[0])]
    data = LabeledSet(examples, grid=4)
    assert len(data) == 3 and data.masks.shape == (3, 4, 4) and data.masks.dtype == torch.float32
    taken, cells = data.take([2, 1])
    assert taken == [examples[2], examples[1]]
    np.testing.assert_array_equal(cells[0], mask_to_grid(examples[0].mask_rle, 4))
    assert (cells[1] == 1).all()
    assert torch.equal(data.masks[[2, 1]], cells)


def test_batches_cover_each_epoch_once() -> None:
    drawn = [i for step in range(10) for i in batch_indices(20, 4, seed=0, stream="labeled", step=step)]
    assert sorted(drawn[:20]) == sorted(drawn[20:]) == list(range(20))
    assert drawn[:20] != drawn[20:]


def test_batches_are_keyed_not_stateful() -> None:
    fifth = batch_indices(50, 8, 1, "labeled", 5)
    assert fifth == batch_indices(50, 8, 1, "labeled", 5)
    others = [batch_indices(50, 8, 2, "labeled", 5), batch_indices(50, 8, 1, "unlabeled", 5)]
    assert fifth not in others and all(isinstance(i, int) for i in fifth)
    halves = [i for pair in zip(batch_indices(50, 8, 1, "labeled", 5)[0::2], fifth[1::2], strict=True) for i in pair]
    assert halves == fifth
    # The stream of items does not depend on the batch size.
    small = [i for step in range(4) for i in batch_indices(50, 2, 1, "labeled", 20 + step)]
    assert small == fifth


def test_batch_larger_than_the_set_and_empty_set() -> None:
    assert Counter(batch_indices(3, 9, 0, "labeled", 0)) == {0: 3, 1: 3, 2: 3}
    with pytest.raises(DataError, match="cannot draw a batch of 'labeled' from 0 items"):
        batch_indices(0, 4, 0, "labeled", 0)
