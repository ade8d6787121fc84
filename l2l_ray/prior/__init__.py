"""The frozen MLLM: how it is asked, how its replies are read and kept, and how they become soft proposals.

Reading order: `prompt.py` (the question), `mllm.py` with `processing.py` (asking), `parse.py` and `reply.py` (from a
reply to a `Prior`), `store.py` (kept, so that nothing is asked twice), `proposal.py` with `sam.py` (from a `Prior` to a
map on the grid).
"""
