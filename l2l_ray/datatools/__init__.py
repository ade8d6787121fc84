"""Data in and out: import, check, count, split, compare and export data sets.

Reading order: `commands.py` (what `l2l data` can do) calls everything else. In: `import_coco.py` (over
`coco_tables.py`), `import_hub.py` and, for own rows, `import_rows.py` (from `row_files.py`, `import_folder.py` or
`label_studio.py`, by the columns of `columns.py`) read, `truths.py` checks each mask (pictures of masks by
`mask_files.py`, turned photos by `orientation.py`), `refer_writer.py` writes, and `merge.py` adds to what is there.
Looking at what is there: `inventory.py` under `check.py`, `stats.py`, `sheet.py`, `choose_labeled.py` and `leaks.py`
(with `picture_hash.py`). Out: `export.py` (with `yolo.py`); `record.py` is what each mask says there.
"""
