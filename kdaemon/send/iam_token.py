"""Yandex's IAM token, which a header carries instead of a signature.

The token is in a file that some other program refreshes, or comes from the machine's metadata
service. Knows both sources, the forms that a token has there, and as much HTTP as the metadata
service needs. Must not know the AWS libraries. Imported only where there is a token, to save the
memory elsewhere. Sources: Yandex Cloud's documents, `yc iam create-token` and "Getting an IAM token
from within a VM"; 2026-11-28.
Invariants: no file is read on the event loop, and a dead mount costs one waiting thread, whatever
the load. A token is registered as a secret before it is used. If a source fails, the token that was
found there before is used until the service refuses it. Each failure is a `ServiceError` that was
not sent, and names the file or the URL.
"""

import asyncio
import logging
import os
import stat
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import msgspec

from kdaemon.base.endpoint import text_problem
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import KIB
from kdaemon.base.redact import SECRETS
from kdaemon.base.text import printable
from kdaemon.send.arriving import Room
from kdaemon.send.call import in_time
from kdaemon.send.connector import in_own_thread
from kdaemon.send.credentials import CONTENT_TYPE, TARGET_PREFIX, Who
from kdaemon.send.endpoint_rules import EndpointRules
from kdaemon.send.failures import failed_below_http
from kdaemon.send.lent import Lent, Spawn
from kdaemon.send.posts import read_bounded
from kdaemon.send.request import Keys, Route
from kdaemon.send.settings import ClientSettings

SUBJECT_HEADER: Final = "X-YaCloud-SubjectToken"  # ydb-platform/ydb, http_req.cpp; 2026-11-28
LOOK_S: Final = 1.0  # ours: the least time between two looks at a file
TOKEN_BYTES_MAX: Final = 32 * KIB  # ours: a token has some 1 KiB, as JSON a little more
METADATA_HEADERS: Final = {"Metadata-Flavor": "Google"}  # without it the service refuses
LIFETIME_MIN_S: Final = 1.0  # ours: a shorter `expires_in` is ignored
LIFETIME_MAX_S: Final = 43_200.0  # ours: a token is good for 12 hours at most
_TOKEN_KEYS: Final = ("access_token", "iam_token", "iamToken")  # metadata; `yc --format json`; API

log = logging.getLogger("kdaemon.send")


class Bearer(Who):
    """Calls Yandex with an IAM token: nothing is signed."""

    def __init__(self, settings: ClientSettings, source: "TokenSource") -> None:
        """Blocks and raises as `EndpointRules` does."""
        super().__init__(EndpointRules(settings))
        self._source = source

    async def keys(self) -> Keys:
        """The same object until the token changes."""
        return await self._source.keys()

    @property
    def ends_at(self) -> datetime | None:
        """When the token in use ends, if its source tells."""
        return self._source.ends_at

    async def renew(self, refused: Keys) -> bool:
        """Looks for another token than this one. Raises `ServiceError`."""
        await self._source.renew(refused)
        return True

    def route(self, operation: str, arn: str | None, keys: Keys) -> Route:
        """The prepared request, with the token in a header. Raises `ServiceError`, not sent."""
        url, _ = self.rules.endpoint(operation, arn, None)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "X-Amz-Target": f"{TARGET_PREFIX}.{operation}",
            SUBJECT_HEADER: keys.token or "",
        }
        return Route(url, keys, headers)


class TokenSource(ABC):
    """A file or a URL."""

    def __init__(self, key: str, place: str, settings: ClientSettings, spawn: Spawn) -> None:
        """`key`: the setting that names the place."""
        self._setting = f"{settings.label}{key} {place}"
        self._owner = f"{settings.name}: token"  # of secrets
        self._limit_s = settings.connect_timeout_s  # of a wait for one look, or one question
        self._spawn = spawn

    @property
    def ends_at(self) -> datetime | None:
        """When the token in use ends; None: the source does not tell."""
        return None

    @abstractmethod
    async def keys(self) -> Keys:
        """The token, as the keys of calls: the same object until the token changes."""

    @abstractmethod
    async def renew(self, refused: Keys) -> None:
        """Looks again at once if `refused`, which the service has refused, is the present token.
        Raises `ServiceError`.
        """

    def _failure(self, problem: object) -> ServiceError:
        text = f"{self._setting} {problem}"
        return ServiceError(Trouble.CREDENTIALS, text, was_sent=False)


