"""The tiny checkpoints that ship with the package, and the code that made each.

Reading order: `pool.py` (rendered scenes, which both read); the encoder: `pretrain_encoder.py` over `encoder_model.py`,
`encoder_losses.py` and `augment.py`; the MLLM: `pretrain_mllm.py` over the `pretrain_mllm_*.py` beside it.
"""
