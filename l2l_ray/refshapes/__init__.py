"""RefShapes, the procedural benchmark: scenes, expressions about them, and REFER files of both."""
