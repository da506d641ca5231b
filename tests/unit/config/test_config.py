import re
import tomllib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.errors import ConfigError, ConfigProblem
from kdaemon.base.field_path import parse_field_path
from kdaemon.base.operations import PASSED_ON_DEFAULT
from kdaemon.cli import cli
from kdaemon.config import Config, resolve_unix_path, user_runtime_problem
from kdaemon.config.keys import KEYS, STREAM_KEYS, TABLES, UPSTREAM_KEYS, VARIABLES
from kdaemon.config.load import load_config
from kdaemon.config.old_keys import OLD_KEYS
from kdaemon.config.values import Address, parse_address

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"
ARN = "arn:aws:kinesis:eu-central-1:123456789012:stream/clicks"
CN_ARN = ARN.replace("aws", "aws-cn")
FAR = "endpoint_url = 'https://vpce-1-a.kinesis.us-east-1.vpce.amazonaws.com'\n"
MIB = 1024 * 1024


def problems(
    text: str | None = None,
    environ: dict[str, str] | None = None,
    flags: tuple[tuple[str, str], ...] = (),
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(text=text, source="k.toml", environ=environ or {}, flags=flags)
    return [str(problem) for problem in caught.value.problems]


# The example


def test_the_example_loads_to_exactly_the_defaults() -> None:
    assert load_config(text=EXAMPLE.read_text()) == Config() == load_config()


def test_a_byte_order_mark_before_the_first_key_says_nothing() -> None:
    assert load_config(text="\ufeffstreams_max = 7").streams_max == 7


def test_the_example_sets_every_key() -> None:
    document = tomllib.loads(EXAMPLE.read_text())
    stated: set[tuple[str, ...]] = {(name,) for name in document if name not in TABLES}
    stated |= {(table, name) for table in TABLES for name in document[table]}
    assert stated == set(KEYS)


def test_the_streams_that_the_example_shows_load_too() -> None:
    text = EXAMPLE.read_text()
    shown = text[text.index("# [streams.orders]") :]
    config = load_config(text=re.sub(r"^# (?=\[|\w+ = )", "", shown, flags=re.MULTILINE))
    assert sorted(config.streams) == ["app", "clicks", "name.with.dots", "orders", "payments"]
    assert config.streams["app"].partition_key_field == "user.id"


def test_no_default_falls_outside_its_own_bounds() -> None:
    for path in KEYS:
        value = getattr(Config(), path[0]) if len(path) == 1 else None
        value = value if len(path) == 1 else getattr(getattr(Config(), path[0]), path[1])
        given = ",".join(value) if isinstance(value, tuple) else str(value)
        assert load_config(flags=[(".".join(path), given)]) == Config(), path


def test_every_field_of_the_shape_is_a_key() -> None:
    names: set[tuple[str, ...]] = set()
    for field in fields(Config):
        value = getattr(Config(), field.name)
        if is_dataclass(value):
            names |= {(field.name, inner.name) for inner in fields(value)}
        else:
            names.add((field.name,))
    derived = ("name", "worker_count")
    of_one_stream = {("default", name) for name in (*derived, "arn", "socket", "upstream_name")}
    assert names - set(KEYS) == {
        *(("streams",), ("upstreams",), ("defaults",), ("worker_count",)),
        *of_one_stream,
    }


# Precedence


def test_flags_win_over_environment_over_file_over_defaults() -> None:
    text = "[drain]\nlame_duck_ms = 1\n[spool]\nbytes_max = 99999999\n[send]\ncall_timeout_ms = 4\n"
    environ = {"KDAEMON_DRAIN_LAME_DUCK_MS": "2", "KDAEMON_SPOOL_BYTES_MAX": "88888888"}
    config = load_config(text=text, environ=environ, flags=[("drain.lame_duck_ms", "3")])
    given = (config.drain.lame_duck_ms, config.spool.bytes_max, config.send.call_timeout_ms)
    assert given == (3, 88_888_888, 4)
    assert config.drain.deadline_ms == 25_000


def test_a_wrong_value_is_told_even_if_a_later_source_overrides_it() -> None:
    found = problems("region = 1", {"KDAEMON_REGION": "eu-central-1"})
    assert found == ['k.toml: region: is 1; expected a region, such as "eu-central-1", or ""']


@pytest.mark.parametrize("name", ["AWS/kinesis", ":x", "a b", "ä", "x\\n", "x" * 256])
def test_a_namespace_that_cloudwatch_refuses_is_refused(name: str) -> None:
    (problem,) = problems(f'[metrics]\nemf_namespace = "{name}"')
    assert "metrics.emf_namespace" in problem
    assert "a namespace of CloudWatch" in problem


@pytest.mark.parametrize("name", ["kdaemon", "team/kdaemon", "a.b_c-d/e#f:g", "x" * 255])
def test_a_namespace_that_cloudwatch_takes_is_taken(name: str) -> None:
    config = load_config(text=f'[metrics]\nemf_namespace = "{name}"')
    assert config.metrics.emf_namespace == name


def test_texts_from_the_environment_become_the_kind_of_their_key() -> None:
    config = load_config(
        environ={
            "KDAEMON_ACCEPT_UNLISTED": "TRUE",
            "KDAEMON_DEFAULT_IN_FLIGHT_MAX": "5",
            "KDAEMON_LISTEN_HTTP": "",
            "KDAEMON_SANDBOX_STREAMS": "a, b,c",
            "KDAEMON_STREAMS_MAX": "7",
            "KDAEMON_CONFIG": "/etc/kdaemon/config.toml",
            "HOME": "/root",
        }
    )
    assert (config.default.in_flight_max, config.listen.http, config.streams_max) == (5, "", 7)
    assert config.sandbox.streams == ("a", "b", "c")


def test_no_two_keys_have_one_variable() -> None:
    assert len(VARIABLES) == len(KEYS)


# Every problem at once


def test_all_problems_of_file_environment_flags_and_rules_come_in_one_error() -> None:
    text = """
        regoin = "x"
        linger_ms = 5
        service = "gcp"
        listen = 3
        [send]
        connections_max = true
        call_timeout_ms = 0
        [default]
        arn = "x"
        max_age_ms = nan
        buffer_bytes_max = 99999999999999999999999
        linger_ms = 30000
        [streams.orders.v2]
        linger_ms = 1
        [streams.'bad name']
        lingerms = 3
        [sandbox]
        streams = ["a", ""]
        listen = ""
    """
    environ = {"KDAEMON_STREAMS_X": "1", "KDAEMON_LISTEN_HTPP": "", "KDAEMON_LOG_LEVEL": "loud"}
    flags = (("foo.bar", "1"), ("metrics.per_shard", "maybe"), ("listen.admin", "[::]:1"))
    found = problems(text, environ, flags)
    expected = [
        'k.toml: regoin: is no key; did you mean "region"?',
        "k.toml: linger_ms: is no key; did you mean default.linger_ms?",
        'k.toml: service: is "gcp"; expected "aws" or "yandex"',
        "k.toml: listen: is 3; expected a table, as [listen]",
        "k.toml: send.connections_max: is true; expected a whole number from 0 to 100000",
        "k.toml: send.call_timeout_ms: is 0; expected a whole number of milliseconds from 1",
        "k.toml: default.arn: is no key; an ARN belongs to one stream",
        "k.toml: default.max_age_ms: is nan; expected a whole number of milliseconds from 0",
        "k.toml: default.buffer_bytes_max: is 99999999999999999999999; expected a whole number of",
        'k.toml: streams.orders.v2: is no key; a name with a dot stands in quotes, as [streams."or',
        'k.toml: streams."bad name".lingerms: is no key; did you mean "linger_ms"?',
        "k.toml: sandbox.streams: is ['a', '']; expected a list",
        'k.toml: sandbox.listen: is ""; expected HOST:PORT',
        "environment: KDAEMON_LISTEN_HTPP: is no setting; did you mean KDAEMON_LISTEN_HTTP?",
        'environment: KDAEMON_LOG_LEVEL: is "loud"; expected "debug", "info", "warning" or "error"',
        "environment: KDAEMON_STREAMS_X: a stream cannot be set by a variable",
        "flags: foo.bar: is no key; known here: service, region",
        'flags: metrics.per_shard: is "maybe"; expected true or false',
        "flags: listen.admin: address :: faces other machines, and nothing checks who writes",
        "k.toml: default.linger_ms: linger_ms (30000) must be below deadline_ms (5000)",
        'k.toml: streams."bad name": is no name of a stream',
    ]
    assert len(found) == len(expected), "\n".join(found)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start), line


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a = 1\nb =\n", "line 2: is not TOML: Invalid value at column 4"),
        ("a = 1\na = 2", "line 2: is not TOML: Cannot overwrite a value at the end of the file"),
        ("\n\n[send", "line 3: is not TOML: "),
        ('x = "', "line 1: is not TOML: "),
        ("a = " + "[" * 100_000, "file: is nested too deeply"),
    ],
)
def test_text_that_is_not_toml_is_told_with_its_line_and_the_environment_is_still_checked(
    text: str, where: str
) -> None:
    found = problems(text, {"KDAEMON_REGION": "X Y"})
    assert found[0].startswith(f"k.toml: {where}")
    assert found[1].startswith("environment: KDAEMON_REGION: ")


