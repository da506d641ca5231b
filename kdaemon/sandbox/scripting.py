"""The sandbox's own calls, beside the service's: faults, quotas, state. For tests and for people.

    POST   /sandbox/faults   one fault or a list of them (`faults.Fault`), appended to the script
    GET    /sandbox/faults   the faults that are left
    DELETE /sandbox/faults   clears the script
    POST   /sandbox/quotas   {"records_per_second": N, "bytes_per_second": N} for all streams, or
                             for one with "stream": NAME
    POST   /sandbox/splits   {"stream": NAME, "shard_id": ID}: the service halves a shard by itself,
                             as Yandex's auto-partitioning and AWS's on-demand mode do
    POST   /sandbox/tokens   {"accepted": [TOKEN, ...]}: Yandex admits only these IAM tokens, as if
                             all others had expired; null: any. With "is_required": true a client
                             that sends neither a token nor a signature is refused
    GET    /sandbox/state    streams, shards, counts; no data and no keys

Pure: takes a request, returns a status and JSON. A refused call has changed nothing.
"""

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import MIB
from kdaemon.sandbox.faults import FAULT_COUNT_MAX, Fault, FaultKind
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import Quota
from kdaemon.wire.explain import reason_of
from kdaemon.wire.refusals import MESSAGE_CHARACTERS_MAX, echo

PREFIX = "/sandbox/"
JSON = b"application/json"
CALL_BYTES_MAX = 2 * MIB  # of a body: enough for as many faults as may be queued; ours, 2026-11-28


class _QuotaCall(msgspec.Struct, forbid_unknown_fields=True):
    records_per_second: int
    bytes_per_second: int
    stream: str | None = None


class _SplitCall(msgspec.Struct, forbid_unknown_fields=True):
    stream: str
    shard_id: str


class _TokensCall(msgspec.Struct, forbid_unknown_fields=True):
    accepted: list[str] | None
    is_required: bool = False


_CALLS: dict[str, type[msgspec.Struct]] = {
    "faults": Fault,
    "quotas": _QuotaCall,
    "splits": _SplitCall,
    "tokens": _TokensCall,
}
_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode

_METHODS = {
    "faults": "GET, POST or DELETE",
    "quotas": "POST",
    "splits": "POST",
    "state": "GET",
    "tokens": "POST",
}


def answer(service: Service, method: str, path: str, body: bytes, now_ns: int) -> tuple[int, bytes]:
    """HTTP status and JSON body for a path under `PREFIX`."""
    name = path.removeprefix(PREFIX)
    if len(body) > CALL_BYTES_MAX:
        return 400, _error("InvalidArgumentException", f"a body may have {CALL_BYTES_MAX} bytes")
    try:
        match method, name:
            case "POST", "faults" if body.count(b"{") > FAULT_COUNT_MAX:
                text = f"at most {FAULT_COUNT_MAX} faults can be queued"
                return 400, _error("InvalidArgumentException", text)
            case "POST", "faults":
                faults = _decode(body, type=Fault | list[Fault])
                service.add_faults(*([faults] if isinstance(faults, Fault) else faults))
            case "DELETE", "faults":
                service.clear_faults()
            case "POST", "quotas":
                call = _decode(body, type=_QuotaCall)
                quota = Quota(call.records_per_second, call.bytes_per_second)
                service.set_quota(quota, now_ns, call.stream)
            case "POST", "splits":
                split = _decode(body, type=_SplitCall)
                service.split_shard(split.stream, split.shard_id, now_ns)
            case "POST", "tokens":
                tokens = _decode(body, type=_TokensCall)
                service.accept_tokens(tokens.accepted, is_required=tokens.is_required)
            case "GET", "faults" | "state":
                pass
            case _:
                return _refuse_route(method, name)
    except ServiceError as error:
        return error.status, _error(error.code, error.message)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = f"{method} {PREFIX}{name}: {explained(error, _CALLS[name])}"
        return 400, _error("InvalidArgumentException", text)
    is_of_faults = name == "faults"
    return 200, _encode({"faults": service.pending_faults()} if is_of_faults else service.state())


def explained(error: Exception, call: type[msgspec.Struct]) -> str:
    """What is wrong with a call, and which names there are if one is mistyped or missing."""
    text = reason_of(error)
    if "Invalid enum value" in text or "required field `kind`" in text:
        return f"{text}; the kinds are {', '.join(kind.value for kind in FaultKind)}"
    if "unknown field" in text or "required field" in text:
        return f"{text}; the members are {', '.join(call.__struct_fields__)}"
    return text


def _refuse_route(method: str, name: str) -> tuple[int, bytes]:
    if name in _METHODS:
        text = f"{PREFIX}{name} takes {_METHODS[name]}, not {method}"
        return 405, _error("MethodNotAllowedException", text)
    known = ", ".join(PREFIX + each for each in _METHODS)
    return 404, _error(
        "UnknownOperationException", f"no {PREFIX}{echo(name)} here; there are {known}"
    )


def _error(code: str, text: str) -> bytes:
    return _encode({"__type": code, "message": text[:MESSAGE_CHARACTERS_MAX]})
