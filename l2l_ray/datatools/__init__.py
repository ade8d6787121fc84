"""Data in and out: import, check, count, split, compare and export data sets.

Reading order: `commands.py` (what `l2l data` can do) calls everything else. In: `import_rows.py`, `import_coco.py`,
`import_hub.py` and `label_studio.py` read, `truths.py` checks each mask, `refer_writer.py` writes. Looking at what is
there: `inventory.py` under `check.py`, `stats.py`, `sheet.py`, `choose_labeled.py` and `leaks.py` (with
`picture_hash.py`). Out: `export.py`.
"""
