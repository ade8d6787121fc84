"""The frozen MLLM: how it is asked, how its replies are read and kept, and how they become soft proposals.

Reading order: `prompt.py` (the question), `mllm.py` with `processing.py` (asking), `parse.py` and `reply.py` (from a
reply to a `Prior`), `sam.py` with `masks.py` (its masks, where SAM draws them), `store.py` (kept, so that nothing is
asked twice), `proposal.py` (from a `Prior` to a map on the grid).
"""