@pytest.mark.parametrize("key", ["streams.orders", "streams", "upstreams.eu", "streams."])
def test_a_flag_for_a_table_of_tables_is_told_what_is_missing(key: str) -> None:
    (found,) = problems("", flags=((key, "x"),))
    assert found == f"flags: {key}: is no key; expected {key.partition('.')[0]}.NAME.KEY"


@pytest.mark.parametrize(
    ("service", "name"), [("aws", "a b"), ("aws", "/a/b"), ("yandex", "@a"), ("yandex", "a\tb")]
)
def test_the_streams_of_the_sandbox_have_names_of_its_service(service: str, name: str) -> None:
    (found,) = problems(f"service = '{service}'\nsandbox.streams = ['demo', '{name}']")
    assert found.startswith("k.toml: sandbox.streams: has ")
    assert ("which is no name of a stream" if service == "aws" else "which is no path") in found
    load_config(text="service = 'yandex'\nsandbox.streams = ['/a/b']")


def test_a_problem_never_shows_more_than_a_short_part_of_a_value() -> None:
    assert len(problems(f"service = '{'x' * 100_000}'")[0]) < 200


def test_the_user_and_password_of_a_url_are_refused() -> None:
    assert "no user" in problems("endpoint_url = 'https://me:secret@host/'")[0]


# The environment of others


