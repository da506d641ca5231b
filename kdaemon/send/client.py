"""One signed call to the service and its answer: a fast way for PutRecords, and all other calls.

Knows the wire (JSON 1.1 over HTTP). Must not know the AWS libraries (`credentials.py`), shards,
batches, pacing, or whether a failed call is made again: each outcome is an answer or one
`ServiceError`, and the engine decides. A record's life in the daemon ends here.

Invariant: no secret and no data is in an error or a repr. Credentials that are found late, or
never, fail single calls and not the daemon. Whatever breaks before the first byte of a body is
written is `was_sent=False`, so that no record that cannot have been written counts as a possible
duplicate.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from kdaemon.base.description import Caller, StreamTarget
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import KIB, MIB
from kdaemon.base.record import Record
from kdaemon.send import answers
from kdaemon.send.arriving import Answer, HasRoom, Headers, Room
from kdaemon.send.call import Call, always
from kdaemon.send.credentials import Who, import_libraries, told_of
from kdaemon.send.exchange import Exchanges
from kdaemon.send.failures import unforeseen
from kdaemon.send.posts import Traces
from kdaemon.send.proxy import proxy_to
from kdaemon.send.put_call import PutAnswer, PutRequest, read_answer, stream_of
from kdaemon.send.relayed import Relayed, relayed_error, relayed_success
from kdaemon.send.request import Keys, Route
from kdaemon.send.search import Search
from kdaemon.send.settings import ClientSettings
from kdaemon.send.stale import STALE_CREDENTIALS, is_stale
from kdaemon.send.sts import GET_CALLER_IDENTITY, STS_QUESTION, account_in

__all__ = ["ClientSettings", "PutAnswer", "ServiceClient"]

RESULT_BYTES_MAX: Final = 4 * KIB  # ours: of one result; the longest known messages take 2.4 KiB
ANSWER_BYTES_MIN: Final = 64 * KIB  # ours: any answer may have this much, whatever was asked
CONTROL_ANSWER_BYTES_MAX: Final = 2 * MIB  # ours: 1,000 shards take 0.5 MiB; 2026-11-28
# Ours: calls use keys for so long before they ask the keys' source again, which renews keys minutes
# before their end; 2026-11-29.
KEYS_ASKED_S: Final = 1.0
ROUTES_MAX: Final = 512  # ours: prepared pairs of operation and ARN; when full, all are dropped


@dataclass(frozen=True, slots=True)
class Audit:
    """What a client has in hand, for tests."""

    settings: ClientSettings
    exchanges: Exchanges
    search: Search
    routes: tuple[Route, ...]


class _Found:
    """Keys, and whose they are. `until_s`: when to ask their source again, by the loop's clock."""

    __slots__ = ("keys", "until_s", "who")

    def __init__(self, who: Who, keys: Keys, until_s: float) -> None:
        self.who = who
        self.keys = keys
        self.until_s = until_s


