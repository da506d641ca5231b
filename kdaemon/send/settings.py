"""What a client of the service is told: where, as whom, how, and for how long to call. Values only.

Must not know the environment, files or the AWS libraries: None leaves a matter to them.
Invariant: settings that contradict each other make no value (`ValueError`, by the field's name).
"""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from kdaemon.base.endpoint import endpoint_problem, proxy_problem
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.service import AWS, Service

ACCOUNT_ID_MODES: Final = ("preferred", "disabled", "required")  # botocore 1.43.117, 2026-11-28
ROLE_DURATION_S_MIN: Final = 900  # AssumeRole's DurationSeconds, STS's model; 2026-11-28
ROLE_DURATION_S_MAX: Final = 43_200  # the same; the role's own limit may be lower
ROLE_DURATION_S: Final = 3600  # the most where a role's credentials assume another; STS's default
ROLE_FORM: Final = "arn:aws:iam::ACCOUNT:role/NAME"
_ROLE: Final = r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]{1,1600}"  # not compiled: few have one
_SESSION_NAME: Final = r"[A-Za-z0-9_+=,.@-]{2,64}"  # STS's model
_EXTERNAL_ID: Final = r"[A-Za-z0-9_+=,.@:/-]{2,1224}"  # the same


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where and how to call. None: from the AWS environment (variables, profile, instance).

    `endpoint_url` keeps its path (a Yandex database can be in it). Times in seconds:
    `connect_timeout_s` covers the pool, the name, TCP and TLS; `read_timeout_s` a silence after the
    request; `call_timeout_s` one call with all that belongs to it. `connections_max`: at least the
    calls that may be in flight. `is_anonymous` (the sandbox; needs `endpoint_url`): a fixed key,
    no AWS environment, no proxy. `account_id`: of the credentials, where they do not tell it.

    `name`: the upstream's, for texts, which say nothing of the default one. `role_arn`: a role to
    assume with the credentials that are found; `role_external_id`, `role_session_name` (None: made
    of the host's name) and `role_duration_s` go to STS with it. `use_fips`, `use_dualstack`: other
    addresses of AWS. `account_id_endpoint_mode`: whether the host has the account in its name.
    `proxy_url`: for all calls; "": none. `iam_token_file`, `iam_token_url`: where Yandex's IAM
    token is found, which stands in place of a signature. `ca_bundle`: a file of certificates, and
    no others are trusted, also not for STS.
    """

    service: Service = AWS
    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None
    account_id: str | None = None
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    call_timeout_s: float = 15.0
    connections_max: int = 64
    is_anonymous: bool = False
    name: str = DEFAULT_UPSTREAM
    role_arn: str | None = None
    role_external_id: str | None = field(default=None, repr=False)
    role_session_name: str | None = None
    role_duration_s: int = ROLE_DURATION_S
    use_fips: bool | None = None
    use_dualstack: bool | None = None
    account_id_endpoint_mode: str | None = None
    proxy_url: str | None = field(default=None, repr=False)  # a password may be in it
    iam_token_file: str | None = None
    iam_token_url: str | None = None
    ca_bundle: str | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` for the first problem. No secret is in its text."""
        problem = next(iter(self.problems()), None)
        if problem is not None:
            raise ValueError(" ".join(problem))

    @property
    def has_iam_token(self) -> bool:
        """Whether a token stands in place of keys and signatures."""
        return self.iam_token_file is not None or self.iam_token_url is not None

    def problems(self) -> list[tuple[str, str]]:
        """What contradicts what, or cannot be: the field, and what is wrong with that field."""
        if self.is_anonymous:  # all else is for the service that it stands in for
            return [] if self.endpoint_url else [("is_anonymous", "needs an endpoint_url")]
        found = [*self._place_problems(), *self._role_problems(), *self._token_problems()]
        if self.proxy_url and (wrong := proxy_problem(self.proxy_url)) is not None:
            found.append(("proxy_url", wrong))
        return found

    def _place_problems(self) -> list[tuple[str, str]]:
        found = [
            (name, f"{words}; `endpoint_url` names the host already: set one of the two")
            for name, words, is_set in (
                ("use_fips", "chooses AWS's FIPS endpoint", self.use_fips),
                ("use_dualstack", "chooses AWS's dual-stack endpoint", self.use_dualstack),
            )
            if is_set and self.endpoint_url
        ]
        found += [
            (name, f"is for AWS: {self.service.title} has no such addresses")
            for name in ("use_fips", "use_dualstack", "account_id_endpoint_mode")
            if getattr(self, name) and not self.service.has_arns
        ]
        mode = self.account_id_endpoint_mode
        if mode is not None and mode not in ACCOUNT_ID_MODES:
            known = ", ".join(f'"{each}"' for each in ACCOUNT_ID_MODES)
            found.append(("account_id_endpoint_mode", f"is none of {known}"))
        return found

    def _role_problems(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        if self.role_arn is None:
            found += [
                (name, "is said of a role: set `role_arn`, or take this away")
                for name in ("role_external_id", "role_session_name")
                if getattr(self, name) is not None
            ]
            return found
        if not self.service.has_arns:
            found.append(("role_arn", f"is for AWS: {self.service.title} has no roles to assume"))
        if not re.fullmatch(_ROLE, self.role_arn):
            found.append(("role_arn", f"is no role's ARN; expected {ROLE_FORM}"))
        elif self.account_id not in {None, "", self.role_arn.split(":")[4]}:
            found.append(("account_id", "is another account than that of `role_arn`: correct one"))
        for name, pattern, expected in (
            ("role_external_id", _EXTERNAL_ID, "2 to 1224 letters, digits and _+=,.@:/-"),
            ("role_session_name", _SESSION_NAME, "2 to 64 letters, digits and _+=,.@-"),
        ):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(pattern, value):
                found.append((name, f"is not as STS takes it; expected {expected}"))
        if not ROLE_DURATION_S_MIN <= self.role_duration_s <= ROLE_DURATION_S_MAX:
            limits = f"{ROLE_DURATION_S_MIN} to {ROLE_DURATION_S_MAX}"
            found.append(("role_duration_s", f"is not as STS takes it; expected {limits} seconds"))
        return found

    def _token_problems(self) -> list[tuple[str, str]]:
        found = [
            (name, f"is for Yandex: {self.service.title} takes no IAM token")
            for name in ("iam_token_file", "iam_token_url")
            if getattr(self, name) is not None and self.service.has_arns
        ]
        if self.iam_token_file is not None and self.iam_token_url is not None:
            found.append(("iam_token_url", "and `iam_token_file` are both set: keep one of them"))
        if self.iam_token_file == "":
            found.append(("iam_token_file", "is empty; expected the path of a file"))
        url = self.iam_token_url
        wrong = None if url is None else endpoint_problem(url)
        if wrong is not None:
            found.append(("iam_token_url", wrong))
        if self.has_iam_token and self.endpoint_url and _is_open(self.endpoint_url):
            words = (
                "is http://, where everybody on the way can read the IAM token; expected https://"
            )
            found.append(("endpoint_url", words))
        return found


def _is_open(url: str) -> bool:
    """Whether what is sent there can be read on the way: plain HTTP that leaves this machine."""
    if endpoint_problem(url) is not None:
        return False  # told where the address is used
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
