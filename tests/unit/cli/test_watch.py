"""`kdaemon health`, `status` and `top`: what they show of a page, and what they say without one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from rich.console import Console

from kdaemon.base.errors import Trouble
from kdaemon.base.verdict import Verdict
from kdaemon.cli import cli
from kdaemon.cli.live import rendered
from kdaemon.cli.screen import screen
from kdaemon.cli.watch import COLUMNS
from kdaemon.observe.remedies import advised, remedy
from kdaemon.settle.verdict import _HOLDS, _MENDING, _TROUBLES
from tests.kit.certificates import Authority
from tests.kit.web import Handler, serving

STREAM: dict[str, Any] = {
    "name": "orders",
    "upstream": "default",
    "state": "ok",
    "hold": None,
    "unavailable": None,
    "received": 1000,
    "delivered": 800,
    "buffered": 200,
    "spooled": 0,
    "in_flight": 20,
    "oldest_queued_s": 61.5,
    "rejected": {"full": 30, "invalid": 20, "dry_run": 70},
    "attempts": 1000,
    "throttled": 250,
    "throttled_share": 0.25,
    "delivery_mean_s": 0.042,
    "per_second": {"received": 10.0, "delivered": 8.0, "delivered_bytes": 1.0},
    "hottest_shards": [
        {
            "shard_id": "shardId-000000000001",
            "backlog": {"records": 150, "bytes": 4096, "seconds": 12.0},
            "pace": {"records_share": 0.5, "bytes_share": 0.25},
            "state": "backing off",
            "backoff_s": 0.4,
        }
    ],
}
_TROUBLE_HOLDS = [each.value for each, verdict in _TROUBLES.items() if verdict is Verdict.HOLD]
PAGE: dict[str, Any] = {
    "version": "0.1.0",
    "uptime_s": 100.0,
    "state": "ready",
    "not_ready_because": None,
    "memory": {"bytes_taken": 1048576, "bytes_max": 268435456, "is_full": False},
    "spool": {"frames": 3, "live_bytes": 1000, "bytes_max": 10000, "trouble": None},
    "listeners": {"http": {"connections": 7}},
    "upstreams": [
        {"name": "default", "service": "aws", "region": "eu-central-1", "account": "123456789012"}
        | {"health": "well", "streams": 1, "on_hold": 0}
    ],
    "streams": [STREAM],
}


def page(uptime_s: float = 100.0, **stream: Any) -> dict[str, Any]:
    return {**PAGE, "uptime_s": uptime_s, "streams": [{**STREAM, **stream}]}


def test_each_column_of_streams_is_explained_in_the_help_and_in_the_documents() -> None:
    assert len(COLUMNS) == len(screen(PAGE).streams[0])
    document = (Path(__file__).parents[3] / "docs" / "commands.md").read_text()
    for name, said in COLUMNS:
        assert f"| {name} | {said} |" in document
        assert said.endswith(".")
    for command in ("status", "top"):
        told = " ".join(invoke(command, "--help").stdout.split())
        assert all(f"{name} {said}" in told for name, said in COLUMNS)


def test_one_page_shows_the_rates_of_the_whole_life() -> None:
    found = screen(PAGE)
    assert found.streams == [
        ("orders", "10", "8", "0.5", "200", "0", "20", "1 min 1 s", "25.0%", "42 ms", "ok")
    ]
    assert found.shards[0][:5] == ("shardId-000000000001", "orders", "150", "4.0 KiB", "12 s")
    assert found.shards[0][5:] == ("25.0%", "backing off, 0.4 s")
    assert found.holds == []
    assert "kdaemon 0.1.0: ready, up 1 min 40 s" in found.head
    assert any("default (aws eu-central-1 123456789012): well, 1 stream" in x for x in found.head)


def test_two_pages_show_the_rates_between_them() -> None:
    rejected = {"full": 30, "invalid": 60, "dry_run": 99}
    later = page(102.0, received=1500, delivered=1400, attempts=2000, rejected=rejected)
    later["spool"] = {**PAGE["spool"], "live_bytes": 3000}
    found = screen(later, PAGE)
    assert found.streams[0][1:3] == ("250", "300")
    assert found.streams[0][3] == "20", "(60 - 20) in 2 s; who only asked was refused nothing"
    assert found.streams[0][8] == "0.0%", "nothing was throttled between them"
    assert any("full in 7 s" in line for line in found.head), "7,000 bytes at 1,000 a second"


def test_what_was_throttled_between_two_pages_is_told_after_years_too() -> None:
    """The share of all attempts is rounded: of a billion that is more than a second's."""
    old = page(1e7, attempts=10**9, throttled=123_456_789, throttled_share=0.1235)
    new = page(1e7 + 1, attempts=10**9 + 1000, throttled=123_456_989, throttled_share=0.1235)
    assert screen(new, old).streams[0][8] == "20.0%"
    assert screen(old).streams[0][8] == "12.3%"