class ServiceClient:
    """Makes calls from one daemon to one service: opened once, closed once; calls may overlap.

    Bounds: `connections_max` connections; a call beyond them waits up to `connect_timeout_s` and
    then fails as not sent. A cancelled call closes its connection, and its outcome is unknown.
    """

    __slots__ = (
        *("_access_key", "_exchanges", "_found", "_routes", "_search", "_settings"),
        "on_new_keys",
    )
    is_ready: Final = True

    def __init__(self, settings: ClientSettings, traces: Traces = ()) -> None:
        """Use `open`, but where the AWS libraries are imported already."""
        self._settings = settings
        self._exchanges = Exchanges(settings, traces)
        self._search = Search(settings, self._exchanges)
        self._found: _Found | None = None
        self._routes: dict[tuple[str, str | None], Route] = {}
        self._access_key = ""  # of the route that was prepared last
        self.on_new_keys: Callable[[Caller], object] | None = None

    @classmethod
    async def open(cls, settings: ClientSettings, traces: Traces = ()) -> Self:
        """Imports the AWS libraries (0.1 s, in a thread); makes no call.

        Credentials and endpoint are found by the first call, so that a start does not need them.
        `traces`: are told of each exchange; the daemon has none.
        """
        if settings.is_anonymous and not settings.endpoint_url:
            raise ValueError("is_anonymous needs an endpoint_url")
        await asyncio.to_thread(import_libraries, is_anonymous=settings.is_anonymous)
        return cls(settings, traces)

    def take_limits(self, settings: ClientSettings) -> None:
        """Takes times and the number of connections, for later calls. The address and the
        credentials stay.
        """
        self._settings = limited = self._settings.with_limits_of(settings)
        self._search.take_limits(limited)
        self._exchanges.take_limits(limited)

    async def aclose(self) -> None:
        """Closes all connections. Wait for all calls first: those in flight fail as lost."""
        await self._search.aclose()
        await self._exchanges.aclose()

    def audit(self) -> Audit:
        """Only for tests."""
        routes = tuple(self._routes.values())
        return Audit(self._settings, self._exchanges, self._search, routes)

    def __repr__(self) -> str:
        return f"<ServiceClient {self._settings.name} of {self._settings.service.name}>"

    @property
    def credentials_end_s(self) -> float | None:
        """When the credentials in use end, in seconds since 1970; None: they do not end, or their
        source does not tell.
        """
        who = self._search.found
        ends_at = None if who is None else who.ends_at
        return None if ends_at is None else ends_at.timestamp()

    @property
    def endpoint(self) -> Endpoint:
        """The configured address, whoever gave it; empty before credentials were found."""
        who = self._search.found
        return Endpoint() if who is None else who.rules.configured

    async def caller(self) -> Caller:
        """The account of the credentials, and the region. The account is what the credentials'
        source says; else what the setting says; else what STS says, if there is one to ask. Raises
        `ServiceError`.
        """
        try:
            if self._search.found is None:
                await self._search.again()
            who = self._search.found
            assert who is not None
            await told_of(who.keys())
        except ServiceError as error:
            self._name(error)
            raise
        account = who.account_id or self._settings.account_id
        if account is None and who.rules.may_ask_sts:
            account = await self._ask_sts()
        is_untold = account is None and who.rules.is_beside_stand_in
        return Caller(account or "", who.rules.region or "", is_untold)

    async def _ask_sts(self) -> str:
        """The account, from STS. The call needs no permission, and none can deny it."""
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

        `leave`: asked before the first byte of a body is written; False: nothing is written.

        At most two HTTP requests: the second only if the service refused the credentials of the
        first as stale, and within the same timeout.
        """
        body, headers = await self._put(target, records, leave, is_dry=False)
        return read_answer(body, headers, len(records))

    async def dry_run(self, target: StreamTarget, records: list[Record]) -> ServiceError:
        """What the service says of these records without writing them; DryRunOperationException: it
        would take them. Not for services without `answers_dry_run`.
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

        `target`: the stream of the call. Its ARN may decide the host and the region even if the
        payload does not have the ARN (the second page of a list).
        """
        arn = self._arn_of(target) if target else None
        body, headers = await self._call(operation, arn, payload, CONTROL_ANSWER_BYTES_MAX)
        return answers.members_of(operation, body, headers)

    async def pass_on(
        self,
        operation: str,
        body: bytes,
        arn: str | None,
        bytes_max: int,
        has_room: HasRoom,
    ) -> Relayed:
        """A client's own call, signed anew. Returns the service's answer as it came, but without
        secrets.

        `arn`: of the stream that the call names; it may decide host and region. `has_room`: asked
        for each part of the answer before the part is kept. Raises `ServiceError` if no answer
        came, if the answer is not the service's, or if it has more than `bytes_max`.
        """
        room = Room(bytes_max, has_room)
        arn = arn if self._settings.service.has_arns else None
        answer, error = await self._answer(operation, arn, msgspec.Raw(body), room)
        if error is None:
            return await relayed_success(operation, answer.body, answer.headers)
        if error.trouble is None and not error.is_nameless:
            return relayed_error(error, answer.body, answer.headers)
        raise error

    def _arn_of(self, target: StreamTarget) -> str | None:
        return target.arn if self._settings.service.has_arns else None

    async def _put(
        self,
        target: StreamTarget,
        records: list[Record],
        leave: Callable[[], bool],
        *,
        is_dry: bool,
    ) -> tuple[bytes, Headers]:
        arn = self._arn_of(target)
        name = target.name if arn is None else None
        request = PutRequest(name=name, arn=arn, records=records, is_dry=is_dry)
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
    ) -> tuple[bytes, Headers]:
        """The body and the headers of a 200; any other answer is raised. As `_answer`."""
        room = Room(bytes_max)
        answer, error = await self._answer(operation, arn, request, room, leave, is_put=is_put)
        if error is not None:
            raise error
        return answer.body, answer.headers

    async def _answer(
        self,
        operation: str,
        arn: str | None,
        request: object,
        room: Room,
        leave: Callable[[], bool] = always,
        *,
        is_put: bool = False,
    ) -> tuple[Answer, ServiceError | None]:
        """One call, and a second one if its credentials were stale. Returns the answer, and the
        error for it if it is no success.

        `request`: a value that is encoded as the body, or the body itself. The body is made for
        each exchange, when there is room for it, and freed once it is written: so calls that wait
        for a slow service hold no copy of their records. `is_put`: uses connections of our own.
        """
        exchange = self._exchanges.put if is_put else self._exchanges.post
        call = Call(operation, self._settings.call_timeout_s, leave)
        stream = stream_of(request)
        bodies = self._exchanges.bodies
        try:
            while True:
                found = self._found_at(call.began_s)
                if found is None:
                    found = await call.within(self._find(call))
                route = self._route(found.who, operation, arn, found.keys)
                if stream and not bodies.has_room(stream):
                    call.waits_for = "while the service did not read earlier calls"
                    await call.within(bodies.room(stream))
                call.waits_for = "for a connection"
                answer = await exchange(route, request, stream, room, call)
                if answer.status == 200:
                    return answer, None
                through = route.proxy.shown if route.proxy else None
                error = answers.error_answer(answer.status, answer.body, answer.headers, through)
                if not is_stale(error, has_iam_token=self._settings.has_iam_token):
                    return answer, error
                if call.is_second:
                    return answer, self._of_token(error)
                call.begin_again()
                await call.within(self._renew(found))
        except ServiceError as failure:
            self._name(failure)
            raise

    def _found_at(self, now_s: float) -> "_Found | None":
        """What was found last, if its source need not be asked again yet."""
        found = self._found
        if found is None or now_s >= found.until_s or found.who is not self._search.found:
            return None
        return found

    async def _find(self, call: Call) -> "_Found":
        """The keys of now. Raises `ServiceError`."""
        while True:
            who = self._search.found or await self._search.first()
            try:
                keys = await told_of(who.keys())
            # By STS: the credentials that a role is assumed with.
            except ServiceError as refusal:
                if call.is_second or refusal.code not in STALE_CREDENTIALS:
                    raise
                call.begin_again()
                if self._search.found is who:
                    await self._search.again()
            else:
                until_s = asyncio.get_running_loop().time() + KEYS_ASKED_S
                self._found = found = _Found(who, keys, until_s)
                return found

    def _name(self, error: ServiceError) -> None:
        """Adds the upstream's name to an error of a request that never left, if it is not the
        default one.
        """
        label = self._settings.label
        # Many calls that wait for one search share its error.
        if not (error.was_sent or error.message.startswith(label)):
            error.message = label + error.message

    async def _renew(self, refused: "_Found") -> None:
        """Gets other keys than the refused ones. Raises `ServiceError`."""
        self._found = None
        who = refused.who
        if self._search.found is who and not await who.renew(refused.keys):
            await self._search.again()  # else another call has done so meanwhile

    def _of_token(self, error: ServiceError) -> ServiceError:
        """A refusal of fresh credentials. That of a token mends when its source gives a new one."""
        if self._settings.has_iam_token:
            error.trouble = Trouble.CREDENTIALS
            source = self._settings.iam_token_file or self._settings.iam_token_url
            error.message = f"the IAM token of {source} was refused: {error.message}"
        return error

    def _route(self, who: Who, operation: str, arn: str | None, keys: Keys) -> Route:
        """The prepared request; it is prepared again when the keys have changed."""
        route = self._routes.get((operation, arn))
        if route is None or route.keys is not keys:
            try:
                route = who.route(operation, arn, keys)
                proxy_url = self._settings.proxy_url if who.rules.uses_proxies else ""
                route.lead(who.rules.trust, proxy_to(route.address.url, proxy_url))
            except ServiceError:
                raise
            except Exception as error:  # noqa: BLE001 - settings in unforeseen forms
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
        """Tells of keys at their first use."""
        if keys.access_key == self._access_key:
            return
        self._access_key = keys.access_key
        if self.on_new_keys is not None:
            self.on_new_keys(Caller(who.account_id or "", who.rules.region or ""))