def test_variables_that_kubernetes_sets_for_a_service_named_kdaemon_are_not_ours() -> None:
    environ = {
        "KDAEMON_SERVICE_HOST": "10.0.0.1",
        "KDAEMON_SERVICE_PORT": "8990",
        "KDAEMON_SERVICE_PORT_HTTP": "8990",
        "KDAEMON_PORT": "tcp://10.0.0.1:8990",
        "KDAEMON_PORT_8990_TCP": "tcp://10.0.0.1:8990",
        "KDAEMON_PORT_8990_TCP_ADDR": "10.0.0.1",
        "KDAEMON_METRICS_SERVICE_HOST": "10.0.0.1",
        "KDAEMON_METRICS_PORT": "tcp://10.0.0.1:8991",
    }
    assert load_config(environ=environ) == Config()
    assert problems(environ={"KDAEMON_LISTEN_PORT": "8990"})


# Keys that were settings once

OLD = [(".".join(path), words) for path, words in OLD_KEYS.items()]
OLD_OF_TABLES = [
    (f"{table}.one.{name}", words)
    for (of, name), words in OLD_KEYS.items()
    for table, general in (("streams", "default"), ("upstreams", "send"))
    if of == general
]


@pytest.mark.parametrize(("key", "words"), [*OLD, *OLD_OF_TABLES])
def test_an_old_key_is_told_what_replaces_it_wherever_it_is_given(key: str, words: str) -> None:
    """Whatever its value, of which nothing is said."""
    table, _, name = key.rpartition(".")
    told = f"is no setting any more: {words}"
    required = "region = 'eu-west-1'\naccount_id = '123456789012'\n" if "upstreams" in table else ""
    assert problems(f"[{table}]\n{required}{name} = 'x'") == [f"k.toml: {key}: {told}"]
    if key in dict(OLD):
        variable = "KDAEMON_" + key.replace(".", "_").upper()
        assert problems(environ={variable: "1"}) == [f"environment: {variable}: {told}"]
        assert problems(flags=((key, "1"),)) == [f"flags: {key}: {told}"]
    else:
        assert f"flags: {key}: {told}" in problems(flags=((key, "1"),))


def test_the_command_that_checks_tells_all_old_keys_at_once(tmp_path: Path) -> None:
    path = tmp_path / "k.toml"
    path.write_text("[send]\nread_timeout_ms = 10000\n[streams.orders]\nfirst_share = 1.0\n")
    result = CliRunner().invoke(cli, ["check", "--config", str(path)])
    assert result.exit_code == 78
    assert "send.read_timeout_ms: is no setting any more: leave it out" in result.stderr
    assert "streams.orders.first_share: is no setting any more: set only_writer" in result.stderr


def test_no_old_key_is_a_key_and_each_says_what_to_write() -> None:
    names = [path[-1] for path in OLD_KEYS]
    assert len(names) == len(set(names)), "a name alone says which key it was"
    assert not {*names} & {*(path[-1] for path in KEYS), *STREAM_KEYS, *UPSTREAM_KEYS}
    for words in OLD_KEYS.values():
        assert words.startswith(("leave it out: ", "set "))


@pytest.mark.parametrize("old", OLD_KEYS, ids=".".join)
def test_an_old_key_in_a_table_where_it_never_was_is_told_all_the_same(
    old: tuple[str, ...],
) -> None:
    name, told = old[-1], f"is no setting any more (it was {'.'.join(old)}): {OLD_KEYS[old]}"
    for table in ("listen", "spool", "streams", "streams.orders", "upstreams"):
        where = f"{table}.{name}"
        if table != old[0] and (table, old[0]) != ("streams.orders", "default"):
            assert problems(f"[{table}]\n{name} = 1") == [f"k.toml: {where}: {told}"]
    assert problems(f"{name} = 1") == [f"k.toml: {name}: {told}"]
    assert problems(flags=((name, "1"),)) == [f"flags: {name}: {told}"]
    for variable in (f"KDAEMON_{name}".upper(), f"KDAEMON_SPOOL_{name}".upper()):
        assert problems(environ={variable: "1"}) == [f"environment: {variable}: {told}"]


def test_a_misspelt_key_is_no_old_one() -> None:
    assert "did you mean" in problems("shar = 0.5\nservce = 'aws'")[1]
    assert "is no key" in problems("[listen]\nshares = 0.5")[0]


# Rules between keys

RAW = "[streams.app]\nlines = 'raw'\n"
SIGNED = "[auth]\nhttp = 'sigv4'\nprincipals_file = '/p'\n"