class TokenFile(TokenSource):
    """A token in a file. Calls look at the file once in LOOK_S. While the file is unreadable, calls
    use the last token.
    """

    def __init__(self, path: str, settings: ClientSettings, spawn: Spawn) -> None:
        super().__init__("iam_token_file", printable(path, 300), settings, spawn)
        self._path = path
        self._keys: Keys | None = None
        self._seen: tuple[int, ...] | None = None  # what the file was like when the token was read
        self._look_at = 0.0  # by the loop's clock
        self._task: asyncio.Task[None] | None = None
        self._told = ""  # the warning that was logged last

    async def keys(self) -> Keys:
        """The same object until the file has another token."""
        now = asyncio.get_running_loop().time()
        if now < self._look_at and self._keys is not None:
            return self._keys
        if self._task is None:
            self._look_at = now + LOOK_S
            self._task = self._spawn(self._look(), "iam token")
        if self._keys is None:
            await self._awaited(self._task)
            assert self._keys is not None
        return self._keys

    async def renew(self, refused: Keys) -> None:
        """Makes one whole look that begins now: an earlier look may have found an older token."""
        earlier = self._task
        if earlier is not None:
            await asyncio.wait({earlier}, timeout=self._limit_s)
            if self._task is earlier:
                raise self._too_late()
        if self._keys is not refused:
            return
        if self._task is None:
            self._seen = None
            self._task = self._spawn(self._look(), "iam token")
        await self._awaited(self._task)

    async def _awaited(self, task: asyncio.Task[None]) -> None:
        await in_time(asyncio.shield(task), self._limit_s, self._too_late)

    def _too_late(self) -> ServiceError:
        return self._failure(f"is not readable within {self._limit_s:g} s: is its disk there?")

    async def _look(self) -> None:
        try:
            found = await in_own_thread("iam token", lambda: read_token(self._path, self._seen))
            if found is not None:
                self._take(*found)
        except (OSError, ValueError) as error:
            failure = self._failure(_why(error))
        else:
            return
        finally:
            self._task = None
        if self._keys is None:
            raise failure
        self._warn(f"{failure.message}; the token that was there before is used")

    def _take(self, text: bytes, mode: int, seen: tuple[int, ...]) -> None:
        token, _ = _token_in(text)
        SECRETS.register(token, owner=self._owner)
        self._seen = seen
        self._look_at = asyncio.get_running_loop().time() + LOOK_S
        if self._keys is None or self._keys.token != token:
            self._keys = Keys("", "", token)
        if mode & stat.S_IROTH:
            self._warn(f"{self._setting} may be read by every user: chmod o-r takes that away")
        else:
            self._told = ""

    def _warn(self, text: str) -> None:
        """Logs a warning, unless it is the same as the last one."""
        if text != self._told:
            self._told = text
            log.warning("%s", text)


