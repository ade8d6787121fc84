"""L2L on Ray: semi-supervised referring expression segmentation with a reinforced pseudo-label selector.

Nothing is imported here, so that the command line starts fast. The main path starts at
`l2l_ray.loop.runtime.run_local` (one process) and at `l2l_ray.actors.run` (Ray).
"""

import os

__version__ = "0.1.0"

# torch's threads otherwise wait for one another by spinning. Where processes share cores, as all roles of a run on a
# laptop do, that made a training step 15 times slower. Read once, when torch is imported; a value already set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