def test_a_daemon_that_was_started_anew_has_no_rates_before() -> None:
    assert screen(page(3.0, received=5), PAGE).streams[0][1] == "10"


def test_a_hold_is_told_in_the_services_words_with_the_remedy() -> None:
    hold = {"code": "AccessDeniedException", "message": "User x is not authorized"}
    told = screen(page(hold=hold, upstream="eu")).holds
    assert told[0] == "@eu/orders is on hold: AccessDeniedException: User x is not authorized"
    assert "kdaemon iam" in told[1]
    unavailable = {"code": "InvalidArgumentException", "message": "The stream is service-managed"}
    told = screen(page(unavailable=unavailable)).holds
    assert told == ["orders takes nothing: InvalidArgumentException: The stream is service-managed"]


def test_a_stream_that_delivers_nothing_is_told_with_the_last_error_and_the_remedy() -> None:
    failing = {"code": "ProvisionedThroughputExceededException", "message": "Rate exceeded"}
    found = screen(page(state="failing", failing=failing))
    assert found.streams[0][-1] == "failing"
    assert found.holds[0] == f"orders is failing: {failing['code']}: Rate exceeded"
    assert found.holds[1].startswith("  do: its shards take no more")


def test_what_is_full_takes_nothing_or_was_given_up_is_told_with_what_to_do() -> None:
    spool = {"frames": 3, "live_bytes": 9600, "bytes_max": 10000, "trouble": None}
    full = screen({**PAGE, "spool": spool, "memory": {**PAGE["memory"], "is_full": True}}).holds
    assert [line for line in full if not line.startswith("  do: ")] == [
        "the spool is nearly full: clients wait, or are refused (when_full)",
        "memory is full: what comes is refused, or waits",
    ]
    assert len(full) == 4
    ill = screen({**PAGE, "spool": {**spool, "trouble": "read-only"}}).holds
    assert ill[0] == "the spool takes nothing: read-only"
    dead = page(dead={"expired": 3, "poison": 1000})
    told = "orders: 1,003 records are dead since the start (expired, poison)"
    assert screen(dead).holds == [told, "  do: kdaemon dead-letters list"]
    assert screen({**dead, "spool": None}).holds == [told]


def test_a_stream_that_is_not_there_is_told_before_its_first_record_and_once() -> None:
    unseen = {"code": "ResourceNotFoundException", "message": "Stream orders not found."}
    found = screen(page(state="unseen", unseen=unseen))
    assert found.streams[0][-1] == "unseen"
    told = "orders is not seen at the service: ResourceNotFoundException: Stream orders not found."
    assert found.holds[0] == told
    assert found.holds[1].startswith("  do: make the stream")
    assert screen(page(state="unseen", unseen=None)).holds == [], "nobody was asked yet"
    (held, _) = screen(page(state="hold", hold=unseen, unseen=unseen)).holds
    assert held.startswith("orders is on hold")


@pytest.mark.parametrize(
    ("outcome", "why", "told", "do"),
    [
        ("wrong", "k.toml: region: is x", "old settings hold: k.toml: region: is x", "correct it"),
        ("restart", "log.format", "hold: needs a restart: log.format", "restart the daemon"),
    ],
)
def test_a_refused_reload_is_told_until_one_is_taken(
    outcome: str, why: str, told: str, do: str
) -> None:
    found = screen({**PAGE, "refused_reload": {"outcome": outcome, "why": why}})
    assert "the last reload was refused" in found.holds[0]
    assert found.holds[0].endswith(told)
    assert found.holds[1].startswith(f"  do: {do}")
    assert screen({**PAGE, "refused_reload": None}).holds == []


