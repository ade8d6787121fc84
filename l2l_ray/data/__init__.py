"""Data sets: the REFER layout and its reader, who is labeled, masks and protocols, images, and augmentation.

Reading order: `refer.py` (a data set, and what it leaves out) over `refer_cache.py`, `refer_columns.py` and
`refer_files.py` (its two files, ever closer to the bytes); `layout.py` (where things lie); `splits.py` and
`split_files.py` (who is labeled); `masks.py` and `protocols.py` (how pixels are counted); `images.py` (batches of
pictures); `augment.py` and `words.py` (what training changes in them, and what the words allow).

Import the files by name (`from l2l_ray.data.refer import ReferDataset`): nothing is imported here, so that the command
line starts fast.
"""