@pytest.mark.parametrize(
    ("text", "key", "part"),
    [
        ("[listen]\nhttp = '0.0.0.0:80'", "listen.http", "set listen.insecure = true"),
        ("[listen]\nadmin = 'example.org:80'", "listen.admin", "set listen.insecure = true"),
        ("[sandbox]\nlisten = '[::]:80'", "sandbox.listen", "set listen.insecure = true"),
        (
            f"{SIGNED}[listen]\nhttp = '0.0.0.0:80'",
            "listen.http",
            "signed requests are not encrypted: whoever reads one on its way may send it again",
        ),
        (f"{SIGNED}[listen]\nadmin = '0.0.0.0:80'", "listen.admin", "nothing checks who writes"),
        ("[auth]\nhttp = 'sigv4'", "auth.http", 'is "sigv4", and no file says who may write'),
        ("[auth]\nunix = 'peer'", "auth.unix", 'is "peer", and no file says who may write'),
        ("[auth]\nprincipals_file = '/p'", "auth.principals_file", "is read by nobody"),
        (f"{SIGNED}[listen]\nhttp = ''", "auth.http", "and listen.http is off"),
        (
            "[auth]\nunix = 'peer'\nprincipals_file = '/p'\n[listen]\nunix = ''",
            "auth.unix",
            "and listen.unix is off",
        ),
        ("[listen]\nhttp = '127.0.0.1:8991'", "listen.http", "have one port (8991)"),
        ("[listen]\ntls_key = '/k'", "listen.tls_key", "listen.tls_certificate is not"),
        ("[listen]\ntls_certificate = '/c'", "listen.tls_certificate", "listen.tls_key is not"),
        ("[sandbox]\ntls_certificate = '/c'", "sandbox.tls_certificate", "sandbox.tls_key is not"),
        ("[listen]\ntls_client_ca = '/c'", "listen.tls_client_ca", "without TLS no client"),
        ("[sandbox]\ntls_client_ca = '/c'", "sandbox.tls_client_ca", "without TLS no client"),
        ("[listen]\nadmin_tls = true", "listen.admin_tls", "there is no listen.tls_certificate"),
        ("[listen]\nadmin_tap = true\nadmin = ''", "listen.admin_tap", "listen.admin is off"),
        (
            "[listen]\nadmin_tap = true\nadmin = '0.0.0.0:1'\ninsecure = true",
            "listen.admin_tap",
            "shows records to other machines",
        ),
        (
            "[listen]\nhttp = ''\nunix = '/s'\ntls_certificate = '/c'\ntls_key = '/k'",
            "listen.tls_certificate",
            "listen.http is off",
        ),
        ("[listen]\ntls_key = 'k'", "listen.tls_key", "absolute path of a file"),
        ("[listen]\nhttp = ''\nunix = ''", "listen.http", "no client could come in"),
        ("accept_unlisted = false", "accept_unlisted", "no record could be accepted"),
        ("streams_max = 1\n[streams]\na = {}\nb = {}", "streams_max", "streams listed (2)"),
        (
            "[default]\nrecord_bytes_max = 100000\nrequest_bytes_max = 99999",
            "default.record_bytes_max",
            "is above request_bytes_max (99999): the largest record would fit in no request",
        ),
        ("[default]\nbuffer_bytes_max = 268435457", "default.buffer_bytes_max", "bounds all"),
        (
            "[default]\nbuffer_bytes_max = 10485759\nrequest_bytes_max = 5242880",
            "default.buffer_bytes_max",
            "must fit while",
        ),
        (
            "memory_bytes_max = 10485759\n[default]\nrequest_bytes_max = 5242880",
            "default.request_bytes_max",
            "must fit while",
        ),
        ("[streams.a]\nlinger_ms = 20000", "streams.a.linger_ms", "before they are sent"),
        (
            "[default]\nrequest_bytes_max = 5242880\n[streams.a]\nrecord_bytes_max = 5242881",
            "streams.a.record_bytes_max",
            "in no request",
        ),
        ("[streams.'a b']", 'streams."a b"', "is no name of a stream"),
        (f"[streams.'{CN_ARN}']", f'streams."{CN_ARN}"', "eu-central-1 is of aws"),
        (f"[streams.clicks]\n[streams.'{ARN}']", f'streams."{ARN}"', "is the stream clicks again"),
        (
            f"[streams.clicks]\narn = '{ARN}'\n[streams.views]\narn = '{ARN}'",
            "streams.views",
            'again, which [streams."clicks"] lists',
        ),
        (
            "service = 'yandex'\n[streams.'/a/b']\n[streams.'/a//b/']",
            'streams."/a//b/"',
            "is the stream /a/b again",
        ),
        (
            "service = 'yandex'\nendpoint_url = 'https://x/a/'\n[streams.b]\n[streams.'/a/b']",
            'streams."/a/b"',
            "is the stream /a/b again",
        ),
        (f"{FAR}[streams.'{ARN}']", f'streams."{ARN}"', "is a stream of eu-central-1"),
        (f"{FAR}[streams.c]\narn = '{ARN}'", "streams.c.arn", "an endpoint of us-east-1"),
        (f"region = 'eu-central-1'\n{FAR}", "region", "an endpoint of us-east-1"),
        ("service = 'yandex'\n[streams.a]\narn = '" + ARN + "'", "streams.a.arn", "has no ARNs"),
        (f"service = 'yandex'\n[streams.'{ARN}']", "service", "has no ARNs"),
        (
            "service = 'yandex'\n[default]\nrequest_bytes_max = 5242881",
            "default.request_bytes_max",
            "Yandex Data Streams takes at most 5242880",
        ),
        (
            "service = 'yandex'\n[streams.a]\naggregation = 'kpl'",
            "streams.a.aggregation",
            "drops whole aggregates in silence",
        ),
        (
            "[default]\naggregation = 'kpl'\naggregate_bytes_max = 4096\nrecord_bytes_max = 4095",
            "default.aggregate_bytes_max",
            "(4096) is above record_bytes_max (4095)",
        ),
        (
            "[default]\naggregation = 'kpl'\nrecord_bytes_max = 4095",
            "default.record_bytes_max",
            "(51200) is above record_bytes_max (4095)",
        ),
        (
            "[default]\naggregation = 'kpl'\nbatch_bytes_max = 51199",
            "default.batch_bytes_max",
            "(51200) is above batch_bytes_max (51199)",
        ),
        ("[streams.a]\nsocket = '/s'", "streams.a.socket", 'set lines = "raw"'),
        ("[default]\npartition_key_field = 'u'", "default.partition_key_field", 'lines = "raw"'),
        (
            "[default]\nlines = 'raw'\n[streams.a]\nlines = 'envelope'\nstream_field = 's'",
            "streams.a.stream_field",
            "this stream takes envelopes",
        ),
        (f"{RAW}stream_field = 'to'", "streams.app.stream_field", "no other is"),
        (
            f"{RAW}ordering = 'partition_key'",
            "streams.app.lines",
            "these lines have no key, and so no order",
        ),
        (
            "[default]\nlines = 'raw'\n[streams.app]\nordering = 'partition_key'",
            "streams.app.ordering",
            "these lines have no key, and so no order",
        ),
        (
            f"[listen]\nunix = '/s'\n{RAW}socket = '/s'",
            "streams.app.socket",
            "which listen.unix has already",
        ),
        (
            f"{RAW}socket = '/s'\n[streams.b]\nlines = 'raw'\nsocket = '/s'",
            "streams.b.socket",
            "which streams.app.socket has already",
        ),
        (f"{RAW}socket = 'auto'", "streams.app.socket", "absolute path of a socket file"),
        ("[default]\nsocket = '/s'", "default.socket", "a socket belongs to one stream"),
        ("[default]\nlines = 'json'", "default.lines", '"envelope" or "raw"'),
        (f"{RAW}partition_key_field = 'a..b'", "streams.app.partition_key_field", "8 names"),
        (f"{RAW}partition_key_field = 'a\\b'", "streams.app.partition_key_field", "8 names"),
    ],
)
def test_settings_that_cannot_stand_together_are_refused(text: str, key: str, part: str) -> None:
    first = problems(text)[0]
    assert first.startswith(f"k.toml: {key}: ")
    assert part in first


