"""`ucdr latents` as a cluster's job, with the same arguments: `ray job submit -- python jobs/latents.py …`."""

import sys

from ucdr_ray.cli import run

if __name__ == "__main__":
    sys.exit(run(["latents", *sys.argv[1:]]))
