"""Clients that each wait for an answer before they ask again, from a process of their own."""

import json
import multiprocessing
import selectors
import socket
import time

import numpy as np

K, BATCH = 10, 256


def load(port: int, queries: np.ndarray, clients: int, seconds: float, batched: bool) -> list[float]:
    """Seconds of each request of a closed loop, from a process of its own."""
    here, there = multiprocessing.get_context("spawn").Pipe(False)
    worker = multiprocessing.get_context("spawn").Process(
        target=closed_loop, args=(there, port, queries, clients, seconds, batched)
    )
    worker.start()
    there.close()
    took: list[float] = here.recv()
    worker.join()
    return took


def closed_loop(out, port: int, queries: np.ndarray, clients: int, seconds: float, batched: bool) -> None:  # type: ignore[no-untyped-def]
    """Clients that each wait for an answer before they ask again."""
    rows = [[round(float(value), 6) for value in query] for query in queries]
    if batched:
        bodies = [
            json.dumps({"vectors": [rows[(start + n) % len(rows)] for n in range(BATCH)], "k": K}).encode()
            for start in range(0, 4 * BATCH, BATCH)
        ]
        path = "/v1/search:batch"
    else:
        bodies = [json.dumps({"vector": row, "k": K}).encode() for row in rows]
        path = "/v1/search"
    asked = [
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]
    # One thread for all clients: threads of their own would take more of the machine than the service does.
    took, selector, end = [], selectors.DefaultSelector(), time.perf_counter() + seconds
    for number in range(clients):
        line = socket.create_connection(("127.0.0.1", port))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(line, number * 17)
        selector.register(line, selectors.EVENT_READ, client)
        client.ask(asked)
    under_way = clients
    while under_way:
        for key, _ in selector.select():
            client = key.data
            if client.heard():
                took.append(time.perf_counter() - client.started)
                if time.perf_counter() < end:
                    client.ask(asked)
                else:
                    under_way -= 1
    out.send(took)


class Client:
    """One connection, with one request under way."""

    def __init__(self, line: socket.socket, place: int) -> None:
        self.line = line
        self.place = place
        self.started = 0.0
        self.parts: list[bytes] = []
        self.missing: int | None = None  # bytes of the answer; None while its length is not known

    def ask(self, asked: list[bytes]) -> None:
        """Send the next request."""
        self.started = time.perf_counter()
        self.parts, self.missing = [], None
        self.line.sendall(asked[self.place % len(asked)])
        self.place += 1

    def heard(self) -> bool:
        """Read what came; whether the answer is whole. Raises where it is not a 200."""
        if not (more := self.line.recv(1 << 20)):
            raise ConnectionError("closed")
        self.parts.append(more)
        if self.missing is not None:
            self.missing -= len(more)
        else:
            text = b"".join(self.parts)
            head, found, body = text.partition(b"\r\n\r\n")
            if found:
                if b" 200 " not in head[:20]:
                    raise RuntimeError(text.decode(errors="replace")[:500])
                rows = head.lower().split(b"\r\n")
                self.missing = next(
                    int(row[15:]) for row in rows if row.startswith(b"content-length:")
                ) - len(body)
        return self.missing == 0
