"""Keeps secrets out of texts from outside: a proxy or a service may repeat what we sent.

About: which parts of a text are secrets: by value (`send/` calls `register` with what it loads),
and by pattern (what looks like a secret of AWS, Yandex or HTTP, whoever made it). Knows nothing of
where the text goes; `base/text.py` handles unprintable characters, after this.
Invariant: `clean` takes time linear in any text, and the parts of a registered secret that it
leaves are shorter than PART_CHARACTERS_MIN. Bound: ROTATING_MAX secrets that come and go, beside
those that each upstream uses.

`SECRETS` is the process's own, as the log is: code that loads a secret registers it there, and code
that shows a text from outside (log, status page, dead letter, answer) cleans the text there.
"""

import re
from collections.abc import Iterable
from html import escape
from urllib.parse import quote, quote_plus

from kdaemon.base.text import printable

HIDDEN = "***"  # replaces a secret

SECRET_CHARACTERS_MIN = 8
"""A shorter value is no secret (`test`, as emulators take), and would be found in any text. Access
key ids have 16 to 128 characters (AWS IAM reference, 2026-11-28)."""

PART_CHARACTERS_MIN = 16  # of a secret that is cut or folded; shorter parts may be words; ours

ROTATING_MAX = 64  # the newest secrets: some 20 sets of temporary credentials; ours, 2026-11-28

NEWEST = 6  # of the secrets that come and go: two sets, of which one was just replaced; ours

CLEANED_CHARACTERS_MAX = 32 * 1024  # of one text: 5 ms; a longer text is cut; ours, 2026-11-28

_NAMED = (
    "x-amz-security-token|x-amz-s3session-token|x-amz-credential|x-amz-signature"
    "|x-yacloud-subjecttoken|x-api-key"
    "|aws[_-]?session[_-]?token|session[_-]?token|security[_-]?token|id[_-]?token|access[_-]?token"
    "|aws[_-]?secret[_-]?access[_-]?key|secret[_-]?access[_-]?key|secret[_-]?key"
    "|aws[_-]?access[_-]?key[_-]?id|access[_-]?key[_-]?id|password|(?<!/etc/)passwd"
)
_BETWEEN = (
    r"(?:\\?[\"']|&quot;|&#34;|&#39;)?\s{0,8}(?:=>|[:=,])\s{0,8}(?:b?\\?[\"']|&quot;|&#34;|&#39;)?"
)
_VALUE = r"[^\s\"'<>,;&\\]+"
# A long token after a word that announces it: "the security token IQoJ... is invalid".
_ANNOUNCED = r"(?i:\b((?:token|signature|credentials?)[\s:'\"(]{1,4}))"
_LONG_RUN = r"(?=[a-zA-Z+/_-]*[0-9])[A-Za-z0-9+/=_-]{20,}"
_PATTERNS = tuple(
    (re.compile(pattern), shown)
    for pattern, shown in (
        # Header or field, and its value up to a quote or the end of the line.
        (rf"(?i:((?:proxy-)?authorization(?: header)?{_BETWEEN}))[^\r\n\"'<>\\]+", rf"\1{HIDDEN}"),
        (rf"(?i:(\b(?:{_NAMED}){_BETWEEN})){_VALUE}", rf"\1{HIDDEN}"),
        # Parts of an Authorization header, or of a signed URL, wherever they stand.
        (rf"(?i:(credential\s{{0,8}}=\s{{0,8}})){_VALUE}", rf"\1{HIDDEN}"),
        (rf"(?i:(signature\s{{0,8}}=\s{{0,8}})){_VALUE}", rf"\1{HIDDEN}"),
        (r"(?i:\b(bearer\s{1,8}))[A-Za-z0-9._~+/=-]{8,}", rf"\1{HIDDEN}"),
        (r"(?i:\b(basic\s{1,8}))(?=[a-z+/]*[A-Z0-9=])[A-Za-z0-9+/=]{8,}", rf"\1{HIDDEN}"),
        (_ANNOUNCED + _LONG_RUN, rf"\1{HIDDEN}"),
        # AWS quotes the part of the header that it could not read.
        (r"'[^'\n]{0,4096}'(?= not a valid key=value pair)", f"'{HIDDEN}'"),
        # By their form (checked 2026-11-28): AWS's key ids and session tokens; Yandex's key ids,
        # secrets and IAM tokens.
        (r"(?<![A-Za-z0-9])A(?:KI|SI|BI|CC)A[A-Z0-9]{12,124}(?![a-z0-9])", HIDDEN),
        (r"(?<![A-Za-z0-9])(?:IQoJ|FwoG|FQoG)[A-Za-z0-9+/=]{40,}", HIDDEN),
        (r"(?<![\w-])(?:YCAJE[\w-]{20}|YC[MNOP][\w-]{37})(?![\w-])", HIDDEN),
        (r"(?<![\w.-])t1\.[\w-]{1,2048}={0,2}\.[\w-]{40,}={0,2}", HIDDEN),
        # The user in a URL.
        (r"(://)[^\s/?#\"'<>]*@", rf"\1{HIDDEN}@"),
    )
)
_RUN = re.compile(rf"[A-Za-z0-9+/=_%.~-]{{{PART_CHARACTERS_MIN},}}")


