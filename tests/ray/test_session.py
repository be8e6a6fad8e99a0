"""Starting Ray here, whatever else runs on the machine."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

START = """
import sys
from ucdr_ray.cluster.session import start_ray
start_ray(1, 100 << 20, sys.argv[1])
import ray
print(ray.cluster_resources()["CPU"])
ray.shutdown()
"""


def test_a_ray_of_somebody_else_on_this_machine_is_left_alone():
    """`ray start` leaves its address in Ray's folder, where Ray looks before it starts one."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory(prefix="ucdr-", ignore_cleanup_errors=True) as folder:
        Path(folder, "ray_current_cluster").write_text("127.0.0.1:1")
        call = [sys.executable, "-c", START, folder]
        ended = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert ended.stdout == "1.0\n", ended.stderr
