"""`ucdr index` as a cluster's job, with the same arguments: `ray job submit -- python jobs/index.py …`.

Shards are written by the cluster's tasks; what chooses and checks them is on the node that the job is started on.
"""

import sys

from ucdr_ray.cli import run

if __name__ == "__main__":
    sys.exit(run(["index", *sys.argv[1:]]))