class Redactor:
    """Hides secrets in texts."""

    __slots__ = ("_clients", "_fixed", "_newest", "_owned", "_rotating", "_written", "bytes_max")

    def __init__(self) -> None:
        self._newest: tuple[bytes, ...] = ()
        self.bytes_max = 0  # the longest secret that `are_in` looks for
        self._clients: dict[str, None] = {}
        self._fixed: dict[str, None] = {}
        self._owned: dict[str, tuple[str, ...]] = {}
        self._rotating: dict[str, None] = {}  # the newest is last
        self._written: tuple[str, ...] = ()

    def register(self, *secrets: str | None, is_fixed: bool = False, owner: str = "") -> None:
        """Hides these from now on: an access key id, its secret, a session token, a password.

        A value that is None, or too short to be a secret, is ignored. A second registration does
        nothing. `owner`: calls with these secrets from now on; they stay known until that owner has
        others, however many secrets of others come and go. Beyond ROTATING_MAX the oldest secret is
        forgotten (its credentials have expired), unless an owner uses it or it is fixed. Fixed
        secrets are those of the configuration, which do not change while we run.
        """
        known = [each for each in secrets if each and len(each) >= SECRET_CHARACTERS_MIN]
        if owner:
            before, self._owned[owner] = self._owned.get(owner, ()), tuple(known)
            known = [*before, *known]
        kept = self._fixed if is_fixed else self._rotating
        is_new = any(secret not in kept for secret in known)
        for secret in known:
            kept.pop(secret, None)
            kept[secret] = None
        while len(self._rotating) > ROTATING_MAX:
            del self._rotating[next(iter(self._rotating))]
        if is_new:
            self._write()
        else:
            self._note_newest()

    def register_clients(self, secrets: Iterable[str]) -> None:
        """Hides all secrets with which clients sign, from now on. Those that an earlier call
        registered, and that are not among these, are no secrets any more.
        """
        self._clients = dict.fromkeys(secrets)
        self._write()

    def _write(self) -> None:
        owned = [secret for secrets in self._owned.values() for secret in secrets]
        self._written = _ways_of_writing((*self._fixed, *owned, *self._rotating, *self._clients))
        self._note_newest()

    def _note_newest(self) -> None:
        owned = [secret for secrets in self._owned.values() for secret in secrets]
        newest = dict.fromkeys((*self._fixed, *owned, *list(self._rotating)[-NEWEST:]))
        self._newest = tuple(secret.encode(errors="replace") for secret in newest)
        self.bytes_max = max(map(len, self._newest), default=0)

    def are_in(self, body: bytes) -> bool:
        """Whether a secret in use is in these bytes as it is. For large bodies of successes:
        looking for every pattern there would take too long (1 ms for 1 MiB).
        """
        return any(secret in body for secret in self._newest)

    def clean(self, text: str) -> str:
        """`text` with HIDDEN in place of each secret, and of what looks like one."""
        if len(text) > CLEANED_CHARACTERS_MAX:
            text = text[:CLEANED_CHARACTERS_MAX]
        for secret in self._written:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        if self._written:
            text = _RUN.sub(self._hide_part, text)
        for pattern, shown in _PATTERNS:
            text = pattern.sub(shown, text)
        return text

    def _hide_part(self, run: re.Match[str]) -> str:
        part = run.group()
        return HIDDEN if any(part in secret for secret in self._written) else part


SECRETS = Redactor()


SHOWN_CHARACTERS_MAX = 300  # of others' texts, to people; ours: two lines of a terminal, 2026-11-21


def harmless_line(text: str) -> str:
    """The first line of a text of the service or of others: safe to show, bounded."""
    line = next(iter(SECRETS.clean(text).splitlines()), "")
    return printable(line, SHOWN_CHARACTERS_MAX)


def masked_url(url: str) -> str:
    """`url` without its user: `http://***@host:80/`. Also for a text that no URL parser takes, and
    without `//`, as `user:password@proxy:3128`.
    """
    before, slashes, rest = url.partition("//")
    if not slashes:
        before, rest = "", url
    _, at, host = rest.rpartition("@")
    return f"{before}{slashes}{HIDDEN}@{host}" if at else url


def masked_text(text: str) -> str:
    """As `masked_url`, for a text that may be a URL, or something else with an `@`: a path, a
    profile, a role. It counts as a URL without `//` if a user with a password is before the `@`.
    """
    user, colon, _ = text.rpartition("@")[0].partition(":")
    is_url = "//" in text or (colon and user != "arn" and not user.startswith(("/", ".")))
    return masked_url(text) if is_url else text


def _ways_of_writing(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """All spellings of the secrets, the longest first: one that contains another is hidden
    whole.
    """
    written = {
        way
        for secret in secrets
        for way in (
            secret,
            quote(secret),
            quote_plus(secret),
            quote_plus(secret).lower(),
            secret.replace("/", "\\/"),
            escape(secret),
        )
    }
    return tuple(sorted(written, key=len, reverse=True))
