"""What an HTTP answer says; one that is no success, as a `ServiceError` that people can be shown.

Knows HTTP answers; knows nothing of AWS libraries, signing or retries, nor why no answer came
(`failures.py`). `client.py` uses it for each answer.
Invariant: no text that leaves here has a secret or a part of a record. The services do repeat both:
a ValidationException quotes a refused key, and an InvalidSignatureException repeats the signed
headers, with the session token.
"""

import html
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.limits import KIB
from kdaemon.base.record import RecordResult
from kdaemon.base.redact import SECRETS, masked_url
from kdaemon.base.text import printable
from kdaemon.send.arriving import Headers

PAGE_BYTES_MAX: Final = 4 * KIB  # ours: of a web page, which is searched for its title
# Ours: different texts of the records of one answer; more are not shown.
RESULT_TEXTS_MAX: Final = 64
RESULT_TEXT_CHARACTERS_MAX: Final = 1024  # ours: of each such text
TITLE_CHARACTERS_MAX: Final = 120  # ours: of a page's title, and of a redirect's target
RETRY_AFTER_NS_MAX: Final = 3_600_000_000_000.0  # ours: 1 h; the engine waits far less
# Ours: replaces the code of a record if that code cannot be repeated.
UNREADABLE_CODE: Final = "UnreadableCode"
# Ours: of a text; in a longer one nobody looks for quotes, and it is not shown.
TEXT_CHARACTERS_MAX: Final = 8192
MESSAGE_CHARACTERS_MAX: Final = 600  # ours: an AccessDenied names two ARNs and a reason
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,99}")  # ours: a `__type` that may be repeated

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")  # a UUID; Yandex puts ours behind its own

# These mean the same, whoever answers: the service, a proxy or a gateway.
PASSING: Final = frozenset({408, 413, 429})
_TITLE: Final = re.compile(r"<(?:title|h1)\b[^>]{0,200}>([^<]{1,400})<", re.IGNORECASE)
_XML_ERROR: Final = b"<ErrorResponse"  # STS's model (protocol query), 2026-11-28
# The services quote what they were sent. Each row: where a quote begins, where it ends, and the
# text that is shown instead. Sources, as of 2026-11-21: AWS's constraint texts, kinesalite's
# answers, ydb-platform/ydb `datastreams/put_records_actor.h`. A client chooses the quoted text, so
# no pattern may start again at each place of a text (`'.*?' can` takes half a second for 8 KiB of
# quotes).
_END: Final = re.compile(r"\Z")
_ECHOES: Final = (
    ("Value ", re.compile(r" at '(?=[\w.]{1,200}' failed)"), "Value (not shown) at '"),
    ("Specified value was ", _END, "Specified value is not shown"),
    ("Partition key is too long: ", _END, "Partition key is too long"),
    ("'", re.compile("' can not be converted"), "A value can not be converted"),
)
_BAD_HASH_KEY: Final = " is not a valid 128 bit"  # stands after the key, which has no blanks


def error_answer(
    status: int, body: bytes, headers: Headers, proxy: str | None = None
) -> ServiceError:
    """The error for an answer other than 200.

    A body that is no JSON object (a load balancer's HTML, nothing at all) gives the code `Http` +
    status; a web page or a redirect is somebody else's answer (`Trouble.FOREIGN`). `proxy`: the
    proxy of the call, for people; the text names it where the service did not speak itself.
    """
    fields: object = None
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = _fields_of_xml(body)
    if not isinstance(fields, dict):
        fields = {}
    named = fields.get("__type") or fields.get("code") or headers.get("x-amzn-ErrorType") or ""
    code = word(str(named)[:TEXT_CHARACTERS_MAX].rsplit("#", 1)[-1].split(":", 1)[0])
    text = fields.get("message") or fields.get("Message")
    trouble = None
    if 300 <= status < 400:
        code, trouble, text = None, Trouble.FOREIGN, _redirect(status, headers)
    elif code is None and status not in PASSING and (page := _page(body, headers)) is not None:
        trouble, text = Trouble.FOREIGN, f"HTTP {status} with {page}"
    if status == 407:
        trouble = Trouble.PROXY
        text = "the proxy does not let us through (HTTP 407): see user and password in its URL"
    if not isinstance(text, str):
        text = f"the service answered HTTP {status} and did not say why"
    if proxy is not None and code is None:
        text = f"{text}; through the proxy {proxy}"
    return ServiceError(
        code or f"Http{status}",
        shown(text),
        status=status,
        trouble=trouble,
        retry_after_ns=_retry_after_ns(headers),
        is_nameless=code is None,
        request_id=_request_id(headers),
    )


def _fields_of_xml(body: bytes) -> dict[str, str] | None:
    """Code and message of an error in STS's XML; None: the body is no such error."""
    if _XML_ERROR not in body[:PAGE_BYTES_MAX]:
        return None
    text = body[:TEXT_CHARACTERS_MAX].decode(errors="replace")
    return {
        name: html.unescape(found[1])
        for name, tag in (("code", "Code"), ("message", "Message"))
        if (found := re.search(f"<{tag}>([^<]{{1,4096}})</{tag}>", text)) is not None
    }


def members_of(operation: str, body: bytes, headers: Headers) -> dict[str, Any]:
    """What a 200 says; {}: nothing. Raises `ServiceError`."""
    if not body and not is_page(body, headers):
        return {}
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # raised below, so that no context carries the answer along
    raise no_answer(operation, body, headers)


