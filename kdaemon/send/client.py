"""One signed call to the service and its answer: the fast way for PutRecords and for the rest.

Knows the wire (JSON 1.1 over HTTP) and is the only importer of aiobotocore and botocore: they give
the credentials and their refresh, the region, the endpoint rules, and what exactly is to be signed.
Must not know shards, batches, pacing, or whether a failed call is made again: each outcome is an
answer or one `ServiceError`, and the engine decides. It is the very end of a record's life here.

Two things are ours because of what they cost. No botocore client is built: its session and endpoint
rules alone take 9 MiB and 0.1 s less. And between calls only the date and the body's hash change in
what is signed, so botocore writes the rest once per endpoint and key (`request.py`): 55 us a call
its way, 6 us this way. Measured 2026-11-21, Python 3.11, 2 cores.

Invariant: no secret and no data in an error or a repr; credentials found late, or never, fail
single calls and not the daemon.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import MIB
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.service import AWS, Service
from kdaemon.send import answers
from kdaemon.send.request import STAMP, Body, Canonical, Keys, Route

TARGET_PREFIX: Final = "Kinesis_20131202"  # botocore 1.43.117's service model, 2026-11-21
CONTENT_TYPE: Final = "application/x-amz-json-1.1"  # the same
DATA_OPERATIONS: Final = frozenset(  # the model's OperationType "data"; all others are "control"
    {"PutRecords", "PutRecord", "GetRecords", "GetShardIterator", "SubscribeToShard"}
)
ANONYMOUS_REGION: Final = "us-east-1"  # ours: any would do, nothing checks it
ANONYMOUS_KEYS: Final = Keys("kdaemon-sandbox", "kdaemon-sandbox")  # ours: the same
KEEPALIVE_S: Final = 12.0  # seconds an idle connection is kept: aiobotocore 3.10.0's default
ANSWER_BUFFER_BYTES: Final = MIB  # ours: reading is not paused within an ordinary answer
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


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where and how to call. None: from the AWS environment (variables, profile, instance).

    `endpoint_url` keeps its path (a Yandex database can be in it). Times in seconds:
    `connect_timeout_s` covers the pool, the name, TCP and TLS; `read_timeout_s` a silence after the
    request; `call_timeout_s` one call with all that belongs to it. `connections_max`: at least the
    calls that may be in flight. `is_anonymous` (the sandbox; needs `endpoint_url`): a fixed key,
    no AWS environment, no proxy.
    """

    service: Service = AWS
    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    call_timeout_s: float = 15.0
    connections_max: int = 64
    is_anonymous: bool = False


class _PutByName(msgspec.Struct, gc=False, rename={"name": "StreamName", "records": "Records"}):
    name: str
    records: list[Record]


class _PutByArn(msgspec.Struct, gc=False, rename={"arn": "StreamARN", "records": "Records"}):
    arn: str
    records: list[Record]


class _PutAnswer(msgspec.Struct, gc=False, rename={"records": "Records"}):
    records: list[RecordResult]