def test_raw_lines_have_a_key_a_stream_and_a_socket() -> None:
    text = f"{RAW}ordering = 'partition_key'\npartition_key_field = 'log\\.user.id'\n"
    text += "socket = '/run/app.sock'\nstream_field = 'to'\n[streams.b]\n"
    app = load_config(text=text).streams["app"]
    assert parse_field_path(app.partition_key_field) == ("log.user", "id")
    off = load_config(text=f"[listen]\nhttp = ''\nunix = ''\n{RAW}socket = '/run/app.sock'")
    assert off.streams["app"].socket == "/run/app.sock"  # the only way in
    inherited = "[default]\nlines = 'raw'\npartition_key_field = 'id'\n[streams.a]\n"
    load_config(text=f"{inherited}lines = 'envelope'")  # says nothing of a key itself


def test_an_endpoint_of_the_streams_own_region_is_no_clash() -> None:
    other = ARN.replace("123456789012", "210987654321")
    load_config(
        text="region = 'eu-central-1'\nendpoint_url = 'https://kinesis.eu-central-1.amazonaws.com'\n"
        f"[streams.clicks]\n[streams.theirs]\narn = '{other}'"
    )
    load_config(text=f"endpoint_url = 'http://127.0.0.1:4566'\n[streams.'{ARN}']")


SPOOL = "[spool]\ndirectory = '/var/lib/kdaemon'\n"


def test_a_stream_with_order_may_drop_its_oldest_records() -> None:
    text = "[default]\nacknowledge = 'stored'\nwhen_full = 'drop_oldest'"
    load_config(text=f"{SPOOL}{text}\nordering = 'partition_key'")


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", (5 * MIB, 10 * MIB, 10 * MIB)),
        ("service = 'yandex'", (5 * MIB, 5 * MIB, 1 * MIB)),
        ("[default]\nbatch_bytes_max = 99999", (99_999, 10 * MIB, 10 * MIB)),
        ("[default]\nbuffer_bytes_max = 8388608", (5 * MIB, 4 * MIB, 4 * MIB)),
        ("memory_bytes_max = 4194304", (5 * MIB, 2 * MIB, 2 * MIB)),
        ("[default]\nrequest_bytes_max = 2097152", (5 * MIB, 2 * MIB, 2 * MIB)),
        ("[default]\nrecord_bytes_max = 2097152", (5 * MIB, 10 * MIB, 2 * MIB)),
        ("[streams.a]\nbuffer_bytes_max = 8388608", (5 * MIB, 4 * MIB, 4 * MIB)),
        ("[streams.a]\nrequest_bytes_max = 2097152", (5 * MIB, 2 * MIB, 2 * MIB)),
    ],
)
def test_a_size_that_nobody_gave_is_the_service_s_limit_or_what_the_others_leave_room_for(
    text: str, sizes: tuple[int, int, int]
) -> None:
    """Of a batch, a request, a record. The size of a batch bounds no record."""
    config = load_config(text=text)
    stream = config.streams.get("a", config.default)
    assert (stream.batch_bytes_max, stream.request_bytes_max, stream.record_bytes_max) == sizes


def test_the_size_of_aggregates_binds_only_who_aggregates() -> None:
    config = load_config(text="[default]\nrecord_bytes_max = 4096")
    assert config.default.aggregate_bytes_max == 51_200


@pytest.mark.parametrize("size", [1023, 1_048_577])
def test_aggregates_are_from_1_kib_to_1_mib(size: int) -> None:
    found = problems(f"[default]\naggregate_bytes_max = {size}")
    assert found[0].endswith("expected a whole number of bytes from 1024 to 1048576")


def test_a_clash_is_told_at_the_source_that_set_its_key() -> None:
    found = problems("memory_bytes_max = 1048576", {"KDAEMON_DEFAULT_BUFFER_BYTES_MAX": "16777216"})
    assert len(found) == 1
    assert found[0].startswith(
        "environment: KDAEMON_DEFAULT_BUFFER_BYTES_MAX: buffer_bytes_max (16"
    )


