"""An STS to test with: it checks signatures, trusts whom it is told to, and lends keys."""

import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


def refused(code: str, message: str, status: int = 403) -> web.Response:
    """As STS writes it (AWS documentation, "Common errors", and botocore's parser tests)."""
    text = (
        f'<ErrorResponse xmlns="{NAMESPACE}">\n  <Error>\n    <Type>Sender</Type>\n'
        f"    <Code>{code}</Code>\n    <Message>{escape(message)}</Message>\n  </Error>\n"
        "  <RequestId>c6104cbe-af31-11e0-8154-cbc7ccf896c7</RequestId>\n</ErrorResponse>\n"
    )
    return web.Response(status=status, text=text, content_type="text/xml")


@dataclass(slots=True)
class Sts:
    """`callers`: access key ids and their secrets. `roles`: ARNs and the external id that each
    expects. `lifetimes_s`: of the keys that are lent, in turn; then what is asked for. `answers`:
    given in place of its own, in turn.
    """

    callers: dict[str, str]
    roles: dict[str, str | None]
    region: str = "eu-west-1"
    url: str = ""
    lifetimes_s: deque[float] = field(default_factory=deque)
    answers: deque[web.Response] = field(default_factory=deque)
    asked: list[dict[str, str]] = field(default_factory=list)
    lent: list[tuple[str, str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        fields = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.asked.append(fields)
        if self.answers:
            return self.answers.popleft()
        problem = self._signature_problem(request, body)
        if problem is not None:
            return problem
        role = fields.get("RoleArn", "")
        if self.roles.get(role, "-") != fields.get("ExternalId"):
            who = "User: arn:aws:iam::111111111111:user/base"
            text = f"{who} is not authorized to perform: sts:AssumeRole on resource: {role}"
            return refused("AccessDenied", text)
        duration_s = float(fields["DurationSeconds"])
        return self._lend(role, self.lifetimes_s.popleft() if self.lifetimes_s else duration_s)

    def _signature_problem(self, request: web.Request, body: bytes) -> web.Response | None:
        sent = request.headers["Authorization"]
        key_id = sent.split("Credential=")[1].split("/")[0]
        if key_id not in self.callers:
            return refused("InvalidClientTokenId", "The security token included is invalid.")
        names = sent.split("SignedHeaders=")[1].split(",")[0].split(";")
        signed = AWSRequest(
            "POST", self.url + request.raw_path, headers={n: request.headers[n] for n in names}
        )
        signed.data = body
        signed.context["timestamp"] = request.headers["X-Amz-Date"]
        auth = SigV4Auth(Credentials(key_id, self.callers[key_id]), "sts", self.region)
        right = auth.signature(auth.string_to_sign(signed, auth.canonical_request(signed)), signed)
        if sent.endswith(f"Signature={right}") and f"/{self.region}/sts/aws4_request" in sent:
            return None
        return refused("SignatureDoesNotMatch", "The request signature does not match")

    def _lend(self, role: str, lifetime_s: float) -> web.Response:
        number = len(self.lent) + 1
        keys = (f"ASIALENT{number:08}", f"secret/of+role={number}", f"token-of-the-role/{number}+=")
        self.lent.append(keys)
        ends_at = datetime.now(UTC) + timedelta(seconds=lifetime_s)
        text = (
            f'<AssumeRoleResponse xmlns="{NAMESPACE}">\n  <AssumeRoleResult>\n'
            f"    <AssumedRoleUser><Arn>{role}</Arn></AssumedRoleUser>\n    <Credentials>\n"
            f"      <AccessKeyId>{keys[0]}</AccessKeyId>\n"
            f"      <SecretAccessKey>{keys[1]}</SecretAccessKey>\n"
            f"      <SessionToken>{keys[2]}</SessionToken>\n"
            f"      <Expiration>{ends_at.strftime('%Y-%m-%dT%H:%M:%SZ')}</Expiration>\n"
            "    </Credentials>\n  </AssumeRoleResult>\n</AssumeRoleResponse>\n"
        )
        return web.Response(text=text, content_type="text/xml")


@contextlib.asynccontextmanager
async def sts_stand_in(callers: dict[str, str], roles: dict[str, str | None]) -> AsyncIterator[Sts]:
    sts = Sts(callers, roles)
    app = web.Application()
    app.router.add_post("/", sts.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sts.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield sts
    finally:
        await runner.cleanup()
