"""The state of a daemon for people: the rows and lines of `kdaemon status` and `kdaemon top`.

Reads the page `/statusz` as plain JSON, leniently: a daemon of another version may tell more, or
less. Pure. Rates are differences of two pages by the daemon's own clock; with one page only, they
are the page's own. Invariant: names that others chose are made harmless by the code that prints
them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdaemon.cli.values_text import age_text, byte_text
from kdaemon.observe.remedies import advised

Page = Mapping[str, Any]
NONE = "-"
Trouble = tuple[str, str | None]  # what is wrong, and what to do, if that is known
_TROUBLES = {
    "hold": "is on hold",
    "unavailable": "takes nothing",
    "failing": "is failing",
    "unseen": "is not seen at the service",
}
_RESTART = "restart the daemon, or take these changes back and run `kdaemon reload`"
_MEND = "correct it, then run `kdaemon reload`; `kdaemon check` says all that is wrong"
_MEND_DISK = "mend the disk; until then `stored` is refused, and the rest goes on"
_MORE_DISK = "end what holds the streams up, or raise spool.bytes_max and run `kdaemon reload`"
_MORE_MEMORY = "see which stream has most queued, and why it does not go"
NEARLY_FULL = 15 / 16  # of spool.bytes_max: as memory; ours, 2026-11-29
LOADS_MAX = 3  # hot shards whose keys are shown; ours, 2026-11-28
KEYS_MAX = 5  # keys shown of each; `--json` has ten


@dataclass(frozen=True, slots=True)
class HotLoad:
    """The load of a hot shard: one line of advice, and its heaviest keys."""

    advice: str
    keys: list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Screen:
    """What is shown: lines above, tables, lines below (what needs a human). `loads`: for the first
    of `shards` whose keys are known.
    """

    head: list[str]
    streams: list[tuple[str, ...]]
    shards: list[tuple[str, ...]]
    holds: list[str] = field(default_factory=list)
    loads: list[HotLoad] = field(default_factory=list)


def screen(page: Page, before: Page | None = None) -> Screen:
    """The screen of one page. `before`: an earlier page of the same daemon, for rates."""
    elapsed_s = _number(page, "uptime_s") - _number(before, "uptime_s") if before else 0.0
    if elapsed_s <= 0:  # the first page, or the daemon was restarted
        before = None
    earlier = {_qualified(each): each for each in _list(before or {}, "streams")}
    streams = _list(page, "streams")
    over_s = elapsed_s if before else _number(page, "uptime_s")
    rows = [_stream_row(each, earlier.get(_qualified(each)), over_s) for each in streams]
    shards = [(shard, each) for each in streams for shard in _list(each, "hottest_shards")]
    shards.sort(key=lambda hot: -_number(_part(hot[0], "backlog"), "seconds"))
    loads = [_hot_load(shard, each) for shard, each in shards if _part(shard, "load")]
    return Screen(
        head=[
            *_head(page),
            *_worker_line(page),
            *_spool_line(page, before, elapsed_s),
            *_upstream_lines(page),
        ],
        streams=rows,
        shards=[_shard_row(shard, each) for shard, each in shards],
        holds=_holds(page),
        loads=loads[:LOADS_MAX],
    )


def _head(page: Page) -> list[str]:
    state = str(page.get("state", "?"))
    why = page.get("not_ready_because")
    is_told = why is None or why == state
    ready = state if is_told else f"{state}, but not ready: {why}"
    uptime = age_text(int(_number(page, "uptime_s") * 1000))
    memory = _part(page, "memory")
    full = ", full" if memory.get("is_full") else ""
    lines = [
        f"kdaemon {page.get('version', '?')}: {ready}, up {uptime}",
        f"memory: {_of(memory, 'bytes_taken', 'bytes_max')}{full}",
    ]
    listeners = _part(page, "listeners")
    if listeners:
        open_ones = [
            f"{name} {_number(each, 'connections'):,.0f}" for name, each in listeners.items()
        ]
        lines.append(f"connections: {', '.join(open_ones)}")
    return lines


def _worker_line(page: Page) -> list[str]:
    """If there are several workers: how many serve, and what is wrong with the others."""
    workers = _list(page, "workers")
    if not workers:
        return []
    own = [each for each in workers if not each.get("is_heir")]
    serving = sum(each.get("state") == "serving" for each in own)
    texts = [f"{serving} of {len(own)} serve"]
    texts += [
        f"{each.get('worker')}: {each.get('not_ready_because')}"
        for each in own
        if each.get("not_ready_because")
    ]
    texts += [
        f"{each.get('worker')}: not counted here, {each.get('missing_because')}"
        for each in workers
        if each.get("missing_because")
    ]
    restarts = sum(_number(each, "restarts") for each in own)
    texts += [f"{restarts:,.0f} restarts"] if restarts else []
    heirs = len(workers) - len(own)
    texts += [f"{heirs} deliver what workers left that are no more"] if heirs else []
    return [f"workers: {', '.join(texts)}"]


def _spool_line(page: Page, before: Page | None, elapsed_s: float) -> list[str]:
    spool = _part(page, "spool")
    if not spool:
        return []
    text = f"spool: {_of(spool, 'live_bytes', 'bytes_max')}, {_number(spool, 'frames'):,.0f} frames"
    if before is not None:
        live = _number(spool, "live_bytes")
        growth = (live - _number(_part(before, "spool"), "live_bytes")) / elapsed_s
        if growth > 0:
            left_s = max(0.0, _number(spool, "bytes_max") - live) / growth
            text += f", full in {age_text(int(left_s * 1000))}"
    return [text + (", TROUBLE" if spool.get("trouble") else "")]


def _upstream_lines(page: Page) -> list[str]:
    lines = []
    for each in _list(page, "upstreams"):
        place = " ".join(
            str(each[key]) for key in ("service", "region", "account") if each.get(key)
        )
        place += f" at {each['endpoint']}" if each.get("endpoint") else ""
        place += f", by {each['endpoint_giver']}" if each.get("endpoint_giver") else ""
        on_hold = _number(each, "on_hold")
        held = f", {on_hold:,.0f} on hold" if on_hold else ""
        streams = _number(each, "streams")
        plural = "" if streams == 1 else "s"
        lines.append(
            f"upstream {each.get('name', '?')} ({place}): {each.get('health', '?')},"
            f" {streams:,.0f} stream{plural}{held}"
        )
    return lines


def _holds(page: Page) -> list[str]:
    """What needs a human, each with its remedy."""
    lines = []
    for trouble, remedy in _needs(page):
        lines += [trouble, f"  do: {remedy}"] if remedy else [trouble]
    return lines


def _needs(page: Page) -> Iterator[Trouble]:
    yield from _room(page)
    for stream in _list(page, "streams"):
        yield from _dead_letters(stream, page)
        yield from _troubles(stream)
    reload = _part(page, "refused_reload")
    if reload:
        is_restart = reload.get("outcome") == "restart"
        why = f"{'needs a restart: ' if is_restart else ''}{reload.get('why', '?')}"
        told = f"the last reload was refused, and the old settings hold: {why}"
        yield told, _RESTART if is_restart else _MEND
    principals, tls = _part(page, "principals"), _part(page, "tls")
    if principals.get("problem"):
        yield f"principals are not read anew: {principals['problem']}", None
    if tls.get("trouble"):
        yield f"the certificate is not read anew: {tls['trouble']}", None
    for fault in tls.get("faults") or ():
        yield f"the certificate: {fault}", None


def _troubles(stream: Page) -> Iterator[Trouble]:
    """What is wrong with a stream."""
    for kind, verb in _TROUBLES.items():
        found = _part(stream, kind)
        if not found or (kind == "unseen" and stream.get("state") != kind):
            continue
        code, message = str(found.get("code", "?")), str(found.get("message", ""))
        remedy = None
        if kind != "unavailable":  # whose message says all
            message, remedy = advised(code, message)
        yield f"{_qualified(stream)} {verb}: {code}: {message}", remedy


def why_waits(page: Page, stream: str | None) -> str | None:
    """Why the records of a stream do not go out, in one line; None: the page has no such stream.
    `stream`: as a client calls it: its name, its ARN or `@UPSTREAM/NAME`; None: any stream.
    """
    meant = [each for each in _list(page, "streams") if stream is None or _is_called(each, stream)]
    if not meant:
        return None
    troubles = [*(trouble for each in meant for trouble in _troubles(each)), *_room(page)]
    told = [f"{line} ({do})" if do else line for line, do in troubles]
    if not told:
        waiting = sum(_number(each, "buffered") + _number(each, "in_flight") for each in meant)
        calm = "no stream has" if stream is None else f"{meant[0].get('name')} has no"
        of_it = "" if stream is None else " of it"
        told = [f"{calm} trouble, and {waiting:,.0f} records{of_it} are on their way"]
    return "; ".join(told)


def _is_called(stream: Page, name: str) -> bool:
    own = str(stream.get("name", "?"))
    return name in {own, _qualified(stream)} or name.endswith(f":stream/{own}")


def _room(page: Page) -> Iterator[Trouble]:
    """What is full, or takes nothing."""
    spool = _part(page, "spool")
    if spool.get("trouble"):
        yield f"the spool takes nothing: {spool['trouble']}", _MEND_DISK
    elif _number(spool, "live_bytes") > NEARLY_FULL * _number(spool, "bytes_max") > 0:
        yield "the spool is nearly full: clients wait, or are refused (when_full)", _MORE_DISK
    if _part(page, "memory").get("is_full"):
        yield "memory is full: what comes is refused, or waits", _MORE_MEMORY


def _dead_letters(stream: Page, page: Page) -> Iterator[Trouble]:
    dead = _part(stream, "dead")
    if dead:
        total = sum(_number(dead, reason) for reason in dead)
        reasons = ", ".join(dead)
        told = f"{_qualified(stream)}: {total:,.0f} records are dead since the start ({reasons})"
        yield told, "kdaemon dead-letters list" if _part(page, "spool") else None


def _stream_row(stream: Page, before: Page | None, over_s: float) -> tuple[str, ...]:
    """`over_s`: seconds between the two pages; without an earlier page, seconds since the start."""
    per_second = _part(stream, "per_second")

    def rate(key: str) -> str:
        if before is None:
            return f"{_number(per_second, key):,.0f}"
        return f"{max(0.0, _number(stream, key) - _number(before, key)) / over_s:,.0f}"

    refused = max(0.0, _refused(stream) - _refused(before or {})) / over_s if over_s > 0 else 0.0
    oldest, delivery = stream.get("oldest_queued_s"), stream.get("delivery_mean_s")
    return (
        _qualified(stream),
        rate("received"),
        rate("delivered"),
        f"{refused:,.1f}" if 0 < refused < 10 else f"{refused:,.0f}",
        f"{_number(stream, 'buffered'):,.0f}",
        f"{_number(stream, 'spooled'):,.0f}",
        f"{_number(stream, 'in_flight'):,.0f}",
        NONE if oldest is None else age_text(int(oldest * 1000)),
        _throttled(stream, before),
        NONE if delivery is None else f"{delivery * 1000:,.0f} ms",
        str(stream.get("state", "?")),
    )


def _refused(stream: Page) -> float:
    """Records that were refused for any reason, without those of dry runs."""
    reasons = _part(stream, "rejected")
    return sum(_number(reasons, reason) for reason in reasons if reason != "dry_run")


def _throttled(stream: Page, before: Page | None) -> str:
    """The part of all attempts that were throttled: between two pages, or since the start."""
    if "throttled" not in stream:
        return NONE
    attempts, throttled = _number(stream, "attempts"), _number(stream, "throttled")
    if before is not None:
        throttled -= _number(before, "throttled")
        attempts -= _number(before, "attempts")
    return f"{max(0.0, throttled) / attempts:.1%}" if attempts > 0 else NONE


def _shard_row(shard: Page, stream: Page) -> tuple[str, ...]:
    backlog, pace = _part(shard, "backlog"), _part(shard, "pace")
    share = min(_number(pace, "records_share"), _number(pace, "bytes_share"))
    backoff_s = _number(shard, "backoff_s")
    state = str(shard.get("state", "?"))
    return (
        str(shard.get("shard_id") or "(any)"),
        _qualified(stream),
        f"{_number(backlog, 'records'):,.0f}",
        byte_text(int(_number(backlog, "bytes"))),
        age_text(int(_number(backlog, "seconds") * 1000)),
        f"{share:.1%}",
        f"{state}, {backoff_s:.1f} s" if backoff_s else state,
    )


def _hot_load(shard: Page, stream: Page) -> HotLoad:
    load = _part(shard, "load")
    keys: list[tuple[str, ...]] = [
        (
            f"#{place}",
            f"{each.get('key', '?')}{' (hash key)' * bool(each.get('is_explicit_hash_key'))}",
            f"{_number(each, 'records_part'):.1%}",
            f"{_number(each, 'bytes_part'):.1%}",
        )
        for place, each in enumerate(_list(load, "keys")[:KEYS_MAX], start=1)
    ]
    shard_id = str(shard.get("shard_id") or "(any)")
    return HotLoad(f"{shard_id} of {_qualified(stream)}: {load.get('advice', '?')}", keys)


def _qualified(stream: Page) -> str:
    name, upstream = str(stream.get("name", "?")), stream.get("upstream", "default")
    return name if upstream == "default" else f"@{upstream}/{name}"


def _of(part: Page, taken: str, most: str) -> str:
    used, bound = _number(part, taken), _number(part, most)
    share = f" ({used / bound:.0%})" if bound else ""
    return f"{byte_text(int(used))} of {byte_text(int(bound))}{share}"


def _part(page: Page, key: str) -> Page:
    found = page.get(key)
    return found if isinstance(found, Mapping) else {}


def _list(page: Page, key: str) -> Sequence[Page]:
    found = page.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _number(page: Page | None, key: str) -> float:
    found = page.get(key) if page is not None else None
    return found if isinstance(found, int | float) else 0
