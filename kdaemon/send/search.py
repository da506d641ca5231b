"""The search for the credentials of one client: begun by the first call, shared, and bounded.

Knows where each kind of credentials is looked for. Must not know calls, or what an answer means:
`client.py` says when another search is due.
Invariant: the last result is used until a search has found another one. Nobody waits for a search
longer than for a connection. Everything that a search starts ends with the client.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.text import printable
from kdaemon.send import answers
from kdaemon.send.arriving import Room
from kdaemon.send.call import always, in_time
from kdaemon.send.credentials import Anonymous, Aws, Who, signed_route, told_of
from kdaemon.send.endpoint_rules import Rules
from kdaemon.send.exchange import Exchanges
from kdaemon.send.proxy import proxy_to
from kdaemon.send.request import Keys
from kdaemon.send.settings import ClientSettings
from kdaemon.send.sts import ASSUME_ROLE

if TYPE_CHECKING:
    from kdaemon.send.iam_token import TokenSource

STS_ANSWER = Room(64 * 1024)  # ours: an answer that lends keys has some 2 KiB; 2026-11-28


class Search:
    """The search, and its last result."""

    def __init__(self, settings: ClientSettings, exchanges: Exchanges) -> None:
        self._settings = settings
        self._exchanges = exchanges
        self.found: Who | None = None
        self._loading: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.token: TokenSource | None = None

    def take_limits(self, settings: ClientSettings) -> None:
        """Takes the times of these settings; the rest of them is the same."""
        self._settings = settings

    async def aclose(self) -> None:
        """Ends everything that runs."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def first(self) -> Who:
        """The result of the first search. A call waits for it no longer than for a connection, and
        then fails as not sent: a record whose call may leave at any moment cannot be withdrawn, so
        its client would be told that the record may have been written. The search goes on, for
        later calls.
        """
        await in_time(self.again(), self._settings.connect_timeout_s, self._too_late)
        assert self.found is not None
        return self.found

    def _too_late(self) -> ServiceError:
        limit_s = self._settings.connect_timeout_s
        text = f"the search for credentials takes more than {limit_s:g} s: {self._suspect()}"
        return ServiceError(Trouble.CREDENTIALS, text, was_sent=False)

    def _suspect(self) -> str:
        """What probably makes the search wait, and what to try."""
        settings = self._settings
        if settings.iam_token_file is not None:
            return f"iam_token_file {printable(settings.iam_token_file, 300)}: is its disk there?"
        if settings.iam_token_url is not None:
            return f"iam_token_url {settings.iam_token_url} does not answer"
        role = f" (which is asked for role_arn {settings.role_arn})" if settings.role_arn else ""
        return (
            "the endpoint of a container or an instance, a credential process or STS"
            f"{role} does not answer; try `aws sts get-caller-identity` as the same user and in the"
            " same environment"
        )

    async def again(self) -> None:
        """Looks for credentials, region and endpoint again. Simultaneous callers share one search.
        Raises `ServiceError`; then the last result stays.
        """
        if self._loading is None:
            self._loading = self._spawn(self._load(), "credentials")
        await asyncio.shield(self._loading)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if task is self._loading:
            self._loading = None
        if not task.cancelled():
            # Marks the error as seen: the callers that waited got it, and all may have gone.
            task.exception()

    async def _load(self) -> None:
        self.found = await told_of(self._look())

    async def _look(self) -> Who:
        # In a thread, since it reads files and the endpoint rules.
        who = await asyncio.to_thread(self._who)
        await who.find_credentials()
        return who

    def _who(self) -> Who:
        settings = self._settings
        if settings.is_anonymous:
            return Anonymous(settings)
        if settings.has_iam_token:
            from kdaemon.send.iam_token import Bearer  # noqa: PLC0415 - only where it is used

            return Bearer(settings, self._token_source())
        if settings.role_arn is not None:
            from kdaemon.send.role import AssumedRole  # noqa: PLC0415 - the same

            return AssumedRole(settings, self._ask_sts, self._spawn)
        return Aws(settings)

    def _token_source(self) -> "TokenSource":
        """One source for the client's whole life, so that a token outlasts a failure of the
        file or the URL.
        """
        from kdaemon.send.iam_token import TokenFile, TokenUrl  # noqa: PLC0415 - as in `_who`

        settings = self._settings
        if self.token is None:
            if settings.iam_token_file is not None:
                self.token = TokenFile(settings.iam_token_file, settings, self._spawn)
            else:
                assert settings.iam_token_url is not None
                http = self._exchanges.posts.http
                self.token = TokenUrl(settings.iam_token_url, settings, self._spawn, http)
        return self.token

    async def _ask_sts(self, rules: Rules, question: bytes, keys: Keys) -> bytes:
        """STS's answer. Raises `ServiceError`."""
        route = signed_route(rules, ASSUME_ROLE, None, keys)
        route.lead(rules.trust, proxy_to(route.address.url, self._settings.proxy_url))
        limit_s = self._settings.call_timeout_s

        def overdue() -> ServiceError:
            text = f"no answer within {limit_s:g} s"
            return ServiceError(Trouble.CALL_TIMEOUT, text, was_sent=False)

        post = self._exchanges.posts.post(route, question, "", STS_ANSWER, always)
        answer = await in_time(post, limit_s, overdue)
        if answer.status == 200:
            return answer.body
        through = route.proxy.shown if route.proxy else None
        raise answers.error_answer(answer.status, answer.body, answer.headers, through)
