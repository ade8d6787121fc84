"""Data sets: the REFER layout, splits by image, masks, augmentation, image cache.

Import the files by name (`from l2l_ray.data.refer import ReferDataset`): nothing is imported here, so that the command
line starts fast.
"""