def test_a_clash_in_default_is_told_once_not_for_each_stream_that_inherits_it() -> None:
    assert (
        len(problems("[default]\nlinger_ms = 30000\n[streams.a]\n[streams.b]\nin_flight_max = 5"))
        == 1
    )


def test_what_is_broken_already_causes_no_second_problem() -> None:
    assert len(problems("[default]\nlinger_ms = 'long'\ndeadline_ms = 50")) == 1


@pytest.mark.parametrize("http", ["127.0.0.2:1", "[::1]:1", "localhost:1", "127.0.0.1:0", ""])
def test_loopback_needs_no_permission(http: str) -> None:
    assert load_config(flags=[("listen.http", http)]).listen.http == http


def test_an_exposed_listener_is_allowed_when_requests_are_signed_and_encrypted() -> None:
    tls = "tls_certificate = '/c'\ntls_key = '/k'\n"
    text = f"{SIGNED}[listen]\n{tls}http = '0.0.0.0:80'"
    assert load_config(text=text, source="k.toml").listen.tls_certificate == "/c"
    (problem,) = problems(f"[listen]\n{tls}http = '0.0.0.0:80'")
    assert "nothing checks who writes" in problem


def test_peers_may_be_asked_on_a_stream_s_own_socket_alone() -> None:
    auth = "[auth]\nunix = 'peer'\nprincipals_file = '/p'\n[listen]\nunix = ''\n"
    text = f"{auth}{RAW}socket = '/run/app.sock'"
    assert load_config(text=text, source="k.toml").streams["app"].socket == "/run/app.sock"


def test_an_exposed_listener_is_allowed_when_it_says_insecure() -> None:
    text = "[listen]\nhttp = '0.0.0.0:80'\ninsecure = true"
    for each in (text, SIGNED + text):
        assert load_config(text=each).listen.http_address == Address("0.0.0.0", 80)


# Defaults that follow another setting


@pytest.mark.parametrize(
    ("text", "connect_ms", "read_ms", "call_ms"),
    [
        ("", 3_000, 10_000, 15_000),
        ("service = 'yandex'\n", 3_000, 65_000, 70_000),
        ("service = 'yandex'\n[send]\ncall_timeout_ms = 140000", 6_000, 130_000, 140_000),
        ("[send]\ncall_timeout_ms = 60000", 12_000, 40_000, 60_000),
        ("[send]\ncall_timeout_ms = 6000", 3_000, 4_000, 6_000),
        ("[send]\ncall_timeout_ms = 300", 300, 200, 300),
        ("[send]\ncall_timeout_ms = 1", 1, 1, 1),
    ],
)
def test_how_long_a_call_may_take_says_how_long_its_parts_may(
    text: str, connect_ms: int, read_ms: int, call_ms: int
) -> None:
    found = load_config(text=text).upstream("default")
    times = (found.connect_timeout_ms, found.read_timeout_ms, found.call_timeout_ms)
    assert times == (connect_ms, read_ms, call_ms)


def test_a_stream_buffers_no_more_than_all_memory_where_only_that_is_set() -> None:
    assert load_config(text="memory_bytes_max = 33554432").default.buffer_bytes_max == 32 * MIB


def test_yandex_names_are_paths() -> None:
    path = "/ru-central1/b1g/etn/orders"
    assert path in load_config(text=f"service = 'yandex'\n[streams.'{path}']").streams


# Streams


def test_a_listed_stream_inherits_default_and_overrides_it() -> None:
    config = load_config(
        text="[default]\nmax_age_ms = 5\nlinger_ms = 7\n[streams.orders]\nmax_age_ms = 9",
        flags=[("streams.orders.in_flight_max", "3"), ("streams.a.b.linger_ms", "9")],
    )
    orders = config.streams["orders"]
    assert orders == replace(config.default, name="orders", max_age_ms=9, in_flight_max=3)
    assert orders.linger_ms == 7
    assert config.streams["a.b"].linger_ms == 9


# Addresses and sockets


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8990", Address("127.0.0.1", 8990)),
        ("[::1]:0", Address("::1", 0)),
        ("host.example:65535", Address("host.example", 65535)),
        ("", None),
    ],
)
def test_an_address_is_host_and_port(text: str, address: Address | None) -> None:
    assert parse_address(text) == address


def test_an_arn_of_a_partition_that_has_not_its_region_is_refused_with_the_reason() -> None:
    (problem,) = problems(text=f"[streams.c]\narn = '{CN_ARN}'")
    assert "streams.c.arn" in problem
    assert "names the partition aws-cn, and its region eu-central-1 is of aws" in problem
    china = CN_ARN.replace("eu-central-1", "cn-north-1")
    assert load_config(text=f"[streams.c]\narn = '{china}'").streams["c"].arn == china


