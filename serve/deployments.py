"""The service as Ray Serve runs it: thin shells around `service.py`, `router.py`, `part.py` and `encoding.py`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve.access import Tokens
from serve.api import make_app
from serve.batching import Batcher, hurried
from serve.encoding import Encoders, Encoding, Here, Input, encoded, together
from serve.host import Host, problem_of
from serve.library import Library
from serve.looking import Column, Row, Searcher, Wish
from serve.measures import Measures
from serve.refusal import Refusal, no_version
from serve.router import Router
from serve.service import Service
from serve.settings import ServiceSettings
from serve.watching import Watcher
from serve.whole import Whole
from ucdr_ray.errors import UserError

_LOADING_S = 600  # that taking up a version may take
_HELD_S = 0.5  # after which pictures that an encoder is slow with do not keep others waiting


@serve.ingress()
class Ingress:
    """Answers HTTP. Holds the whole index, or asks the parts."""

    def __init__(
        self,
        settings: dict[str, Any],
        tokens: Tokens,
        admin: Tokens,
        parts: Sequence[DeploymentHandle] = (),
        encoder: DeploymentHandle | None = None,
    ) -> None:
        self._settings = ServiceSettings.model_validate(settings)
        self._tokens, self._admin = tokens, admin
        path, cpus = self._settings.index, self._settings.replicas.cpus
        replica = serve.get_replica_context()
        self._measures = Measures(replica.replica_id.unique_id)
        here = Here(self._settings.encoder.batch, max(1, int(cpus))) if encoder is None else None
        prepare = here.encoders.of if here is not None else None
        encoding: Encoding = here or Apart(encoder, self._settings.encoder.batch)
        strict = self._settings.when_down == "strict"
        searcher: Searcher = (
            Router(path, [RemotePart(part) for part in parts], strict, prepare)
            if parts
            else Whole(path, max(1, int(cpus)), prepare)
        )
        self._own = serve.get_deployment_handle(replica.deployment, replica.app_name)
        self._service = Service(self._settings, searcher, encoding, self._measures, self._reload_all)
        self._watcher = Watcher(path, self._settings.watch_s, self.refresh)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        self._watcher.start()
        return make_app(self._settings, self._service, self._tokens, self._admin, self._measures)

    async def refresh(self) -> str:
        """Take up the version in use, in this copy."""
        return await self._service.refresh()

    async def take_up(self) -> str | None:
        """See `serve.host.Host`."""
        return await problem_of(self.refresh())

    async def _reload_all(self) -> str:
        if not await _taken_up(self._own):
            raise Refusal(503, "a copy of the service died meanwhile; try again", 1)
        return await self.refresh()


class RemotePart:
    """A `serve.router.Part` behind a handle. Asks once more where a copy died with the question."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def search(
        self, version: str, vectors: np.ndarray, wishes: list[Wish]
    ) -> list[dict[str, Column]] | None:
        return await _again(lambda: self._handle.search.remote(version, vectors, wishes))

    async def row(self, version: str, id_: str, domain: str | None) -> Row | None:
        return await _again(lambda: self._handle.row.remote(version, id_, domain))

    async def refresh(self) -> None:
        await _taken_up(self._handle)

    async def version(self) -> str:
        return await self._handle.version.remote()


async def _taken_up(handle: DeploymentHandle) -> bool:
    """Whether every copy lived to take up the version in use. Raises UserError, or Refusal, where one can't."""
    answers = await handle.broadcast("take_up").results_async(timeout_s=_LOADING_S, return_exceptions=True)
    # A copy that died must not hide what another one found.
    for answer in answers:
        if isinstance(answer, str):
            raise UserError(answer)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    if not all(isinstance(answer, RayActorError) for answer in failed):
        raise Refusal(503, "a copy of the service cannot take up the version in use; its log says why", 1)
    return not failed


async def _again(call: Any) -> Any:
    try:
        return await call()
    except (RayActorError, BackPressureError):
        return await call()


class EncoderHost(Host):
    """Encodes for every ingress."""

    def __init__(self, path: Path, watch_s: float, gpus: float, cpus: float) -> None:
        self._encoders = Encoders("cuda" if gpus else "cpu", max(1, int(cpus)))
        super().__init__(path, watch_s, Library(path, lambda manifest: [], self._encoders.of))

    async def encode(
        self, version: str, model: str, contents: np.ndarray | list[str]
    ) -> list[np.ndarray | str] | None:
        """As `Encoders.encode`, by the version's model; None where this copy does not have it.

        Args:
            model: its fingerprint; any version of it will do.
        """
        index = self.held(version) or self.of_model(model)
        if index is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._encoders.encode, index, contents
        )


class Apart:
    """An `Encoding` in a deployment of its own."""

    def __init__(self, handle: DeploymentHandle, batch: int) -> None:
        self._handle = handle
        self._batcher: Batcher[Input, np.ndarray] = Batcher(
            self._run,
            batch,
            at_once=2,
            held_s=_HELD_S,
            key=lambda one: (one.index.version, one.kind, hurried(one.deadline)),
        )

    async def encode(self, inputs: Sequence[Input]) -> list[np.ndarray]:
        return await self._batcher.ask(inputs)

    async def prepare(self) -> None:
        await _taken_up(self._handle)

    async def missing(self) -> list[str]:
        try:
            await asyncio.wait_for(self._handle.version.remote(), 1)
        except Exception:  # whatever keeps it from answering
            return ["the encoder"]
        return []

    async def _run(self, batch: list[Input]) -> list[np.ndarray | Exception]:
        loop = asyncio.get_running_loop()
        version, model = batch[0].index.version, batch[0].index.manifest.model.fingerprint
        contents = together(batch)
        end = min(one.deadline for one in batch)
        while loop.time() < end:
            try:
                found = await asyncio.wait_for(
                    _again(lambda: self._handle.encode.remote(version, model, contents)), end - loop.time()
                )
            except (RayActorError, BackPressureError, TimeoutError):
                raise Refusal(503, "the encoder does not answer; try again later", 1) from None
            if found is not None:
                return encoded(found)
            await asyncio.sleep(0.05)
        return [no_version(version)] * len(batch)