def no_answer(operation: str, body: bytes, headers: Headers) -> ServiceError:
    """The error for a 200 that does not answer the operation; a web page is not the service's."""
    page = _page(body, headers)
    if page is not None:
        text = shown(f"HTTP 200 with {page}")
        return ServiceError("Http200", text, status=200, trouble=Trouble.FOREIGN)
    return unreadable_answer(f"HTTP 200 whose body is not a {operation} answer")


def clean_results(results: list[RecordResult]) -> None:
    """Cleans the errors of single records; results of successes are not touched.

    Each different text is cleaned once: a shard that throttles refuses all records with one text.
    """
    failed = [each for each in results if each.error_code or each.error_message]
    codes: dict[str, str] = {}
    texts: dict[str, str] = {}
    for result in failed:
        code, text = result.error_code, result.error_message
        if code:
            if code not in codes:
                codes[code] = word(code) or UNREADABLE_CODE
            result.error_code = codes[code]
        if text:
            if text not in texts:
                is_many = len(texts) >= RESULT_TEXTS_MAX
                texts[text] = "" if is_many else shown(text[:RESULT_TEXT_CHARACTERS_MAX])
            result.error_message = texts[text]


def word(text: object) -> str | None:
    """A code that can be repeated: one word without a secret. None: it cannot be repeated."""
    if not isinstance(text, str) or not _CODE.fullmatch(text):
        return None
    return text if SECRETS.clean(text) == text else None


def shown(text: str) -> str:
    """A service's text without secrets, and without its quotes of records and signatures: one line,
    bounded, printable.
    """
    if len(text) > TEXT_CHARACTERS_MAX:
        return f"the service's text of {len(text)} characters is not shown"
    text = SECRETS.clean(text)
    for start, end, plain in _ECHOES:
        text = _without(text, start, end, plain)
    if _BAD_HASH_KEY in text:
        *parts, rest = text.split(_BAD_HASH_KEY)
        text = _BAD_HASH_KEY.join((*map(_without_last_word, parts), rest))
    line = text.strip().split("\n", 1)[0][:MESSAGE_CHARACTERS_MAX]
    return printable(line)[:MESSAGE_CHARACTERS_MAX]  # an escaped character takes several


def _without(text: str, start: str, end: re.Pattern[str], plain: str) -> str:
    """Replaces each part of `text` that begins with `start` and ends at `end`, in one pass."""
    kept, at = [], 0
    while (first := text.find(start, at)) >= 0:
        last = end.search(text, first + len(start))
        if last is None:
            break
        kept += [text[at:first], plain]
        at = last.end()
    return "".join((*kept, text[at:]))


def _without_last_word(text: str) -> str:
    is_word = not text[-1:].isspace()
    word = text.rsplit(maxsplit=1)[-1] if text and is_word else ""
    return f"{text[: len(text) - len(word)]}A hash key"


def is_page(body: bytes, headers: Headers) -> bool:
    """Whether the answer is a web page, by its header or by its first characters."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return (
        kind in {"text/html", "application/xhtml+xml"} or body[:PAGE_BYTES_MAX].lstrip()[:1] == b"<"
    )


def _page(body: bytes, headers: Headers) -> str | None:
    """A web page in words, with its title; None: the body is no web page."""
    if not is_page(body, headers):
        return None
    found = _TITLE.search(body[:PAGE_BYTES_MAX].decode(errors="replace"))
    words = " ".join(html.unescape(found[1]).split()) if found else ""
    title = SECRETS.clean(words)[:TITLE_CHARACTERS_MAX]
    named = f' ("{title}")' if title else ""
    return (
        f"a web page{named} and no answer of the service: a gateway, a proxy or a sign-in page"
        " answers in its place; see endpoint_url and the proxy variables"
    )


def _redirect(status: int, headers: Headers) -> str:
    target = SECRETS.clean(masked_url(headers.get("Location", "")).partition("?")[0])
    target = target[:TITLE_CHARACTERS_MAX]
    where = f" to {target}" if target else ""
    return (
        f"HTTP {status}, a redirect{where}, which is not followed: the service sends none; see"
        " endpoint_url and the proxy variables"
    )


def _request_id(headers: Headers) -> str:
    """The service's number for the call; empty if there is none that can be shown."""
    told = headers.get("x-amzn-RequestId", "")
    return told if _REQUEST_ID.fullmatch(told) and SECRETS.clean(told) == told else ""


def _retry_after_ns(headers: Headers) -> int:
    """How long the service asks to be left alone; 0: it does not say, or in an unknown form."""
    milliseconds = headers.get("x-amz-retry-after", "").strip()
    if milliseconds.isascii() and milliseconds.isdecimal():
        return int(min(float(milliseconds) * 1e6, RETRY_AFTER_NS_MAX))
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return int(min(float(text) * 1e9, RETRY_AFTER_NS_MAX))
    if not text:
        return 0
    try:
        seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
        return 0
    return int(max(0.0, min(seconds * 1e9, RETRY_AFTER_NS_MAX)))


def unreadable_answer(problem: str) -> ServiceError:
    """The error for a 200 outside the contract: nobody knows what the service did."""
    return ServiceError(Trouble.UNREADABLE, problem, status=200)
