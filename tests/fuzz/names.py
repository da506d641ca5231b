"""Names, ARNs and paths of streams, in the daemon and in the sandbox."""

import re

from kdaemon.base.errors import ServiceError
from kdaemon.base.names import ARN_CHARACTERS_MAX, is_path, is_stream_name, parse_arn
from kdaemon.base.service import SERVICES
from kdaemon.sandbox.catalogue import Catalogue
from kdaemon.sandbox.payload import Payload
from kdaemon.sandbox.settings import SandboxSettings
from kdaemon.wire.explain import stream_problems

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/s"
SEEDS = [
    ARN.encode(),
    b"arn:aws-cn:kinesis:cn-north-1:123456789012:stream/A.b_c-d",
    b"arn:aws:kinesis:us-east-1:000000000000:stream/s/consumer/c:1",
    b"arn:aws" + b":kinesis:" * 200,
    b"/ru-central1/b1g/etn/stream",
    b"orders",
    b"n" * 128,
]
TOKENS = [
    *(b"arn:", b"aws", b":kinesis:", b":", b"stream/", b"/", b"000000000000", b"us-east-1", b"-"),
    *("é".encode(), "٣".encode(), b"\n", b"%2f", b"..", b"arn:aws:kinesis:"),
]
# As the service's model has it (quadratic, so only short texts are held to it).
_MODEL = re.compile(r"arn:aws.*:kinesis:.*:\d{12}:stream/\S+", re.ASCII)
_PATTERN_CHARACTERS_MAX = 300
_CATALOGUES = [Catalogue(SandboxSettings(service=each), 0) for each in SERVICES.values()]


def one_input(data: bytes) -> None:
    text = data.decode(errors="replace")
    arn = parse_arn(text)
    if arn is not None:
        assert arn.text == text
        assert len(text) <= ARN_CHARACTERS_MAX
        assert text.endswith(f":kinesis:{arn.region}:{arn.account}:stream/{arn.name}")
        assert is_stream_name(arn.name)
        if len(text) <= _PATTERN_CHARACTERS_MAX:
            assert _MODEL.fullmatch(text)
    if is_stream_name(text):
        assert re.fullmatch(r"[a-zA-Z0-9_.-]{1,128}", text)
        assert is_path(text)
    _check_problems(text, is_arn=arn is not None)
    for catalogue in _CATALOGUES:
        for member in ("StreamName", "StreamARN"):
            try:
                name = catalogue.name_in(Payload({member: text}))
            except ServiceError as error:
                assert error.status == 400
            else:
                assert name is not None
                assert name in text


def _check_problems(text: str, *, is_arn: bool) -> None:
    for is_free in (False, True):
        named = list(stream_problems(text, None, is_stream_name_free=is_free))
        by_arn = list(stream_problems(None, text, is_stream_name_free=is_free))
        assert sum(map(len, named + by_arn)) < 4_000
        if not is_free:
            assert (not named) == is_stream_name(text)
            assert (not by_arn) == is_arn
