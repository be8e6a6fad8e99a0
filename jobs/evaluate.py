"""`ucdr evaluate` as a cluster's job, with the same arguments: `ray job submit -- python jobs/evaluate.py …`."""

import sys

from ucdr_ray.cli import run

if __name__ == "__main__":
    sys.exit(run(["evaluate", *sys.argv[1:]]))