@pytest.mark.parametrize("text", ["8990", ":8990", "h:65536", "h:", "::1:80", "a b:1", "h:1/x"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    assert "such as" in problems(flags=(("listen.http", text),))[0]


@pytest.mark.parametrize(
    ("unix", "environ", "path"),
    [
        (
            "auto",
            {"RUNTIME_DIRECTORY": "/run/k", "XDG_RUNTIME_DIR": "/run/u"},
            "/run/k/kdaemon.sock",
        ),
        ("auto", {"RUNTIME_DIRECTORY": "/run/a:/run/b"}, "/run/a/kdaemon.sock"),
        ("auto", {"XDG_RUNTIME_DIR": "/run/user/1/"}, "/run/user/1/kdaemon/kdaemon.sock"),
        ("auto", {}, None),
        ("auto", {"XDG_RUNTIME_DIR": "relative"}, None),
        ("auto", {"XDG_RUNTIME_DIR": "/nonexistent/x"}, None),
        ("", {"RUNTIME_DIRECTORY": "/run/kdaemon"}, None),
        ("/srv/k.sock", {"RUNTIME_DIRECTORY": "/run/kdaemon"}, "/srv/k.sock"),
    ],
)
def test_the_unix_socket_stands_where_the_environment_says(
    unix: str, environ: dict[str, str], path: str | None
) -> None:
    assert resolve_unix_path(unix, environ, exists) == path


def exists(path: str) -> bool:
    return not path.startswith("/nonexistent")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, None),
        ({"XDG_RUNTIME_DIR": ""}, None),
        ({"XDG_RUNTIME_DIR": "/run/user/1"}, None),
        ({"XDG_RUNTIME_DIR": "x", "RUNTIME_DIRECTORY": "/run/k"}, None),
        ({"XDG_RUNTIME_DIR": "x/y"}, "'x/y' is not an absolute path"),
        ({"XDG_RUNTIME_DIR": "x", "RUNTIME_DIRECTORY": "k"}, "'x' is not an absolute path"),
        ({"XDG_RUNTIME_DIR": "/nonexistent/x"}, "'/nonexistent/x' is no directory"),
    ],
)
def test_a_runtime_directory_of_the_user_that_is_ignored_is_told(
    environ: dict[str, str], words: str | None
) -> None:
    problem = user_runtime_problem(environ, exists)
    assert problem == (words and f"XDG_RUNTIME_DIR is ignored: {words}")


@pytest.mark.parametrize("path", ["k.sock", "/run/", "/" + "x" * 107])
def test_a_socket_path_that_cannot_be_bound_is_refused(path: str) -> None:
    assert problems(flags=(("listen.unix", path),))[0].startswith("flags: listen.unix: is ")


def test_the_mode_is_octal_text_and_a_number_is_refused() -> None:
    assert load_config(text="[listen]\nunix_mode = '0600'").listen.unix_mode_bits == 0o600
    assert "octal" in problems("[listen]\nunix_mode = 660")[0]


# Anything else


@given(
    environ=st.dictionaries(
        st.one_of(st.sampled_from(sorted(VARIABLES)), st.text(max_size=9).map("KDAEMON_".__add__)),
        st.text(max_size=20),
        max_size=6,
    ),
    flags=st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from([".".join(path) for path in KEYS]),
                st.sampled_from([f"streams.s.{name}" for name in STREAM_KEYS]),
                st.text(max_size=12),
            ),
            st.one_of(st.text(max_size=20), st.integers().map(str)),
        ),
        max_size=6,
    ),
    text=st.one_of(st.none(), st.text(max_size=60)),
)
def test_whatever_comes_in_gives_a_config_or_a_config_error(
    environ: dict[str, str], flags: list[tuple[str, str]], text: str | None
) -> None:
    found: list[ConfigProblem] = []
    try:
        load_config(text=text, environ=environ, flags=flags)
    except ConfigError as error:
        found = error.problems or [ConfigProblem("", "", "nothing\nis told")]
    assert all("\n" not in problem.problem for problem in found)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:sekrit@host:4566", '"http://***@host:4566"'),
        ("http://user:sek/rit@host", '"http://***@host"'),
        ("http://user:sek@rit@host", '"http://***@host"'),
        ("http://sekrit@host", '"http://***@host"'),
        ("socks5://user:sekrit@host", '"socks5://***@host"'),
        (f"http://user:{'sekrit' * 20}@host", '"http://***@host"'),
        ("user:sekrit@host:4566", '"***@host:4566"'),
        ("http:/user:sekrit@host:4566", '"***@host:4566"'),
    ],
)
@pytest.mark.parametrize("given", ["file", "variable", "flag"])
@pytest.mark.parametrize("key", ["endpoint_url", "listen.http"])
def test_a_password_in_a_url_is_never_shown(url: str, shown: str, given: str, key: str) -> None:
    table, _, name = key.rpartition(".")
    text = f"[{table}]\n{name} = '{url}'" if table else f"{name} = '{url}'"
    variable = "KDAEMON_" + key.replace(".", "_").upper()
    with pytest.raises(ConfigError) as raised:
        load_config(
            text=text if given == "file" else None,
            environ={variable: url} if given == "variable" else {},
            flags=[(key, url)] if given == "flag" else [],
        )
    told = str(raised.value)
    assert "sekrit" not in told
    assert f"is {shown}; expected" in told


@pytest.mark.parametrize("value", ["the sekrit!", "sekrit\n", "s" * 2000])
@pytest.mark.parametrize("key", ["role_external_id", "upstreams.eu.role_external_id"])
def test_an_external_id_that_is_wrong_is_not_shown_either(key: str, value: str) -> None:
    """A reload that is refused tells its problems on /configz, to whoever reaches that."""
    with pytest.raises(ConfigError) as raised:
        load_config(flags=[("upstreams.eu.region", "eu-west-1"), (key, value)])
    assert "role_external_id: is ***; expected 2-1224 letters" in str(raised.value)
    assert "sekrit" not in str(raised.value)
    assert "sss" not in str(raised.value)


@pytest.mark.parametrize("key", ["endpoint_url", "iam_token_url"])
def test_a_user_in_a_url_without_a_scheme_is_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(flags=[(key, "sekrit@host:4566")])
    assert f'{key}: is "***@host:4566"; expected' in str(raised.value)


