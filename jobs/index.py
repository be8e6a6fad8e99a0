"""`ucdr index` as a cluster's job, with the same arguments: `ray job submit -- python jobs/index.py …`.

It works in one process, on the node that the job is started on.
"""

import sys

from ucdr_ray.cli import run

if __name__ == "__main__":
    sys.exit(run(["index", *sys.argv[1:]]))
