"""Starting Ray, or joining one that runs: the same small, quiet way for every command."""

import logging
import os
import sys
from typing import Any

from ucdr_ray.errors import JobError

_SMALLEST = 4  # logical CPUs: Ray Data's own tasks must find room beside workers and actors


def start_ray(
    num_cpus: int | None = None,
    object_store_memory: int | None = None,
    temp_folder: str | None = None,
) -> None:
    """Join the cluster of ``RAY_ADDRESS``, else start Ray on this machine; nothing if it already runs here.

    Args:
        num_cpus: logical ones of a Ray started here; without it, this machine's, at least 4.
        object_store_memory: bytes, of a Ray started here; Ray's own choice without it.
        temp_folder: where a Ray started here keeps sockets and logs; a short path.

    Raises:
        JobError: no Ray answers at ``RAY_ADDRESS``, or none comes up here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    joining = bool(os.environ.get("RAY_ADDRESS"))
    # A token is what Ray chooses for a local start; said aloud, nothing warns of it, and its command-line tools use
    # it too. Ray reads this once, on import: where that is past, it is left to choose (and sets the variable).
    if not joining and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    import ray.data

    if not ray.is_initialized():
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not joining:
            settings |= {
                "address": "local",  # not one that `ray start` left here
                "num_cpus": num_cpus or max(_SMALLEST, os.cpu_count() or 1),
                "object_store_memory": object_store_memory,
                "include_dashboard": False,
                "_temp_dir": temp_folder,
            }
        try:
            ray.init(**settings)
        except Exception as error:  # whatever keeps Ray from starting, in Ray's many types
            what = (
                f"no Ray at RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if joining else "Ray did not start here"
            )
            raise JobError(f"{what}: {' '.join(str(error).split())}") from None
    # Of every death, even one that is mended, Ray would tell standard output, where a command's result goes.
    ray._private.worker._worker_logs_enabled = False
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