class TokenUrl(TokenSource):
    """A token from the machine's metadata service, renewed before it ends."""

    def __init__(
        self, url: str, settings: ClientSettings, spawn: Spawn, http: aiohttp.ClientSession
    ) -> None:
        super().__init__("iam_token_url", url, settings, spawn)
        self._url = url
        self._http = http
        self._lent = Lent(self._ask, spawn, self._limit_s, self._setting)

    @property
    def ends_at(self) -> datetime | None:
        """As the metadata service told; None: there is no token yet."""
        return self._lent.ends_at

    async def keys(self) -> Keys:
        """The same object until it is renewed."""
        return await self._lent.get()

    async def renew(self, refused: Keys) -> None:
        """Asks once for all calls whose token was refused together."""
        if self._lent.value is refused:
            await self._lent.renewed()

    async def _ask(self) -> tuple[Keys, datetime]:
        try:
            async with (
                asyncio.timeout(self._limit_s),
                self._http.get(
                    self._url, headers=METADATA_HEADERS, allow_redirects=False
                ) as response,
            ):
                text = await read_bounded(response, Room(TOKEN_BYTES_MAX))
                status = response.status
        except ServiceError as error:
            failure = self._failure(f"gave {error.message}")
        except TimeoutError:
            failure = self._failure(f"did not answer within {self._limit_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            below = failed_below_http(error).at("the metadata service")
            failure = self._failure(below.message)
        else:
            return self._keys_in(status, text)
        raise failure

    def _keys_in(self, status: int, text: bytes) -> tuple[Keys, datetime]:
        if status != 200:
            why = "has no service account: attach one" if status == 404 else "gives no token"
            raise self._failure(f"answered HTTP {status}: the machine {why}")
        try:
            token, lifetime_s = _token_in(text)
        except NoTokenError as error:
            raise self._failure(error) from None
        if lifetime_s is None:
            raise self._failure(
                "gave a token without `expires_in`, the seconds that it is good for"
            )
        SECRETS.register(token, owner=self._owner)
        return Keys("", "", token), datetime.now(UTC) + timedelta(seconds=lifetime_s)


def token_file_problem(path: str) -> str | None:
    """Why this file gives no token; None: it gives one. Blocks; for `kdaemon check`."""
    try:
        found = read_token(path, None)
        assert found is not None
        _token_in(found[0])
    except (OSError, ValueError) as error:
        return _why(error)
    return None


class NoTokenError(ValueError):
    """What was read is no token; the text completes "iam_token_file PATH ..."."""


def _why(error: Exception) -> str:
    if isinstance(error, NoTokenError):
        return str(error)
    why = getattr(error, "strerror", None) or type(error).__name__
    return f"cannot be read ({why})"


def read_token(
    path: str, seen: tuple[int, ...] | None
) -> tuple[bytes, int, tuple[int, ...]] | None:
    """Runs in a thread. The file's bytes, its mode, and what it is like; None: it is as `seen`."""
    found = os.stat(path)  # noqa: PTH116 - one look
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "not a regular file")
    is_like = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    if is_like == seen:
        return None
    with open(path, "rb") as file:  # noqa: PTH123 - the same
        return file.read(TOKEN_BYTES_MAX + 1), found.st_mode, is_like


def _token_in(text: bytes) -> tuple[str, float | None]:
    """The token, and for how many seconds it is good, if the text tells. Raises NoTokenError."""
    if len(text) > TOKEN_BYTES_MAX:
        raise NoTokenError(f"has more than {TOKEN_BYTES_MAX} bytes, which no token has")
    try:
        token = text.decode()
    except UnicodeDecodeError:
        raise NoTokenError("has bytes that are no text; expected an IAM token") from None
    lifetime_s: float | None = None
    if token.lstrip()[:1] == "{":
        token, lifetime_s = _of_json(text)
    token = token.removesuffix("\n").removesuffix("\r")
    # Before any error, which must not quote it.
    SECRETS.register(token, token.strip(), *token.split())
    if not token.strip():
        raise NoTokenError("is empty; expected an IAM token")
    if len(token.splitlines()) > 1:
        raise NoTokenError("has several lines; expected an IAM token and nothing else")
    problem = text_problem(token)
    if problem is not None:
        raise NoTokenError(f"{problem}: expected an IAM token and nothing else")
    return token, lifetime_s


def _of_json(text: bytes) -> tuple[str, float | None]:
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = {}
    token = next((found[key] for key in _TOKEN_KEYS if isinstance(found.get(key), str)), None)
    if token is None:
        raise NoTokenError("is JSON without `access_token`; expected an IAM token")
    lifetime_s = found.get("expires_in")
    if not isinstance(lifetime_s, int | float) or not lifetime_s >= LIFETIME_MIN_S:
        return token, None
    return token, min(float(lifetime_s), LIFETIME_MAX_S)
