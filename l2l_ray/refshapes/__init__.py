"""RefShapes, the procedural benchmark: scenes, expressions about them, and REFER files of both.

Reading order: `scenes.py` (what is drawn), `meanings.py` (what can be said of it that fits one object alone),
`expressions.py` (the words), `synthetic.py` (splits and files).
"""