class ServiceClient:
    """Calls from one daemon to one service: opened once, closed once; calls may overlap.

    Bounds: `connections_max` connections; a call beyond them waits up to `connect_timeout_s` and
    then fails as not sent. A cancelled call closes its connection, and its outcome is unknown.
    """

    __slots__ = ("_aws", "_decode", "_encode", "_http", "_loading", "_routes", "_settings")

    def __init__(self, settings: ClientSettings, http: aiohttp.ClientSession) -> None:
        """Use `open`."""
        self._settings = settings
        self._http = http
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(_PutAnswer).decode
        self._aws: _Aws | _Anonymous | None = None  # None: not found yet
        self._loading: asyncio.Task[None] | None = None
        self._routes: dict[tuple[str, str | None], Route] = {}

    @classmethod
    async def open(cls, settings: ClientSettings) -> Self:
        """Imports the AWS libraries (0.1 s, in a thread) and asks nobody anything.

        Credentials and endpoint are found by the first call, so that a start does not need them.
        """
        if settings.is_anonymous and not settings.endpoint_url:
            raise ValueError("is_anonymous needs an endpoint_url")
        await asyncio.to_thread(_import_libraries, is_anonymous=settings.is_anonymous)
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.connections_max, keepalive_timeout=KEEPALIVE_S
            ),
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
            trust_env=False,  # it looks for proxies in a thread on each call; `Route` does once
        )
        return cls(settings, http)

    async def aclose(self) -> None:
        """Closes all connections. Wait for the calls before: those still out fail as lost."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])
        await self._http.close()

    async def put_records(self, target: StreamTarget, records: list[Record]) -> list[RecordResult]:
        """Sends `records` in one call and returns what the service said of each, in its order.

        The length is not compared with `records`: the engine does. Raises `ServiceError`; a 200
        that cannot be read is one too (`UnreadableAnswer`): its records may have been written.
        When the service calls the credentials expired, nothing was written: they are refreshed and
        the call is made once more, within the same timeout.
        """
        arn = self._arn_of(target)
        request = _PutByName(target.name, records) if arn is None else _PutByArn(arn, records)
        answer = await self._call("PutRecords", arn, request)
        try:
            return self._decode(answer).records
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass  # raised below, so that no context carries the answer along
        raise answers.unreadable_answer("HTTP 200 whose body is not a PutRecords answer")

    async def call(
        self, operation: str, payload: dict[str, object], target: StreamTarget | None = None
    ) -> dict[str, Any]:
        """Any other operation, JSON in and out. Raises `ServiceError`.

        `target`: the stream that it concerns, whose ARN may decide the host and the region without
        being in the payload (the second page of a list).
        """
        arn = self._arn_of(target) if target else None
        answer = await self._call(operation, arn, payload)
        try:
            return msgspec.json.decode(answer, type=dict[str, Any]) if answer else {}
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        raise answers.unreadable_answer(f"HTTP 200 whose body is not a {operation} answer")

    async def refresh_credentials(self) -> None:
        """Looks for credentials, region and endpoint anew; the old ones serve until then.

        Callers at the same time share one search. Raises `ServiceError` (NoCredentials,
        CredentialsError); the old ones then stay.
        """
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name="credentials")
            self._loading.add_done_callback(self._forget_loading)
        await asyncio.shield(self._loading)

    def _forget_loading(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()  # seen: those who waited have it, and perhaps all of them are gone

    async def _load(self) -> None:
        if self._settings.is_anonymous:
            self._aws = _Anonymous(self._settings)
            return
        try:
            # In a thread: it reads files and the endpoint rules.
            aws = await asyncio.to_thread(_Aws, self._settings)
            await aws.find_credentials()
        except ServiceError:
            raise
        except Exception as error:  # noqa: BLE001 - processes, files and HTTP of others are behind it
            failure = _credentials_error(error)
        else:
            self._aws = aws
            return
        raise failure  # here, so that no context carries what a credential process printed

    def _arn_of(self, target: StreamTarget) -> str | None:
        return target.arn if self._settings.service.has_arns else None

    async def _call(self, operation: str, arn: str | None, request: object) -> bytes:
        """One call, and one more if its credentials were stale. Returns the body of the 200.

        `request`: what its body encodes. The bytes are made for each exchange and gone once they
        are written: calls that wait for a slow service hold their records, and no copy of them.
        """
        was_sent = False
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                is_second = False
                while True:
                    if self._aws is None:
                        await self.refresh_credentials()
                    aws = self._aws
                    assert aws is not None
                    route = self._route(aws, operation, arn, await _keys_of(aws))
                    was_sent = True
                    status, answer, error_type = await self._exchange(route, request, aws.trust)
                    if status == 200:
                        return answer
                    error = answers.error_answer(status, answer, error_type)
                    if is_second or error.code not in STALE_CREDENTIALS:
                        raise error
                    was_sent = False
                    is_second = True
                    if self._aws is aws:  # else another call has refreshed them meanwhile
                        await self.refresh_credentials()
        except TimeoutError:
            pass
        state = "" if was_sent else ", most of it in search of credentials"
        limit = f"{operation} took more than {self._settings.call_timeout_s:g} s{state}"
        raise ServiceError(Trouble.CALL_TIMEOUT, limit, was_sent=was_sent)

    async def _exchange(
        self, route: Route, request: object, trust: ssl.SSLContext | bool
    ) -> tuple[int, bytes, str | None]:
        """HTTP status, body and error type header that answer one signed POST."""
        body = Body(self._encode(request), CONTENT_TYPE)
        try:
            async with self._http.request(
                "POST",
                route.url,
                data=body,
                headers=route.sign(body.unwritten),
                allow_redirects=False,
                proxy=route.proxy_url,
                proxy_headers=route.proxy_headers,
                ssl=trust,
            ) as response:
                answer = await answers.read_bounded(response)
                return response.status, answer, response.headers.get("x-amzn-ErrorType")
        except (aiohttp.ClientError, OSError) as error:
            failure = answers.failure_below_http(error, route.host)
        raise failure  # here, so that no context carries the request's headers along

    def _route(
        self, aws: "_Aws | _Anonymous", operation: str, arn: str | None, keys: Keys
    ) -> Route:
        """The prepared request; prepared anew when the keys are other ones."""
        route = self._routes.get((operation, arn))
        if route is None or route.keys is not keys:
            url, region = aws.endpoint(operation, arn)
            url = _usable(url)
            canonical = _canonical(operation, url, region, keys)
            route = Route(url, region, keys, canonical, uses_proxies=aws.uses_proxies)
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            self._routes[operation, arn] = route
        return route


class _Aws:
    """What the AWS libraries know of this machine: credentials, region, endpoint, trust.

    A refresh replaces it as a whole: botocore reads a profile and the environment only once.
    """

    __slots__ = (
        *("_account_id_mode", "_credentials", "_endpoint_url", "_frozen", "_keys", "_region"),
        *("_rules", "_session", "_use_dualstack", "_use_fips", "trust"),
    )
    uses_proxies: Final = True

    def __init__(self, settings: ClientSettings) -> None:
        """Blocks for some 20 ms. Raises what botocore raises for a profile that it cannot read."""
        from aiobotocore.session import AioSession  # noqa: PLC0415 - see _import_libraries
        from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415 - the same
        from botocore.endpoint_provider import EndpointProvider  # noqa: PLC0415 - the same

        session = AioSession(profile=settings.profile)
        if settings.region:  # for STS too, when a role is assumed
            session.set_config_variable("region", settings.region)
        variable = session.get_config_variable
        endpoint_url = settings.endpoint_url
        if not endpoint_url and not variable("ignore_configured_endpoint_urls"):
            endpoint_url = ConfiguredEndpointProvider(
                session.full_config, session.get_scoped_config(), "kinesis"
            ).provide()
        region = variable("region")
        if settings.service.region is not None:  # one that is meant for AWS would be refused
            region = settings.region or settings.service.region
        endpoint_url = endpoint_url or settings.service.endpoint_url
        loader = session.get_component("data_loader")
        self._rules = EndpointProvider(
            loader.load_service_model("kinesis", "endpoint-rule-set-1"),
            loader.load_data("partitions"),
        )
        self._session = session
        self._credentials: Any = None
        self._frozen: Any = None
        self._keys = ANONYMOUS_KEYS  # replaced by the first `keys`
        self._endpoint_url = endpoint_url
        self._region = region
        self._use_fips = bool(variable("use_fips_endpoint"))
        self._use_dualstack = bool(variable("use_dualstack_endpoint"))
        self._account_id_mode = variable("account_id_endpoint_mode")
        self.trust = _trust(variable("ca_bundle"))

    async def find_credentials(self) -> None:
        """Walks the chain: environment, profile, web identity, SSO, container, instance role."""
        self._credentials = await self._session.get_credentials()
        if self._credentials is None:
            raise ServiceError(
                Trouble.NO_CREDENTIALS,
                "no credentials in the environment, a profile, a web identity, a container or an "
                "instance role: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the key "
                "`profile`, or give the machine a role",
                was_sent=False,
            )

    async def keys(self) -> Keys:
        """The same object until they change. The library refreshes them here, ahead of expiry."""
        frozen = await self._credentials.get_frozen_credentials()
        if frozen != self._frozen:
            self._frozen = frozen
            self._keys = Keys(frozen.access_key, frozen.secret_key, frozen.token, frozen.account_id)
        return self._keys

    def endpoint(self, operation: str, arn: str | None) -> tuple[str, str]:
        """URL and region for a call. Raises `ServiceError` (NoRegion, EndpointError), not sent."""
        region = self._region or (arn or ":::").split(":")[3]
        if not region:
            raise ServiceError(
                Trouble.NO_REGION,
                "no region in the configuration, AWS_DEFAULT_REGION or the profile: set the key "
                "`region`, or name the stream by its ARN",
                was_sent=False,
            )
        if self._endpoint_url:
            return self._endpoint_url, region
        known = {
            "StreamARN": arn,
            "AccountId": self._keys.account_id,
            "AccountIdEndpointMode": self._account_id_mode,
        }
        try:
            resolved = self._rules.resolve_endpoint(
                Region=region,
                UseFIPS=self._use_fips,
                UseDualStack=self._use_dualstack,
                OperationType="data" if operation in DATA_OPERATIONS else "control",
                **{name: value for name, value in known.items() if value},
            )
        except Exception as error:  # noqa: BLE001 - of many kinds, all of them configuration
            raise ServiceError(
                Trouble.ENDPOINT, f"no endpoint for region {region}: {error}", was_sent=False
            ) from None
        return str(resolved.url), region


class _Anonymous:
    """A stand-in for `_Aws` where nobody checks signatures: no AWS library but the signer."""

    __slots__ = ("_endpoint",)
    uses_proxies: Final = False  # the sandbox is on this machine
    trust: Final = True

    def __init__(self, settings: ClientSettings) -> None:
        self._endpoint = (settings.endpoint_url or "", settings.region or ANONYMOUS_REGION)

    async def keys(self) -> Keys:
        return ANONYMOUS_KEYS

    def endpoint(self, _operation: str, _arn: str | None) -> tuple[str, str]:
        return self._endpoint


def _import_libraries(*, is_anonymous: bool) -> None:
    """The imports that cost 0.1 s and 10 MiB; those above that do the same find them done.

    Not at the top, so that listeners are bound first and a sandbox run does without most of them.
    """
    import botocore.auth  # noqa: F401, PLC0415

    if not is_anonymous:
        import aiobotocore.session  # noqa: F401, PLC0415


async def _keys_of(aws: _Aws | _Anonymous) -> Keys:
    try:
        return await aws.keys()
    except Exception as error:  # noqa: BLE001 - a refresh runs others' code: processes, files, HTTP
        failure = _credentials_error(error)
    raise failure


def _credentials_error(error: Exception) -> ServiceError:
    """What kept the credentials away, without what a provider printed: it can hold the secret."""
    fields = getattr(error, "kwargs", {})
    where = [f"{name} {fields[name]}" for name in ("provider", "profile", "path") if name in fields]
    return ServiceError(
        Trouble.CREDENTIALS,
        f"credentials cannot be read: {', '.join([type(error).__name__, *where])}; "
        "try `aws sts get-caller-identity` as the same user and in the same environment",
        was_sent=False,
    )


def _usable(url: str) -> str:
    """`scheme://host[:port]/path`, or a `ServiceError` that says what to correct."""
    parts = urlsplit(url)
    is_plain = not any(character.isspace() or character == "@" for character in url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain:
        raise ServiceError(
            Trouble.ENDPOINT,
            "the endpoint is not of the form http(s)://host[:port][/path]: correct endpoint_url, "
            "AWS_ENDPOINT_URL_KINESIS, AWS_ENDPOINT_URL or the profile",
            was_sent=False,
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path or '/'}"


def _canonical(operation: str, url: str, region: str, keys: Keys) -> Canonical:
    """What SigV4 signs of such a call, by botocore's own rules."""
    from botocore.auth import EMPTY_SHA256_HASH, SigV4Auth  # noqa: PLC0415 - see _import_libraries
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - the same

    headers = {
        "Content-Type": CONTENT_TYPE,
        "X-Amz-Target": f"{TARGET_PREFIX}.{operation}",
        "X-Amz-Date": STAMP,
    }
    if keys.token:
        headers["X-Amz-Security-Token"] = keys.token
    auth = SigV4Auth(keys, "kinesis", region)
    request = AWSRequest("POST", url, headers=headers, data=b"")
    signed = auth.headers_to_sign(request)
    return Canonical(
        text=auth.canonical_request(request).removesuffix(EMPTY_SHA256_HASH),
        signed_names=auth.signed_headers(signed),
        headers=headers | {"Host": signed["host"]},
    )


def _trust(ca_bundle: str | None) -> ssl.SSLContext | bool:
    """Whom to trust: `ca_bundle` alone if set, else the system's store, else botocore's."""
    if ca_bundle:
        return ssl.create_default_context(cafile=ca_bundle)
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return True
    from botocore.httpsession import get_cert_path  # noqa: PLC0415 - see _import_libraries

    return ssl.create_default_context(cafile=get_cert_path(verify=True))
