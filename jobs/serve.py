"""A finished run behind HTTP, on Ray Serve: a picture and words in, masks out; a page to try it in the browser.

    python jobs/serve.py --checkpoint runs/mine
    ray job submit -- python jobs/serve.py --checkpoint /shared/runs/mine --max_replicas 4 --prior
    python jobs/serve.py --checkpoint runs/mine --review
    python jobs/serve.py --checkpoint runs/better --swap

With --review the review page of the run is served under /review/, for several people. The last one changes the
checkpoint of the server that runs on the cluster of --address or RAY_ADDRESS, without a dropped request; a review page
stays with its run. The server listens on loopback and asks for a bearer token: $L2L_TOKEN, or one that is made and
printed. See docs/serving.md.
"""

from __future__ import annotations

import argparse
import sys

from l2l_ray.config import ClusterConfig
from l2l_ray.config.places import settled
from l2l_ray.errors import ConfigError
from l2l_ray.job import run_job, say
from l2l_ray.serving.access import TOKEN_VARIABLE, own_or_new_token, sha256_of
from l2l_ray.serving.settings import ServeConfig, add_options, is_loopback, read_settings
from l2l_ray.storage import place


def main(words: list[str]) -> int:
    """Serve what the command line describes, or change what is served.

    Returns:
        0 when the checkpoint was changed, 1 when something failed, 130 when it was told to stop (Ctrl-C, SIGTERM,
        SIGHUP).
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = "a finished run, or the folder of a version in it, such as RUN/train/l2l-v0002"
    parser.add_argument("--checkpoint", type=place, required=True, metavar="FOLDER", help=what)
    parser.add_argument("--address", help="Ray's address; else RAY_ADDRESS, else a private cluster, as local is")
    parser.add_argument("--swap", action="store_true", help="change the checkpoint of the server that runs there")
    add_options(parser)
    given = parser.parse_args(words)
    return run_job("serve", lambda: _serve(given), "requests that were in work have been answered or refused")


def _serve(given: argparse.Namespace) -> None:
    settings, checkpoint = read_settings(given), place(settled("--checkpoint", str(given.checkpoint)))
    if given.swap and settings.review:
        raise ConfigError(
            "--review is of a server's start, got it with --swap, which leaves the page as it is; drop one "
            "(--no-review where the settings file has it)"
        )
    token, is_new = own_or_new_token()
    from l2l_ray.actors.environment import address_of, set_defaults

    address = address_of(ClusterConfig(address=given.address))
    set_defaults(address)  # Ray reads its environment when it is imported, which is the next line
    from l2l_ray.actors import serve

    if given.swap:
        serve.swap(checkpoint, address, say)
    else:
        serve.run(checkpoint, settings, sha256_of(token), address, say, _told(settings, token, is_new))


def _told(settings: ServeConfig, token: str, is_new: bool) -> str:
    """Return what is said once the server answers."""
    url, behind = settings.url, f"#token={token}" if is_new else ""
    said = f"{token} (made for this start; ${TOKEN_VARIABLE} sets one)" if is_new else f"that of ${TOKEN_VARIABLE}"
    lines = [f"serving    {url}/v1/masks", f"token      {said}", f"page       {url}/{behind}"]
    if settings.review:
        lines.append(f"review     {url}/review/{behind or f'#token=${TOKEN_VARIABLE}'}")
    if not is_loopback(settings.host):
        lines.append(f"note: {settings.host} is not loopback, and nothing is encrypted: put a proxy with TLS before it")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
