"""`ucdr ingest` as a cluster's job, with the same arguments: `ray job submit -- python jobs/ingest.py …`."""

import sys

from ucdr_ray.cli import run

if __name__ == "__main__":
    sys.exit(run(["ingest", *sys.argv[1:]]))
