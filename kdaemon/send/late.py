"""A client whose libraries are loaded once the daemon takes records, not before.

The libraries that calls need (aiohttp, botocore, aiobotocore, and the files here that import them)
are half of what a start would load, and no door needs them: records that come meanwhile are queued
or stored. A daemon that takes over from another one loads them first. A start needs only this of a
client: its settings, and a place where calls wait. Knows `client.py` by name; must not import it
before `Libraries.load`.
Invariants: a call waits for `Libraries.load`, and after that for the end of loading, but no longer
than for a connection. All calls use the one client that is made then. Otherwise a call fails as not
sent.
Where it sits: daemon/reach.py makes both; driver, control and relay call here -> client.py.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kdaemon.base.description import Caller, StreamTarget
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.record import Record
from kdaemon.send.call import in_time
from kdaemon.send.settings import ClientSettings

if TYPE_CHECKING:
    from kdaemon.send.arriving import HasRoom
    from kdaemon.send.client import PutAnswer, ServiceClient
    from kdaemon.send.relayed import Relayed


_NEEDED = ("aiohttp", "botocore")  # by `client.py` and its imports
_NEEDED_WITH_KEYS = ("aiobotocore",)  # see `credentials.import_libraries`


class LoadError(Exception):
    """The operator must act: a part of the installation cannot be loaded."""


class Libraries:
    """The libraries of one process."""

    def __init__(
        self,
        after: Callable[[str | None], object],
        also: Callable[[], object] = lambda: None,
        *,
        is_anonymous: bool = False,
    ) -> None:
        """`after`: is called once: with None when all is loaded, or with why that is impossible,
        for people. `also`: loads other things that can wait; in a thread, once calls can be made.
        `is_anonymous`: for embedded services, which need fewer libraries.
        """
        self._after = after
        self._also = also
        self._is_anonymous = is_anonymous
        self._is_begun = asyncio.Event()
        self._is_loaded = asyncio.Event()
        self._refusal: str | None = None  # why no call can be made
        self.problem: str | None = None  # why some library cannot be loaded
        self._loading: asyncio.Task[None] | None = None

    def look(self, also: Iterable[str] = ()) -> None:
        """Checks that the packages which are loaded later are installed; 1 ms. `also`: the packages
        that the function `also` needs. Raises `LoadError`.
        """
        names = (*_NEEDED, *(() if self._is_anonymous else _NEEDED_WITH_KEYS), *also)
        missing = [name for name in names if find_spec(name) is None]
        if missing:
            raise LoadError(cannot_load(f"there is no {' and no '.join(missing)}"))

    def load(self) -> None:
        """Begins to load, in a thread, so that the loop turns on. A second call does nothing."""
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())
            self._is_begun.set()

    @property
    def is_loaded(self) -> bool:
        """Whether calls can be made, or never will be."""
        return self._is_loaded.is_set()

    async def begun(self) -> None:
        """Returns when `load` was called."""
        await self._is_begun.wait()

    async def wait(self) -> None:
        """Returns when calls can be made. Raises `ServiceError`, not sent."""
        await self._is_loaded.wait()
        if self._refusal is not None:
            raise ServiceError(Trouble.UNPREPARED, self._refusal, was_sent=False)

    async def load_all(self) -> None:
        """Returns when everything is loaded. Raises `LoadError`."""
        self.load()
        await self._over()
        if self.problem is not None:
            raise LoadError(self.problem)

    async def aclose(self) -> None:
        """Stops loading without waiting for its thread, which ends with the process."""
        if self._loading is not None:
            self._loading.cancel()
        await self._over()

    async def _over(self) -> None:
        if self._loading is not None:  # a waiter that is cancelled leaves the loading alone
            await asyncio.wait({self._loading})

    async def _load(self) -> None:
        import_libraries = partial(import_them, is_anonymous=self._is_anonymous)
        self.problem = self._refusal = await _problem_of(import_libraries)
        self._is_loaded.set()
        if self.problem is None:
            self.problem = await _problem_of(self._also)
        self._after(self.problem)


async def _problem_of(load: Callable[[], object]) -> str | None:
    """Calls `load` in a thread. Returns why it failed, for people; None: it did not."""
    try:
        await asyncio.to_thread(load)
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        return cannot_load(f"{type(error).__name__}: {error}")
    return None


def cannot_load(why: str) -> str:
    """The text of a `LoadError`, for people."""
    return (
        f"a part of kdaemon cannot be loaded ({why}): install kdaemon anew, with its dependencies"
    )


def import_them(*, is_anonymous: bool) -> None:
    import kdaemon.send.client  # noqa: F401, PLC0415 - brings aiohttp
    from kdaemon.send.credentials import import_libraries  # noqa: PLC0415 - the same

    import_libraries(is_anonymous=is_anonymous)


class LateClient:
    """Calls as `ServiceClient` does, whose methods these are."""

    def __init__(self, settings: ClientSettings, libraries: Libraries) -> None:
        self._settings = settings
        self._libraries = libraries
        self._client: ServiceClient | None = None
        self.on_new_keys: Callable[[Caller], object] | None = None

    def __repr__(self) -> str:
        return f"<LateClient {self._settings.name} of {self._settings.service.name}>"

    def take_limits(self, settings: ClientSettings) -> None:
        self._settings = self._settings.with_limits_of(settings)
        if self._client is not None:
            self._client.take_limits(settings)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    @property
    def is_ready(self) -> bool:
        return self._libraries.is_loaded

    def audit(self) -> "ServiceClient | None":
        """The client, if it is loaded. Only for tests."""
        return self._client

    @property
    def credentials_end_s(self) -> float | None:
        return None if self._client is None else self._client.credentials_end_s

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint() if self._client is None else self._client.endpoint

    async def caller(self) -> Caller:
        client = self._client or await self._loaded()
        return await client.caller()

    async def put_records(
        self, target: StreamTarget, records: list[Record], leave: Callable[[], bool]
    ) -> "PutAnswer":
        client = self._client or await self._loaded()
        return await client.put_records(target, records, leave)

    async def dry_run(self, target: StreamTarget, records: list[Record]) -> ServiceError:
        client = self._client or await self._loaded()
        return await client.dry_run(target, records)

    async def call(
        self, operation: str, payload: dict[str, object], target: StreamTarget | None = None
    ) -> dict[str, Any]:
        client = self._client or await self._loaded()
        return await client.call(operation, payload, target)

    async def pass_on(
        self, operation: str, body: bytes, arn: str | None, bytes_max: int, has_room: "HasRoom"
    ) -> "Relayed":
        client = self._client or await self._loaded()
        return await client.pass_on(operation, body, arn, bytes_max, has_room)

    async def _loaded(self) -> "ServiceClient":
        await self._wait()
        if self._client is None:  # no other task runs from here on
            from kdaemon.send.client import ServiceClient  # noqa: PLC0415 - it is loaded

            self._client = ServiceClient(self._settings)
            self._client.on_new_keys = self._new_keys
        return self._client

    async def _wait(self) -> None:
        """Waits for the libraries. Once they are being loaded, it waits no longer than for a
        connection: a call that may leave at any moment cannot be withdrawn. Before that there is no
        client, and the start may take its time.
        """
        await self._libraries.begun()
        limit_s = self._settings.connect_timeout_s
        text = f"the libraries for calls are not loaded after {limit_s:g} s: is the disk slow?"
        late = ServiceError(Trouble.CONNECT_TIMEOUT, text, was_sent=False)
        await in_time(self._libraries.wait(), limit_s, lambda: late)

    def _new_keys(self, caller: Caller) -> None:
        if self.on_new_keys is not None:
            self.on_new_keys(caller)
