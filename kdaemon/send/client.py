"""One signed call to the service and its answer: the fast way for PutRecords and for the rest.

Knows the wire (JSON 1.1 over HTTP). Must not know the AWS libraries (`credentials.py`), shards,
batches, pacing, or whether a failed call is made again: each outcome is an answer or one
`ServiceError`, and the engine decides. This is the very end of a record's life here.

Invariant: no secret and no data in an error or a repr; credentials found late, or never, fail
single calls and not the daemon; whatever breaks before the first byte of a body is written is
`was_sent=False`, so that nothing which cannot have been written counts as a possible duplicate.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

import aiohttp
import msgspec

from kdaemon.base.description import Caller, StreamTarget
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import KIB, MIB
from kdaemon.base.record import Record, RecordResult
from kdaemon.send import answers
from kdaemon.send.bodies import Bodies
from kdaemon.send.connector import Connector
from kdaemon.send.credentials import (
    CONTENT_TYPE,
    GET_CALLER_IDENTITY,
    STS_CONTENT_TYPE,
    STS_QUESTION,
    Anonymous,
    Aws,
    account_in,
    canonical,
    credentials_error,
    import_libraries,
    keys_of,
)
from kdaemon.send.proxy import proxy_to
from kdaemon.send.relayed import Relayed, relayed_error, relayed_success
from kdaemon.send.request import Body, Keys, Route
from kdaemon.send.settings import ClientSettings

__all__ = ["ClientSettings", "PutAnswer", "ServiceClient"]

KEEPALIVE_S: Final = 12.0  # seconds an idle connection is kept: aiobotocore 3.10.0's default
ANSWER_BUFFER_BYTES: Final = MIB  # ours: reading is not paused within an ordinary answer
RESULT_BYTES_MAX: Final = 4 * KIB  # ours: of one result; the longest messages known take 2.4 KiB
LARGE_BYTES: Final = 256  # ours: of one result; one that was delivered takes some 115
ANSWER_BYTES_MIN: Final = 64 * KIB  # ours: any answer may have so much, whatever was asked
CONTROL_ANSWER_BYTES_MAX: Final = 2 * MIB  # ours: 1,000 shards take 0.5 MiB; 2026-11-28
ROUTES_MAX: Final = 512  # ours: (operation, ARN) pairs that are prepared; all are dropped when full
STALE_CREDENTIALS: Final = frozenset(  # refused before anything was written; newer ones may pass
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
    }
)
_ENCRYPTIONS: Final = ("NONE", "KMS", None)  # the known ones need no look


def _always() -> bool:
    return True


class _PutByName(
    msgspec.Struct,
    gc=False,
    omit_defaults=True,
    rename={"name": "StreamName", "records": "Records", "is_dry": "DryRun"},
):
    name: str
    records: list[Record]
    is_dry: bool = False


class _PutByArn(
    msgspec.Struct,
    gc=False,
    omit_defaults=True,
    rename={"arn": "StreamARN", "records": "Records", "is_dry": "DryRun"},
):
    arn: str
    records: list[Record]
    is_dry: bool = False


class PutAnswer(
    msgspec.Struct, gc=False, rename={"records": "Records", "encryption_type": "EncryptionType"}
):
    """A result for each record sent, in order (a service out of its contract gives another number),
    and how the stream keeps them: NONE, KMS, None if the service did not say.
    """

    records: list[RecordResult]
    encryption_type: Any = None


class _Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    body: bytes
    headers: answers.Headers


class ServiceClient:
    """Calls from one daemon to one service: opened once, closed once; calls may overlap.

    Bounds: `connections_max` connections; a call beyond them waits up to `connect_timeout_s` and
    then fails as not sent. A cancelled call closes its connection, and its outcome is unknown.
    """

    __slots__ = (
        *("_access_key", "_aws", "_decode", "_encode", "_http", "_loading", "_routes", "_settings"),
        "bodies",
        "on_new_keys",
    )

    def __init__(self, settings: ClientSettings, http: aiohttp.ClientSession) -> None:
        """Use `open`."""
        self._settings = settings
        self._http = http
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(PutAnswer).decode
        self._aws: Aws | Anonymous | None = None  # None: not found yet
        self._loading: asyncio.Task[None] | None = None
        self._routes: dict[tuple[str, str | None], Route] = {}
        self._access_key = ""  # of the last route that was prepared
        self.on_new_keys: Callable[[Caller], None] | None = None
        self.bodies = Bodies()

    @classmethod
    async def open(cls, settings: ClientSettings) -> Self:
        """Imports the AWS libraries (0.1 s, in a thread) and asks nobody anything.

        Credentials and endpoint are found by the first call, so that a start does not need them.
        """
        await asyncio.to_thread(import_libraries, is_anonymous=settings.is_anonymous)
        http = aiohttp.ClientSession(
            connector=Connector(limit=settings.connections_max, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(
                total=None,  # `_call` bounds the whole
                connect=settings.connect_timeout_s,
                sock_connect=settings.connect_timeout_s,
                sock_read=settings.read_timeout_s,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "kdaemon", "Accept-Encoding": "identity"},
            skip_auto_headers=("Accept",),
            auto_decompress=False,
            read_bufsize=ANSWER_BUFFER_BYTES,
            trust_env=False,  # it looks for proxies in a thread on each call; `proxy_to` does once
        )
        return cls(settings, http)

    async def aclose(self) -> None:
        """Closes all connections. Wait for the calls before: those still out fail as lost."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])
        await self._http.close()

    def __repr__(self) -> str:
        return f"<ServiceClient of {self._settings.service.name}>"

    async def caller(self) -> Caller:
        """Whose credentials these are, and where they call: as their source says, else as the
        setting says, else as STS says, if there is one to ask. Raises `ServiceError`.
        """
        if self._aws is None:
            await self.refresh_credentials()
        aws = self._aws
        assert aws is not None
        await keys_of(aws)
        account = aws.account_id or self._settings.account_id
        if account is None and aws.may_ask_sts:
            account = await self._ask_sts()
        is_untold = account is None and aws.is_beside_stand_in
        return Caller(account or "", aws.region or "", is_untold)

    async def _ask_sts(self) -> str:
        """The account. No permission is needed for that, and none can be taken away."""
        try:
            body, _ = await self._call(GET_CALLER_IDENTITY, None, STS_QUESTION, ANSWER_BYTES_MIN)
        except ServiceError as error:
            error.message = f"STS: {error.message}"
            raise
        account = account_in(body)
        if account is None:
            raise answers.unreadable_answer("STS names no account")
        return account

    async def put_records(
        self,
        target: StreamTarget,
        records: list[Record],
        leave: Callable[[], bool] = _always,
    ) -> PutAnswer:
        """One PutRecords call; its results as the service gave them. Raises `ServiceError`.

        `leave`: asked before the first byte of a body is written; False: it is not.

        Not more than two HTTP requests: the second only where the credentials of the first were
        refused as stale, within the same timeout.
        """
        body, headers = await self._put(target, records, leave, is_dry=False)
        try:
            # Before anything is made of them; only of an answer that is larger than any should be.
            if len(body) > LARGE_BYTES * len(records) + 4 * KIB and (
                body.count(b"{") > 8 * len(records) + 64
            ):
                raise answers.unreadable_answer("far more objects than records were sent")
            answer = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # raised below, so that no context carries the answer along
        else:
            answers.clean_results(answer.records)
            if answer.encryption_type not in _ENCRYPTIONS:
                answer.encryption_type = answers.word(answer.encryption_type)
            return answer
        raise answers.no_answer("PutRecords", body, headers)

    async def dry_run(self, target: StreamTarget, records: list[Record]) -> ServiceError:
        """What the service says of these records without writing them: DryRunOperationException if
        it would take them. Not for services without `answers_dry_run`.
        """
        try:
            await self._put(target, records, _always, is_dry=True)
        except ServiceError as error:
            return error.kept()
        return ServiceError(
            "InternalFailure",
            "The service answered a dry run as if it were none: it may have written the records.",
            status=500,
        )

    async def call(
        self, operation: str, payload: dict[str, object], target: StreamTarget | None = None
    ) -> dict[str, Any]:
        """Any other operation, JSON in and out. Raises `ServiceError`.

        `target`: the stream that it concerns, whose ARN may decide the host and the region without
        being in the payload (the second page of a list).
        """
        arn = self._arn_of(target) if target else None
        body, headers = await self._call(operation, arn, payload, CONTROL_ANSWER_BYTES_MAX)
        if not body and not answers.is_page(body, headers):
            return {}
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        raise answers.no_answer(operation, body, headers)

    async def pass_on(
        self,
        operation: str,
        body: bytes,
        arn: str | None,
        bytes_max: int,
        has_room: answers.HasRoom,
    ) -> Relayed:
        """A client's own call, signed anew; the service's answer as it came, but for secrets.

        `arn`: of the stream that it names, which may decide host and region. `has_room`: asked for
        each part of the answer before it is kept. Raises `ServiceError` where no answer came, or
        one that is not the service's, or of more than `bytes_max`.
        """
        room = answers.Room(bytes_max, has_room)
        arn = arn if self._settings.service.has_arns else None
        answer, error = await self._answer(operation, arn, msgspec.Raw(body), room)
        if error is None:
            return await relayed_success(operation, answer.body, answer.headers)
        if error.trouble is None and not error.is_nameless:
            return relayed_error(error, answer.body, answer.headers)
        raise error

    async def refresh_credentials(self) -> None:
        """Looks for credentials, region and endpoint anew; the old ones serve until then.

        Callers at the same time share one search. Raises `ServiceError` (NoCredentials,
        CredentialsError); the old ones then stay.
        """
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name="credentials")
            self._loading.add_done_callback(self._forget_loading)
        await asyncio.shield(self._loading)

    async def _find_credentials(self) -> None:
        """The first search. A call waits for it no longer than for a connection, and fails as not
        sent: a record whose call may leave at any moment cannot be withdrawn, and its client would
        hear that it may have been written. The search goes on, for the calls that follow.
        """
        limit_s = self._settings.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self.refresh_credentials()
        except TimeoutError:
            pass
        else:
            return
        raise ServiceError(
            Trouble.CREDENTIALS,
            f"the search for credentials takes more than {limit_s:g} s: the endpoint of a container"
            " or an instance, a credential process or STS does not answer; try `aws sts"
            " get-caller-identity` as the same user and in the same environment",
            was_sent=False,
        )

    def _forget_loading(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()  # seen: those who waited have it, and perhaps all of them are gone

    async def _load(self) -> None:
        if self._settings.is_anonymous:
            self._aws = Anonymous(self._settings)
            return
        try:
            # In a thread: it reads files and the endpoint rules.
            aws = await asyncio.to_thread(Aws, self._settings)
            await aws.find_credentials()
        except ServiceError:
            raise
        except Exception as error:  # noqa: BLE001 - processes, files and HTTP of others are behind it
            failure = credentials_error(error)
        else:
            self._aws = aws
            return
        raise failure  # here, so that no context carries what a credential process printed

    def _arn_of(self, target: StreamTarget) -> str | None:
        return target.arn if self._settings.service.has_arns else None

    async def _put(
        self,
        target: StreamTarget,
        records: list[Record],
        leave: Callable[[], bool],
        *,
        is_dry: bool,
    ) -> tuple[bytes, answers.Headers]:
        arn = self._arn_of(target)
        request: object = (
            _PutByName(target.name, records, is_dry)
            if arn is None
            else _PutByArn(arn, records, is_dry)
        )
        bytes_max = ANSWER_BYTES_MIN + RESULT_BYTES_MAX * len(records)
        return await self._call("PutRecords", arn, request, bytes_max, leave)

    async def _call(
        self,
        operation: str,
        arn: str | None,
        request: object,
        bytes_max: int,
        leave: Callable[[], bool] = _always,
    ) -> tuple[bytes, answers.Headers]:
        """Returns the 200's body and head; any other answer is raised. As `_answer`."""
        room = answers.Room(bytes_max)
        answer, error = await self._answer(operation, arn, request, room, leave)
        if error is not None:
            raise error
        return answer.body, answer.headers

    async def _answer(
        self,
        operation: str,
        arn: str | None,
        request: object,
        room: answers.Room,
        leave: Callable[[], bool] = _always,
    ) -> tuple[_Answer, ServiceError | None]:
        """One call, and one more if its credentials were stale. Returns what answered it, and what
        that stands for if it is no success.

        `request`: what its body encodes, or the body. The bytes are made for each exchange, when
        there is room for them, and gone once they are written: calls that wait for a slow service
        hold no copy of their records.
        """
        was_sent = False
        waits_for = "in search of credentials"
        stream = _stream_of(request)
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                is_second = False
                while True:
                    if self._aws is None:
                        await self._find_credentials()
                    aws = self._aws
                    assert aws is not None
                    route = self._route(aws, operation, arn, await keys_of(aws))
                    if stream and not self.bodies.has_room(stream):
                        waits_for = "while the service did not read earlier calls"
                        await self.bodies.room(stream)
                    was_sent = True
                    answer = await self._exchange(route, request, aws.trust, room, leave)
                    if answer.status == 200:
                        return answer, None
                    through = route.proxy.shown if route.proxy else None
                    error = answers.error_answer(*answer, through)
                    if is_second or error.code not in STALE_CREDENTIALS:
                        return answer, error
                    was_sent = False
                    is_second = True
                    if self._aws is aws:  # else another call has refreshed them meanwhile
                        await self.refresh_credentials()
        except TimeoutError:
            pass
        state = "" if was_sent else f", most of it {waits_for}"
        limit = f"{operation} took more than {self._settings.call_timeout_s:g} s{state}"
        raise ServiceError(Trouble.CALL_TIMEOUT, limit, was_sent=was_sent)

    async def _exchange(
        self,
        route: Route,
        request: object,
        trust: ssl.SSLContext | bool,
        room: answers.Room,
        leave: Callable[[], bool],
    ) -> _Answer:
        """What answers one signed POST. Raises `ServiceError`."""
        body = self._body_of(request, leave)
        proxy = route.proxy
        try:
            async with self._http.request(
                "POST",
                route.url,
                data=body,
                headers=route.sign(body.unwritten),
                allow_redirects=False,
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
                ssl=trust,
            ) as response:
                read = await answers.read_bounded(response, room)
                return _Answer(response.status, read, response.headers)
        except ServiceError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            is_unwritten = bool(body.unwritten)
            where = route.host if proxy is None else f"{route.host} through {proxy.shown}"
            failure = answers.failure_below_http(error, where, is_unwritten=is_unwritten)
            if body.is_recalled:
                text = f"{where}: nothing was sent while the client waited"
                failure = ServiceError(Trouble.CONNECT_TIMEOUT, text, was_sent=False)
            _empty(error)
        except Exception as error:
            if not body.unwritten:
                raise  # nobody knows what became of it
            setting = "endpoint_url or the credentials" if proxy is None else f"{proxy.shown}"
            failure = _unforeseen(error, f"the request to {route.host}", setting)
        finally:
            body.drop()
        raise failure  # here, so that no context carries the request's headers along

    def _body_of(self, request: object, leave: Callable[[], bool]) -> Body:
        stream = _stream_of(request)
        if isinstance(request, bytes):
            return Body(request, STS_CONTENT_TYPE, leave, self.bodies.add(stream, len(request)))
        try:
            body = self._encode(request)
            return Body(body, CONTENT_TYPE, leave, self.bodies.add(stream, len(body)))
        except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
            pass  # raised below, so that no context carries the data along
        raise ServiceError(
            "SerializationException",
            "a record cannot be written as JSON (a text that is no Unicode?), and is not sent",
            was_sent=False,
            trouble=Trouble.UNENCODABLE,
        )

    def _route(self, aws: Aws | Anonymous, operation: str, arn: str | None, keys: Keys) -> Route:
        """The prepared request; prepared anew when the keys are other ones."""
        route = self._routes.get((operation, arn))
        if route is None or route.keys is not keys:
            try:
                route = self._prepared(aws, operation, arn, keys)
            except ServiceError:
                raise
            except Exception as error:  # noqa: BLE001 - settings in forms that nobody foresaw
                settings = "endpoint_url, the region or the proxy"
                failure = _unforeseen(error, f"a request for {operation}", settings)
            else:
                if len(self._routes) >= ROUTES_MAX:
                    self._routes.clear()
                self._routes[operation, arn] = route
                self._note(aws, keys)
                return route
            raise failure
        return route

    def _note(self, aws: Aws | Anonymous, keys: Keys) -> None:
        """Tells of keys that are used for the first time."""
        if keys.access_key == self._access_key:
            return
        self._access_key = keys.access_key
        if self.on_new_keys is not None:
            self.on_new_keys(Caller(aws.account_id or "", aws.region or ""))

    @staticmethod
    def _prepared(aws: Aws | Anonymous, operation: str, arn: str | None, keys: Keys) -> Route:
        url, region = aws.endpoint(operation, arn)
        signed = canonical(operation, url, region, keys)
        route = Route(url, region, keys, signed)
        if aws.uses_proxies:
            route.go_through(proxy_to(route.url))
        return route


def _stream_of(request: object) -> str:
    """Whose room the body takes: a PutRecords's stream; all other calls are small, and wait for
    none.
    """
    if isinstance(request, _PutByName):
        return request.name
    return request.arn if isinstance(request, _PutByArn) else ""


def _empty(error: BaseException | None) -> None:
    """Takes the frames out of an error that we are done with, and out of those that it came from.
    aiohttp and the connecting below it keep errors in places which those frames know: cycles, and
    with them the call and its records.
    """
    while error is not None:
        error.__traceback__ = None
        cause = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = cause


def _unforeseen(error: Exception, what: str, settings: str) -> ServiceError:
    """A request could not be made, for a reason that is in no table. Without the error's own text,
    which can quote a header.
    """
    return ServiceError(
        Trouble.UNPREPARED,
        f"{what} could not be made ({type(error).__name__}), and nothing was sent: most likely"
        f" {settings} is wrong",
        was_sent=False,
    )
