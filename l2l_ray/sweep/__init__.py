"""A sweep without Ray: which points there are, what is on disk of each, and what comes out of them.

space     domains of fields, and the points drawn from them
trials    points and seeds as whole configs, each named by its own hash
survey    what must be known before a sweep starts: impossible points, and the texts to ask the MLLM about
figures   what a trial's run came to, from the files that it keeps
folder    the sweep's folder: how it was started, its log, and the state of each trial
results   the files at its end: tables, page, best config
"""
