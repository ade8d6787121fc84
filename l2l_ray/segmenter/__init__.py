"""SESM: image and text encoders, fusion, guidance from the prior, hierarchical decoder, losses.

Reading order: `model.py` (the whole), then its parts as data flows: `backbone.py` and `text.py`, `fusion.py`,
`guidance.py`, `decoder.py`; `losses.py` at the end.
"""
