"""L2L on Ray: semi-supervised referring expression segmentation with a reinforced pseudo-label selector.

Nothing is imported here, so that the command line starts fast. The main path starts at
`l2l_ray.loop.runtime.run_local` (one process) and at `l2l_ray.actors.run` (Ray).
"""

__version__ = "0.1.0"
