"""One signed call to the service and its answer: the fast way for PutRecords and for the rest.

Knows the wire (JSON 1.1 over HTTP). Must not know the AWS libraries (`credentials.py`), shards,
batches, pacing, or whether a failed call is made again: each outcome is an answer or one
`ServiceError`, and the engine decides. This is the very end of a record's life here.

Invariant: no secret and no data in an error or a repr; credentials found late, or never, fail
single calls and not the daemon; whatever breaks before the first byte of a body is written is
`was_sent=False`, so that nothing which cannot have been written counts as a possible duplicate.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import aiohttp
import msgspec

from kdaemon.base.description import Caller, StreamTarget
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import KIB, MIB
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.record import Record, RecordResult
from kdaemon.send import answers
from kdaemon.send.bodies import Bodies
from kdaemon.send.credentials import Who, import_libraries, keys_of
from kdaemon.send.exchange import Exchanges, always, http_session, unforeseen
from kdaemon.send.proxy import proxy_to
from kdaemon.send.relayed import Relayed, relayed_error, relayed_success
from kdaemon.send.request import Keys, Route
from kdaemon.send.search import Search
from kdaemon.send.settings import ClientSettings
from kdaemon.send.sts import GET_CALLER_IDENTITY, STS_QUESTION, account_in

__all__ = ["ClientSettings", "PutAnswer", "ServiceClient"]

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
STALE_TOKEN: Final = frozenset(  # as those above, of Yandex's IAM token
    {
        *("Unauthenticated", "UnauthenticatedException", "NotAuthenticated", "AuthFailure"),
        *("Unauthorized", "UnauthorizedException", "InvalidToken", "InvalidTokenException"),
    }
)
DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException"})  # stale only if its text says
_speaks_of_token: Final = re.compile(r"\btoken\b|expired", re.IGNORECASE).search
_ENCRYPTIONS: Final = ("NONE", "KMS", None)  # the known ones need no look


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


class ServiceClient:
    """Calls from one daemon to one service: opened once, closed once; calls may overlap.

    Bounds: `connections_max` connections; a call beyond them waits up to `connect_timeout_s` and
    then fails as not sent. A cancelled call closes its connection, and its outcome is unknown.
    """

    __slots__ = (
        *("_access_key", "_decode", "_exchanges", "_routes", "_search", "_settings"),
        "on_new_keys",
    )
    is_ready: Final = True

    def __init__(self, settings: ClientSettings, http: aiohttp.ClientSession) -> None:
        """Use `open`."""
        self._settings = settings
        self._exchanges = Exchanges(settings, http)
        self._search = Search(settings, self._exchanges)
        self._decode = msgspec.json.Decoder(PutAnswer).decode
        self._routes: dict[tuple[str, str | None], Route] = {}
        self._access_key = ""  # of the last route that was prepared
        self.on_new_keys: Callable[[Caller], object] | None = None

    @classmethod
    async def open(
        cls, settings: ClientSettings, traces: Sequence[aiohttp.TraceConfig] = ()
    ) -> Self:
        """Imports the AWS libraries (0.1 s, in a thread) and asks nobody anything.

        Credentials and endpoint are found by the first call, so that a start does not need them.
        `traces`: hear of each exchange; the daemon has none.
        """
        if settings.is_anonymous and not settings.endpoint_url:
            raise ValueError("is_anonymous needs an endpoint_url")
        await asyncio.to_thread(import_libraries, is_anonymous=settings.is_anonymous)
        return cls.over_http(settings, traces)

    @classmethod
    def over_http(
        cls, settings: ClientSettings, traces: Sequence[aiohttp.TraceConfig] = ()
    ) -> Self:
        """The same, where the AWS libraries are there already."""
        return cls(settings, http_session(settings, traces))

    def take_limits(self, settings: ClientSettings) -> None:
        """Times and the number of connections, for the calls to come. Where and as whom is called
        stays as it is.
        """
        self._settings = limited = self._settings.with_limits_of(settings)
        self._search.take_limits(limited)
        self._exchanges.take_limits(limited)

    async def aclose(self) -> None:
        """Closes all connections. Wait for the calls before: those still out fail as lost."""
        await self._search.aclose()
        await self._exchanges.aclose()

    @property
    def bodies(self) -> Bodies:
        """The memory of bodies that are not yet written."""
        return self._exchanges.bodies

    def audit(self) -> Exchanges:
        """Its connections, and who waits for one. For tests; nothing else asks."""
        return self._exchanges

    def __repr__(self) -> str:
        return f"<ServiceClient {self._settings.name} of {self._settings.service.name}>"

    @property
    def credentials_end_s(self) -> float | None:
        """When those in use end, in seconds since 1970; None: they do not, or nobody tells."""
        who = self._search.found
        ends_at = None if who is None else who.ends_at
        return None if ends_at is None else ends_at.timestamp()

    async def caller(self) -> Caller:
        """Whose credentials these are, and where they call: as their source says, else as the
        setting says, else as STS says, if there is one to ask. Raises `ServiceError`.
        """
        try:
            if self._search.found is None:
                await self._search.again()
            who = self._search.found
            assert who is not None
            await keys_of(who)
        except ServiceError as error:
            self._name(error)
            raise
        account = who.account_id or self._settings.account_id
        if account is None and who.may_ask_sts:
            account = await self._ask_sts()
        is_untold = account is None and who.is_beside_stand_in
        return Caller(account or "", who.region or "", is_untold)

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
        leave: Callable[[], bool] = always,
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
            await self._put(target, records, always, is_dry=True)
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
        await self._search.again()

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
        return await self._call("PutRecords", arn, request, bytes_max, leave, is_put=not is_dry)

    async def _call(
        self,
        operation: str,
        arn: str | None,
        request: object,
        bytes_max: int,
        leave: Callable[[], bool] = always,
        *,
        is_put: bool = False,
    ) -> tuple[bytes, answers.Headers]:
        """Returns the 200's body and head; any other answer is raised. As `_answer`."""
        room = answers.Room(bytes_max)
        answer, error = await self._answer(operation, arn, request, room, leave, is_put=is_put)
        if error is not None:
            raise error
        return answer.body, answer.headers

    async def _answer(
        self,
        operation: str,
        arn: str | None,
        request: object,
        room: answers.Room,
        leave: Callable[[], bool] = always,
        *,
        is_put: bool = False,
    ) -> tuple[answers.Answer, ServiceError | None]:
        """One call, and one more if its credentials were stale. Returns what answered it, and what
        that stands for if it is no success.

        `request`: what its body encodes, or the body. The bytes are made for each exchange, when
        there is room for them, and gone once they are written: calls that wait for a slow service
        hold no copy of their records. `is_put`: over connections of our own.
        """
        exchange = self._exchanges.put if is_put else self._exchanges.post
        was_sent = False

        def leaving() -> bool:
            nonlocal was_sent
            was_sent = leave()
            return was_sent

        waits_for = "in search of credentials"
        stream = _stream_of(request)
        bodies = self._exchanges.bodies
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                is_second = False
                while True:
                    who = self._search.found or await self._search.first()
                    try:
                        keys = await keys_of(who)
                    except ServiceError as refusal:  # by STS, of what a role is assumed with
                        if is_second or refusal.code not in STALE_CREDENTIALS:
                            raise
                        is_second = True
                        if self._search.found is who:
                            await self._search.again()
                        continue
                    route = self._route(who, operation, arn, keys)
                    if stream and not bodies.has_room(stream):
                        waits_for = "while the service did not read earlier calls"
                        await bodies.room(stream)
                    waits_for = "for a connection"
                    answer = await exchange(route, request, stream, who.trust, room, leaving)
                    if answer.status == 200:
                        return answer, None
                    through = route.proxy.shown if route.proxy else None
                    error = answers.error_answer(*answer, through)
                    if not self._is_stale(error):
                        return answer, error
                    if is_second:
                        return answer, self._of_token(error)
                    was_sent = False
                    waits_for = "in search of credentials"
                    is_second = True
                    await self._renew(who, keys)
        except TimeoutError:
            pass
        except ServiceError as failure:
            self._name(failure)
            raise
        state = "" if was_sent else f", and was not sent: at last it waited {waits_for}"
        limit = f"{operation} took more than {self._settings.call_timeout_s:g} s{state}"
        raise ServiceError(Trouble.CALL_TIMEOUT, limit, was_sent=was_sent)

    def _name(self, error: ServiceError) -> None:
        """Says of what never left which upstream is meant, where there are several."""
        label = f"upstream {self._settings.name}: "
        if self._settings.name == DEFAULT_UPSTREAM or error.was_sent:
            return
        if not error.message.startswith(label):  # of many who wait for one search, one says so
            error.message = label + error.message

    def _is_stale(self, error: ServiceError) -> bool:
        """Whether newer credentials may pass: refused before anything was written."""
        if error.code in STALE_CREDENTIALS:
            return True
        if not self._settings.has_iam_token:
            return False
        is_denied = error.code in DENIED and _speaks_of_token(error.message) is not None
        return is_denied or error.code in STALE_TOKEN or error.status == 401

    async def _renew(self, who: Who, refused: Keys) -> None:
        """Other keys than those that were refused. Raises `ServiceError`."""
        if self._search.found is who and not await who.renew(refused):
            await self._search.again()  # else another call has done it meanwhile

    def _of_token(self, error: ServiceError) -> ServiceError:
        """A refusal that stays. One of a token passes when whoever refreshes the token does."""
        if self._settings.has_iam_token:
            error.trouble = Trouble.CREDENTIALS
            place = self._settings.iam_token_file or self._settings.iam_token_url
            error.message = f"the IAM token of {place} was refused: {error.message}"
        return error

    def _route(self, who: Who, operation: str, arn: str | None, keys: Keys) -> Route:
        """The prepared request; prepared anew when the keys are other ones."""
        route = self._routes.get((operation, arn))
        if route is None or route.keys is not keys:
            try:
                route = who.route(operation, arn, keys)
                if who.uses_proxies:
                    route.go_through(proxy_to(route.url, self._settings.proxy_url))
            except ServiceError:
                raise
            except Exception as error:  # noqa: BLE001 - settings in forms that nobody foresaw
                settings = "endpoint_url, the region or the proxy"
                failure = unforeseen(error, f"a request for {operation}", settings)
            else:
                if len(self._routes) >= ROUTES_MAX:
                    self._routes.clear()
                self._routes[operation, arn] = route
                self._note(who, keys)
                return route
            raise failure
        return route

    def _note(self, who: Who, keys: Keys) -> None:
        """Tells of keys that are used for the first time."""
        if keys.access_key == self._access_key:
            return
        self._access_key = keys.access_key
        if self.on_new_keys is not None:
            self.on_new_keys(Caller(who.account_id or "", who.region or ""))


def _stream_of(request: object) -> str:
    """Whose room the body takes: a PutRecords's stream; all other calls are small, and wait for
    none.
    """
    if isinstance(request, _PutByName):
        return request.name
    return request.arn if isinstance(request, _PutByArn) else ""
