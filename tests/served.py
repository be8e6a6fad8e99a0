"""The service as a user starts it, seen from outside: real Ray, real HTTP, its processes, clients that go on asking."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ADMIN = "a-token-for-the-admin"
UCDR = Path(sys.executable).with_name("ucdr")


@contextmanager
def served(index: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Address and process id of `ucdr serve`."""
    with _started([str(UCDR), "serve", str(index), "--port", "0", *options]) as (address, process):
        yield address, process.pid


class Service:
    """What `ucdr serve` runs, with settings that it has no option for."""

    def __init__(self, address: str, process: subprocess.Popen[str]) -> None:
        self.address = address
        self.pid = process.pid
        self._process = process

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of its copies."""
        return replicas(self.pid, deployment)

    def running(self, deployment: str) -> int:
        """Copies that Serve calls running."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{deployment}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def serving(index: Path, **settings: Any) -> Iterator[Service]:
    """A service with any settings."""
    words = json.dumps({"index": str(index)} | settings)
    with _started([sys.executable, "-c", _SERVING, words]) as started:
        yield Service(*started)


_SERVING = """
import sys, threading
from serve.local import run
from serve.settings import ServiceSettings

def tell():
    from ray import serve
    for line in sys.stdin:
        deployment = serve.status().applications["ucdr"].deployments[line.strip()]
        print(deployment.replica_states.get("RUNNING", 0), flush=True)

def ready(address):
    print(f"serving at {address}", flush=True)
    threading.Thread(target=tell, daemon=True).start()

run(ServiceSettings.model_validate_json(sys.argv[1]), "127.0.0.1", 0, ready)
"""


@contextmanager
def _started(command: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A process that serves, and where; it ends when it is told to, without an error."""
    for _ in range(3):
        process, said, errors = _start(command)
        if "Ray did not start here" not in errors:  # it gives up after 30 s, which a busy machine may take
            break
    try:
        if " at http://127.0.0.1:" not in said:
            pytest.fail(said + errors)
        yield said.split(" at ")[1].split()[0], process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()


def _start(command: Sequence[str]) -> tuple[subprocess.Popen[str], str, str]:
    """A process, its first line and, where that is not an address, its errors."""
    environment = os.environ | {"UCDR_SERVE_ADMIN_TOKENS": ADMIN, "PYTHONUNBUFFERED": "1"}
    environment.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if line:
            return process, line, ""
        process.wait()
        log.seek(0)
        return process, "", log.read()


def parent(pid: int | str) -> int:
    return int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])


def replicas(service: int, deployment: str) -> list[int]:
    """Process ids of the copies of a deployment: children of the raylet that the service started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            if (
                command.startswith(f"ray::ServeReplica:ucdr:{deployment}")
                and parent(parent(folder.name)) == service
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


class Clients:
    """A closed loop of some clients in threads, and what they got: when, which status (0: none), which answer."""

    def __init__(self, address: str, requests: Sequence[dict[str, Any]], count: int = 4) -> None:
        """
        Args:
            requests: the arguments of each, as httpx takes them; a client repeats one.
        """
        self.answers: list[tuple[float, int, Any]] = []
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(address, requests[number % len(requests)]))
            for number in range(count)
        ]

    def _loop(self, address: str, request: dict[str, Any]) -> None:
        with httpx.Client(base_url=address, timeout=30) as client:
            while not self._done.is_set():
                try:
                    response = client.post("/v1/search", **request)
                    answer = response.status_code, response.json()
                except (httpx.HTTPError, ValueError) as error:
                    answer = 0, repr(error)
                self.answers.append((time.monotonic(), *answer))

    @property
    def statuses(self) -> set[int]:
        """Of all answers so far."""
        return {status for _, status, _ in self.answers}

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