def test_an_upstream_is_shown_with_the_address_that_was_configured() -> None:
    (upstream,) = PAGE["upstreams"]
    url = "http://127.0.0.1:4567"
    by = screen({**PAGE, "upstreams": [{**upstream, "endpoint": url, "endpoint_giver": "AWS_X"}]})
    assert any(f" at {url}, by AWS_X): well" in line for line in by.head)
    found = screen({**PAGE, "upstreams": [{**upstream, "endpoint": url}]})
    assert any(f"default (aws eu-central-1 123456789012 at {url}): well" in x for x in found.head)


def test_a_page_of_another_version_is_read_as_far_as_it_goes() -> None:
    found = screen({"streams": [{"name": "s", "hottest_shards": [{}], "news": 1}], "memory": 3})
    assert found.streams[0][0] == "s"
    assert found.shards[0][0] == "(any)"


def test_a_terminal_is_shown_the_same_and_obeys_nobody() -> None:
    text = StringIO()
    hold = {"code": "X", "message": "\x1b[31mred"}
    found = screen(page(name="or\x1b[2Jders", hold=hold))
    Console(file=text, width=160).print(rendered(found, "NO ANSWER\x07", 160, is_live=True))
    shown = text.getvalue()
    assert "\x1b" not in shown.replace("\\x1b", "")
    assert "\x07" not in shown
    for part in ("NO ANSWER", "shardId-000000000001", "is on hold", "200"):
        assert part in shown


def with_load(name: str, key: str) -> dict[str, Any]:
    load = {
        "advice": "at 212% of its quota of bytes: key #1 is 61% of that: spread this key",
        "keys": [
            {"key": key, "records_part": 0.5, "bytes_part": 0.61, "is_explicit_hash_key": False},
            {"key": "7", "records_part": 0.25, "bytes_part": 0.1, "is_explicit_hash_key": True},
            *({"key": str(each), "records_part": 0.01, "bytes_part": 0.01} for each in range(8)),
        ],
    }
    shard = {**STREAM["hottest_shards"][0], "load": load}
    return {**STREAM, "name": name, "buffered": 123_456_789, "hottest_shards": [shard]}


def test_a_hot_shard_is_shown_with_the_advice_and_its_heaviest_keys() -> None:
    streams = [STREAM, *(with_load(f"s{at}", "customer-42") for at in range(4))]
    found = screen({**PAGE, "streams": streams})
    assert len(found.shards) == 5
    assert [each.advice.partition(":")[0] for each in found.loads] == [
        "shardId-000000000001 of s0",
        "shardId-000000000001 of s1",
        "shardId-000000000001 of s2",
    ]
    assert found.loads[0].advice.endswith("key #1 is 61% of that: spread this key")
    keys = found.loads[0].keys
    assert keys[:2] == [
        ("#1", "customer-42", "50.0%", "61.0%"),
        ("#2", "7 (hash key)", "25.0%", "10.0%"),
    ]
    assert len(keys) == 5


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", ["orders", "a-long-name-of-a-stream" * 5, "заказы-" * 15])
@pytest.mark.parametrize("is_live", [True, False])
def test_a_terminal_of_any_width_cuts_names_and_no_numbers(
    name: str, width: int, *, is_live: bool
) -> None:
    text = StringIO()
    found = screen({**PAGE, "streams": [with_load(name, "k" * 256), with_load("s", "ключ")]})
    Console(file=text, width=width).print(rendered(found, "", width, is_live=is_live))
    lines = text.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    shown = "\n".join(lines)
    for part in ("123,456,789", "25.0%", "12 s", "shardId-000000000001 ", "61.0%", "HOT KEY"):
        assert part in shown
    assert ("IN FLIGHT" in shown) is (width >= 120)
    assert ("spread this key" in shown.replace("\n", " ").replace("  ", " ")) or width < 200


