"""The service on this machine, in the foreground: what `ucdr serve` runs."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable

from serve.settings import ServiceSettings
from ucdr_ray.errors import JobError, UserError

_NAME = "ucdr"
# HAProxy in front of the copies, and nothing in them that costs time without need.
_FAST = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
_QUIET = {
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_worker_niceness": "0",  # what answers people need not stand back
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine starts processes slowly
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    # Searching twice does no harm: what a copy took to its death is asked of another one.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
}


def run(
    settings: ServiceSettings,
    host: str,
    port: int,
    ready: Callable[[str], None],
) -> None:
    """Start Ray here, deploy, and serve until SIGINT or SIGTERM.

    Args:
        host: to bind; anything but loopback lets other machines in.
        port: 0: a free one.
        ready: called once with the address, when every deployment answers.

    Raises:
        UserError: the port is taken, or the index can't be served.
        JobError: Ray or a deployment does not start.
    """
    chosen = _free(host, port)
    os.environ.pop("RAY_ADDRESS", None)  # this machine's service, not a cluster's
    for name, value in (_FAST | _QUIET).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_SERVE_HAPROXY_METRICS_PORT", str(_free("127.0.0.1", 0)))
    os.environ.setdefault("RAY_SERVE_HAPROXY_STATS_PORT", str(_free("127.0.0.1", 0)))

    from ucdr_ray.cluster.session import start_ray

    start_ray(_cpus(settings), 200 << 20)
    import ray
    from ray import serve
    from ray.exceptions import RayError

    from serve.app import build

    logging.getLogger("ray.serve").setLevel(logging.ERROR)

    ended = threading.Event()
    try:
        serve.start(http_options={"host": host, "port": chosen})
        serve.run(build(settings), name=_NAME, route_prefix="/", blocking=False)
        for number in (signal.SIGINT, signal.SIGTERM):  # until here they stop the start
            signal.signal(number, lambda *_: ended.set())
        ready(f"http://[{host}]:{chosen}" if ":" in host else f"http://{host}:{chosen}")
        while not ended.wait(1):
            pass
    except (RuntimeError, TimeoutError, RayError) as error:
        raise JobError(f"the service did not start: {' '.join(str(error).split())[-300:]}") from None
    finally:
        serve.shutdown()
        ray.shutdown()


def _cpus(settings: ServiceSettings) -> int:
    """Logical cores for every copy that is there at any time, and some to scale with."""
    needed = settings.replicas.least * settings.replicas.cpus
    needed += settings.encoder.apart * settings.encoder.replicas.least * settings.encoder.replicas.cpus
    from serve.app import parts_of
    from ucdr_ray.index.versions import current, read_manifest

    parts = parts_of(settings, read_manifest(settings.index, current(settings.index)))
    needed += parts * settings.part_replicas.least * settings.part_replicas.cpus
    return max(os.cpu_count() or 1, int(needed) + 1)


def _free(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, port))
        except OSError as error:
            raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; another --port?") from None
        return int(taken.getsockname()[1])
