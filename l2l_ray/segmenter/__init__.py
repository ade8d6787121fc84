"""SESM: image and text encoders, fusion, guidance from the prior, hierarchical decoder, losses."""