@pytest.mark.parametrize("code", sorted({*_HOLDS, *_MENDING, *_TROUBLE_HOLDS}))
def test_what_holds_a_stream_has_a_remedy(code: str) -> None:
    assert remedy(code) is not None


def test_a_signature_that_expired_is_the_clock() -> None:
    told = remedy("InvalidSignatureException", "Signature expired: 2026 is now earlier than 2027")
    assert told is not None
    assert told.startswith("set this machine's clock")
    assert remedy("NobodyKnows") is None
    assert remedy(Trouble.DNS.value) is not None


@pytest.mark.parametrize(
    ("code", "message", "shown"),
    [
        (
            Trouble.NO_REGION,
            "no region: set the key `region`",
            ("no region", "set the key `region`"),
        ),
        (Trouble.PROXY, "x is bad: correct it, or so", ("x is bad", "correct it, or so")),
        (Trouble.TLS, "no TLS: host", ("no TLS: host", remedy("TlsError"))),
        ("ResourceNotFound", "no: set x", ("no: set x", remedy("ResourceNotFound"))),
    ],
)
def test_advice_in_a_message_of_kdaemon_s_own_is_not_given_twice(
    code: Trouble | str, message: str, shown: tuple[str, str | None]
) -> None:
    name = code.value if isinstance(code, Trouble) else code
    assert advised(name, message) == shown


# The commands


@contextmanager
def pages(answers: dict[str, tuple[int, bytes]], tls: Any = None) -> Iterator[str]:
    class Answering(Handler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            self.answer(*answers.get(self.path, (404, b"no")))

    server = HTTPServer(("127.0.0.1", 0), Answering)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    with serving(server) as url:
        yield url if tls is None else url.replace("http://", "https://")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_health_says_yes_or_why_not() -> None:
    answers = {"/readyz": (503, b"memory is full\n"), "/livez": (200, b"ok\n")}
    with pages(answers) as url:
        ready, live = invoke("health", "--admin", url), invoke("health", "--live", "--admin", url)
    assert (ready.exit_code, ready.stderr) == (1, "not ready: memory is full\n")
    assert (live.exit_code, live.stdout) == (0, "ok\n")


@pytest.mark.parametrize("command", ["health", "status", "reload"])
def test_who_answers_is_no_admin_listener(command: str) -> None:
    """The HTTP listener, say: its refusal is no state of the daemon."""
    with pages({}) as url:
        result = invoke(command, "--admin", url)
    assert result.exit_code == 1
    assert "HTTP 404, and no" in result.stderr
    assert "is this its listen.admin?" in result.stderr


@pytest.mark.parametrize("command", ["health", "status", "reload"])
def test_ctrl_c_is_exit_130(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_given: object) -> None:
        raise KeyboardInterrupt

    for module in ("admin", "watch"):
        monkeypatch.setattr(f"kdaemon.cli.{module}.get", interrupted)
    result = invoke(command, "--admin", "127.0.0.1:1")
    assert (result.exit_code, result.stderr) == (130, "\ninterrupted\n")


@pytest.mark.parametrize("command", ["health", "status", "top", "tap", "reload"])
def test_a_key_without_its_certificate_is_wrong_usage(command: str) -> None:
    more = ("--stream", "orders") if command == "tap" else ()
    result = invoke(command, "--admin", "127.0.0.1:1", "--client-key", "/nowhere", *more)
    assert result.exit_code == 2
    assert "--client-key goes with --client-certificate" in result.stderr


def test_a_listener_that_speaks_otherwise_is_said(tmp_path: Path) -> None:
    import ssl

    with pages({}) as url:
        result = invoke("health", "--admin", url.replace("http://", "https://"))
    assert "is it plain HTTP? Then say http://" in result.stderr
    files = Authority(tmp_path).issue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with pages({"/readyz": (200, b"ok\n")}, context) as url:
        result = invoke("health", "--admin", url)
        assert "--ca-file" in result.stderr
        result = invoke("health", "--admin", url, "--ca-file", str(files.authority))
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("command", ["health", "status", "top"])
def test_nobody_there_is_exit_1_with_the_address(command: str) -> None:
    with pages({}) as url:
        pass
    result = invoke(command, "--admin", url)
    assert result.exit_code == 1
    assert f"{url}: nobody listens there: is kdaemon running" in result.stderr


@pytest.mark.parametrize("command", ["status", "top"])
@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}"])
def test_a_page_of_somebody_else_is_exit_1(command: str, body: bytes) -> None:
    with pages({"/statusz": (200, body)}) as url:
        result = invoke(command, "--admin", url)
    assert result.exit_code == 1
    assert "no page of kdaemon's" in result.stderr


