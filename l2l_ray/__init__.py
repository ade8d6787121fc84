"""L2L on Ray: semi-supervised referring expression segmentation with a reinforced pseudo-label selector.

Nothing is imported here, so that the command line starts fast. The main path starts at
`l2l_ray.loop.local.run_local` (one process) and at `l2l_ray.actors.driver.run` (Ray).
"""

import os

__version__ = "0.1.0"

# torch's threads wait for one another by spinning. Where processes share cores, as all roles of a run on a laptop do,
# long spins make a training step many times slower; no spins at all slow it down where nobody else runs. Read once,
# when torch is imported; what is set already stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