def test_names_and_values_in_a_problem_are_printable() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(text='"reg\\u001bion" = "x"\nservice = "\\u202eaws"', source="a\x1b]0;b\x07")
    told = str(raised.value)
    assert all(c.isprintable() or c == "\n" for c in told)
    assert told.count("\n") == len(raised.value.problems) - 1


@pytest.mark.parametrize("port", ["99999", "port", "-1"])
def test_an_endpoint_whose_port_is_none_is_told_by_name(port: str) -> None:
    with pytest.raises(ConfigError, match="endpoint_url: is "):
        load_config(text=f"endpoint_url = 'http://localhost:{port}'")


@pytest.mark.parametrize(
    "url",
    ["http://localhost:65535", "https://h/a/b", "http://[::1]:4566/x", "http://h.example:1/ru/db"],
)
def test_an_endpoint_with_port_path_or_address_is_taken(url: str) -> None:
    assert load_config(text=f"endpoint_url = '{url}'").endpoint_url == url


def test_names_of_the_listeners_are_names_without_ports() -> None:
    loaded = load_config(text="[listen]\nhosts = ['kdaemon', 'Kd.internal']")
    assert loaded.listen.hosts == ("kdaemon", "Kd.internal")
    for wrong in ("'a:80'", "'http://a'", "''", "'a b'"):
        (problem,) = problems(f"[listen]\nhosts = [{wrong}]")
        assert "listen.hosts" in problem
        assert "host names without ports" in problem


# The account


@pytest.mark.parametrize("value", ["1", "12345678901a", "1234567890123", "mine", "\uff11" * 12])
def test_an_account_has_12_digits(value: str) -> None:
    (problem,) = problems(environ={"KDAEMON_ACCOUNT_ID": value})
    assert problem.endswith('expected the 12 digits of an account in quotes, or ""')


def test_an_account_keeps_its_zeros_and_stands_in_quotes() -> None:
    assert load_config(environ={"KDAEMON_ACCOUNT_ID": "001234567890"}).account_id == "001234567890"
    assert load_config(text="account_id = '001234567890'").account_id == "001234567890"
    (problem,) = problems("account_id = 123456789012")
    assert "in quotes" in problem


def test_a_service_without_arns_has_no_account() -> None:
    (problem,) = problems("service = 'yandex'\naccount_id = '123456789012'")
    assert problem.startswith("k.toml: account_id: is of AWS, and Yandex Data Streams has no such")


# Operations that are passed on


def test_operations_that_look_or_read_may_be_passed_on() -> None:
    assert load_config().listen.operations_passed_on == PASSED_ON_DEFAULT
    text = "listen.operations_passed_on = ['GetRecords', 'ListTagsForStream']"
    assert load_config(text=text).listen.operations_passed_on == ("GetRecords", "ListTagsForStream")
    environ = {"KDAEMON_LISTEN_OPERATIONS_PASSED_ON": "ListShards,GetRecords"}
    assert load_config(environ=environ).listen.operations_passed_on == ("ListShards", "GetRecords")
    assert load_config(text="listen.operations_passed_on = []").listen.operations_passed_on == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("'CreateStream'", "CreateStream is not passed on: it changes"),
        ("'ListShards', 'DeleteStream'", "DeleteStream is not passed on: it changes"),
        ("'SubscribeToShard'", "HTTP/2"),
        ("'PutRecord'", "kdaemon answers it itself"),
        ("'describeStream'", "no operation of the Kinesis API; expected some of DescribeStream"),
        ("''", "expected a list of operations"),
        ("7", "expected a list of operations"),
    ],
)
def test_an_operation_that_cannot_be_passed_on_is_refused_with_the_reason(
    given: str, words: str
) -> None:
    (problem,) = problems(f"listen.operations_passed_on = [{given}]")
    assert problem.startswith("k.toml: listen.operations_passed_on: ")
    assert words in problem


def test_each_operation_that_cannot_be_passed_on_is_told() -> None:
    text = "listen.operations_passed_on = ['CreateStream', 'ListShards', 'DeleteStream']"
    found = problems(text)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("limit_mib", "memory_mib"), [(None, 256), (1024, 256), (352, 256), (256, 160), (64, 16)]
)
def test_memory_follows_the_container_unless_it_is_set(
    limit_mib: int | None, memory_mib: int
) -> None:
    limit = None if limit_mib is None else limit_mib * MIB
    config = load_config(memory_limit_bytes=limit)
    assert config.memory_bytes_max == memory_mib * MIB
    assert config.default.buffer_bytes_max == min(64, memory_mib) * MIB
    given = load_config(text="memory_bytes_max = 100000000", memory_limit_bytes=limit)
    assert given.memory_bytes_max == 100_000_000


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("memory_bytes_max", "64 MiB", "; 64 MiB is 67108864"),
        ("memory_bytes_max", "1g", "; 1g is 1073741824"),
        ("drain.deadline_ms", "30s", "; 30s is 30000"),
        ("default.linger_ms", "1 min", "; 1 min is 60000"),
        ("memory_bytes_max", "64 s", ""),
        ("memory_bytes_max", "a lot", ""),
        ("streams_max", "3 MiB", ""),
    ],
)
def test_a_number_with_its_unit_is_told_without_it(key: str, value: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(flags=[(key, value)])
    (problem,) = caught.value.problems
    assert problem.problem.startswith(f'is "{value}"; expected a whole number')
    assert problem.problem.endswith(meant)
    assert ("; " in problem.problem.partition("expected")[2]) is bool(meant)