@pytest.mark.parametrize("setting", ["listen.admin=", "listen.admin=127.0.0.1:0"])
@pytest.mark.parametrize("command", ["health", "status", "top"])
def test_a_listener_that_cannot_be_asked_is_named(command: str, setting: str) -> None:
    result = invoke(command, "--set", setting)
    assert result.exit_code == 1
    assert "listen.admin" in result.stderr
    assert "--admin" in result.stderr


@pytest.mark.parametrize(
    "url", ["ftp://h:1", "http://h:1/path", "http://h:99999", "http://", "host", "", "[::1"]
)
@pytest.mark.parametrize("command", ["health", "reload"])
def test_a_wrong_url_is_wrong_usage(command: str, url: str) -> None:
    result = invoke(command, "--admin", url)
    assert result.exit_code == 2
    assert "--admin" in result.stderr


def test_a_wrong_configuration_is_78() -> None:
    assert invoke("status", "--set", "listen.admn=x").exit_code == 78


def test_the_address_is_that_of_the_configuration() -> None:
    with pages({"/statusz": (200, json.dumps(PAGE).encode())}) as url:
        address = url.partition("//")[2]
        port = address.rpartition(":")[2]
        for setting in (address, f"localhost:{port}"):
            result = invoke("status", "--set", f"listen.admin={setting}")
            assert result.exit_code == 0, result.stderr
        wide = ("--set", f"listen.admin=0.0.0.0:{port}", "--set", "listen.insecure=true")
        assert "orders" in invoke("status", *wide).stdout
        assert json.loads(invoke("status", "--json", *wide).stdout) == PAGE


def test_the_listeners_own_certificate_is_trusted_and_no_other(tmp_path: Path) -> None:
    import ssl

    files = Authority(tmp_path).issue()
    other = Authority(tmp_path / "other").issue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with pages({"/readyz": (200, b"ok\n")}, context) as url:
        address = url.partition("//")[2]

        def asked(given: Any) -> Result:
            settings = {
                "listen.admin": address,
                "listen.admin_tls": "true",
                "listen.tls_certificate": str(given.certificate),
                "listen.tls_key": str(given.key),
            }
            flags = [part for pair in settings.items() for part in ("--set", "=".join(pair))]
            return invoke("health", *flags)

        assert asked(files).exit_code == 0
        assert "CERTIFICATE_VERIFY_FAILED" in asked(other).stderr


def test_top_ends_after_its_looks_and_shows_rates() -> None:
    with pages({"/statusz": (200, json.dumps(PAGE).encode())}) as url:
        result = invoke("top", "--admin", url, "--count", "2", "--every", "0.1")
    assert result.exit_code == 0
    assert result.stdout.count("kdaemon 0.1.0: ready") == 2


def test_workers_are_told_of_where_there_are_several() -> None:
    def worker(number: int, **more: object) -> dict[str, object]:
        return {"worker": number, "state": "serving", "not_ready_because": None, **more}

    assert not any(line.startswith("workers") for line in screen({}).head)
    (line,) = [
        line
        for line in screen({"workers": [worker(1), worker(2)]}).head
        if line.startswith("workers")
    ]
    assert line == "workers: 2 of 2 serve"
    some = [
        worker(1, restarts=3),
        worker(2, state="waiting", not_ready_because="starting again"),
        worker(3, is_heir=True),
    ]
    (line,) = [each for each in screen({"workers": some}).head if each.startswith("workers")]
    assert line == (
        "workers: 1 of 2 serve, 2: starting again, 3 restarts,"
        " 1 deliver what workers left that are no more"
    )
