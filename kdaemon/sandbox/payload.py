"""Reads the members of a control or reading call, and refuses them as the service does.

Pure. A payload is decoded JSON: a dict of anything. Each reader returns a member of the right type
and within its bounds, or raises ServiceError: SerializationException for a wrong type,
ValidationException for a bound. A null member counts as absent. Knows nothing of the meaning of
members. (PutRecord and PutRecords are not read here: `wire/put.py` reads them, at speed.)
"""

import re

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_PATTERN, KIB
from kdaemon.base.names import ARN_PATTERN, parse_arn, partition_problem

# Each of these is bounded in length and matches in linear time, as every pattern here must: a
# client chooses the text that is matched.
SHARD_ID_PATTERN = r"[a-zA-Z0-9_.-]{1,128}"  # [M]
SEQUENCE_NUMBER_PATTERN = r"0|([1-9]\d{0,128})"  # [M]
HASH_KEY = HASH_KEY_PATTERN.strip("^$")

CONTROL_BYTES_MAX = 64 * KIB  # of a body that is decoded to a Payload; ours, 2026-11-28


def refuse(code: str, message: str) -> ServiceError:
    """A refusal of a whole call: HTTP 400."""
    return ServiceError(code, message, status=400)


def _invalid(member: str, constraint: str) -> ServiceError:
    return refuse(
        "ValidationException",
        f"1 validation error detected: Value at '{member[0].lower()}{member[1:]}' failed to "
        f"satisfy constraint: Member must {constraint}",
    )


class Payload(dict[str, object]):
    """The members of a call, by name."""

    def optional_text(self, member: str, pattern: str | None = None) -> str | None:
        """A string that matches the whole `pattern`; None if it is absent."""
        value = self.get(member)
        if value is None:
            return None
        if not isinstance(value, str):
            raise refuse("SerializationException", f"{member} must be a string")
        if pattern is not None and not re.fullmatch(pattern, value, re.ASCII):
            raise _invalid(member, f"satisfy regular expression pattern: {pattern}")
        return value

    def text(self, member: str, pattern: str | None = None) -> str:
        """As `optional_text`, but the member must be there."""
        value = self.optional_text(member, pattern)
        if value is None:
            raise _invalid(member, "not be null")
        return value

    def optional_arn(self, member: str) -> str | None:
        """The ARN of a stream; None if it is absent."""
        value = self.optional_text(member)
        if value is not None and parse_arn(value) is None:
            problem = partition_problem(value)
            if problem is not None:
                raise refuse("ValidationException", f"{member} {problem}.")
            raise _invalid(member, f"satisfy regular expression pattern: {ARN_PATTERN}")
        return value

    def arn(self, member: str) -> str:
        """As `optional_arn`, but the member must be there."""
        value = self.optional_arn(member)
        if value is None:
            raise _invalid(member, "not be null")
        return value

    def choice(self, member: str, allowed: tuple[str, ...]) -> str:
        """One of a few words."""
        value = self.text(member)
        if value not in allowed:
            raise _invalid(member, f"satisfy enum value set: [{', '.join(allowed)}]")
        return value

    def integer(self, member: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number in low..high. Without a default the member must be there."""
        value = self.get(member)
        if value is None:
            if default is None:
                raise _invalid(member, "not be null")
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise refuse("SerializationException", f"{member} must be an integer")
        if value < low:
            raise _invalid(member, f"have value greater than or equal to {low}")
        if value > high:
            raise _invalid(member, f"have value less than or equal to {high}")
        return value

    def timestamp_ns(self, member: str) -> int | None:
        """Seconds since 1970, with any fraction, as nanoseconds; None if the member is absent."""
        value = self.get(member)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise refuse("SerializationException", f"{member} must be seconds since 1970, a number")
        if not 0 <= value < 2**33:  # a finite number before the year 2242
            raise _invalid(member, "be seconds since 1970")
        return int(value * 1_000_000_000) if isinstance(value, float) else value * 1_000_000_000

    def structure(self, member: str) -> "Payload | None":
        """A nested object; None if it is absent."""
        value = self.get(member)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise refuse("SerializationException", f"{member} must be a structure")
        return Payload(value)
