"""Makes the tiny checkpoints that ship with the package.

    python jobs/pretrain_embedded.py mllm --work-dir /abs/scratch
    python jobs/pretrain_embedded.py encoder --work-dir /abs/scratch

Each sub-command's options are declared by its own module in `l2l_ray/embedded`; the exact commands behind the
shipped files are in the README next to them.
"""

from __future__ import annotations

import argparse
import importlib
import sys

_MODULES = {"mllm": "l2l_ray.embedded.pretrain_mllm", "encoder": "l2l_ray.embedded.pretrain_encoder"}


def main() -> None:
    """Parse the sub-command and run its module's `main(options)`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(_MODULES), help="which checkpoint to make")
    arguments = sys.argv[1:]
    what = parser.parse_args(arguments[:1]).what
    module = importlib.import_module(_MODULES[what])
    own = argparse.ArgumentParser(prog=f"pretrain_embedded.py {what}", description=module.__doc__)
    module.add_arguments(own)
    module.main(own.parse_args(arguments[1:]))


if __name__ == "__main__":
    main()
