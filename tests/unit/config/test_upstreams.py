"""[upstreams.NAME]: what a table of one may say, and which upstream a stream belongs to."""

import pytest

from kdaemon.base.errors import ConfigError
from kdaemon.config import Config
from kdaemon.config.load import load_config

EU = "[upstreams.eu]\nregion = 'eu-central-1'\naccount_id = '111111111111'\n"
YANDEX = "[upstreams.ya]\nservice = 'yandex'\nendpoint_url = 'https://yds.example/ru/b1g/etn'\n"
ROLE = "arn:aws:iam::222222222222:role/producer"
MIB = 1024 * 1024


def load(text: str, **variables: str) -> Config:
    return load_config(text=text, source="k.toml", environ=variables)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [str(problem) for problem in caught.value.problems]


# What one has


def test_without_a_table_there_is_the_default_upstream_alone() -> None:
    config = load("service = 'yandex'\nrole_session_name = ''\n[send]\ncall_timeout_ms = 90000")
    assert config.upstream_names == ("default",)
    default = config.upstream("default")
    assert (default.service, default.call_timeout_ms) == ("yandex", 90_000)
    assert default.read_timeout_ms == 65_000 * 90 // 70


def test_an_upstream_inherits_the_pool_of_send_and_the_times_of_its_own_service() -> None:
    send = "[send]\ncall_timeout_ms = 9000\nconnections_max = 7\n"
    config = load(send + YANDEX + EU)
    ya, eu = config.upstream("ya"), config.upstream("eu")
    assert (ya.connect_timeout_ms, ya.connections_max) == (3_000, 7)
    assert (ya.read_timeout_ms, ya.call_timeout_ms) == (65_000, 70_000)
    assert (eu.read_timeout_ms, eu.call_timeout_ms) == (10_000, 15_000)


def test_nothing_that_tells_who_calls_is_inherited() -> None:
    top = "profile = 'p'\nregion = 'us-east-1'\nendpoint_url = 'http://127.0.0.1:1'\n"
    eu = load(top + f"role_arn = '{ROLE}'\n" + EU).upstream("eu")
    assert (eu.profile, eu.endpoint_url, eu.role_arn) == ("", "", "")
    assert eu.account == "111111111111"


def test_the_account_of_a_role_is_the_upstream_s() -> None:
    config = load(f"[upstreams.eu]\nregion = 'eu-central-1'\nrole_arn = '{ROLE}'")
    assert config.upstream("eu").account == "222222222222"
    assert load(f"role_arn = '{ROLE}'").upstream("default").account == "222222222222"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[upstreams.eu]\nregion = 'eu-central-1'", "k.toml: upstreams.eu: has no account_id"),
        ("[upstreams.eu]\naccount_id = '111111111111'", "k.toml: upstreams.eu: has no region"),
        ("[upstreams.default]\nregion = 'x'", "upstreams.default: is the upstream that the keys"),
        ("[upstreams.'A b']\nservice = 'yandex'", 'upstreams."A b": is no name of an upstream'),
        (YANDEX + f"role_arn = '{ROLE}'", "upstreams.ya.role_arn: is of AWS"),
        (YANDEX + "account_id = '111111111111'", "upstreams.ya.account_id: is of AWS"),
        (YANDEX + "fips = 'on'", "upstreams.ya.fips: is of AWS's endpoints"),
        (EU + "iam_token_file = '/t'", "upstreams.eu.iam_token_file: is for Yandex Data Streams"),
        (YANDEX + "profile = 'p'\niam_token_file = '/t'", "upstreams.ya.profile: tells keys"),
        (
            YANDEX + "iam_token_url = 'http://h/t'\niam_token_file = '/t'",
            "upstreams.ya.iam_token_file: and iam_token_url are both set",
        ),
        (
            YANDEX.replace("https", "http") + "iam_token_file = '/t'",
            "upstreams.ya.endpoint_url: is http://, where everybody",
        ),
        (
            YANDEX.replace("https://yds.example", "http://127.0.0.1.example")
            + "iam_token_url = 'http://169.254.169.254/t'",
            "upstreams.ya.endpoint_url: is http://, where everybody",
        ),
        (EU + f"role_arn = '{ROLE}'\nrole_external_id = 'a b'", "role_external_id: is "),
        (EU + f"role_arn = '{ROLE}'\nrole_session_name = 'ж'", "role_session_name: is "),
        (EU + "role_external_id = 'abc'", "upstreams.eu.role_external_id: is for a role"),
        (EU + f"role_arn = '{ROLE}'", "upstreams.eu.account_id: is 111111111111, and the role"),
        (EU + "role_arn = 'arn:aws:iam::1:role/x'", "expected arn:aws:iam::ACCOUNT:role/NAME"),
        (EU + "proxy_url = 'socks5://h:1'", "upstreams.eu.proxy_url: is "),
        (EU + "fips = 'on'\nendpoint_url = 'http://h:1'", "upstreams.eu.fips: chooses among"),
        (EU + "endpoint_url = 'https://kinesis.us-east-1.amazonaws.com'", "eu.region: is eu-c"),
        (EU + "listen = 'x'", "upstreams.eu.listen: is no key"),
        (EU + "profil = 'x'", 'did you mean "profile"?'),
        ("upstreams = 3", "upstreams: is 3; expected tables, as [upstreams.NAME]"),
        ("[upstreams]\neu = 3", "upstreams.eu: is 3; expected a table, as [upstreams.eu]"),
        ("[streams.s]\nupstream = 'no'", "there is no [upstreams.no]; known: default"),
        ("[default]\nupstream = 'no'", 'k.toml: default.upstream: is "no"'),
        ("[default]\nupstream_name = 's'", "belongs to one stream, in [streams.NAME]"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_by_its_key(text: str, said: str) -> None:
    found = problems(text)
    assert any(said in each for each in found), found


@pytest.mark.parametrize(
    "keys",
    [
        "role_arn = 'arn:aws-us-gov:iam::222222222222:role/a/b+=,.@-_c'",
        f"role_arn = '{ROLE}'\nrole_external_id = 'a:/b'\nrole_session_name = 'a.b@c=d,e+f-g_h'",
        "account_id = '111111111111'\nfips = 'off'\nendpoint_url = 'https://h/'",
        "account_id = '111111111111'\nfips = 'on'\ndual_stack = 'on'",
        "account_id = '111111111111'\naccount_endpoints = 'required'",
        "account_id = '111111111111'\nproxy_url = ''",
        "account_id = '111111111111'\nproxy_url = 'http://me:hush@proxy:3128'",
        "service = 'yandex'\niam_token_file = '/t'\nendpoint_url = 'http://[::1]:1/ru/db'",
        "service = 'yandex'\niam_token_url = 'http://169.254.169.254/t'",
    ],
)
def test_every_kind_of_upstream_is_taken(keys: str) -> None:
    assert load(f"[upstreams.up]\nregion = 'eu-central-1'\n{keys}").upstream("up").name == "up"


def test_an_upstream_is_set_by_flags_and_not_by_variables() -> None:
    flags = [("upstreams.eu.region", "eu-central-1"), ("upstreams.eu.account_id", "111111111111")]
    assert load_config(flags=flags).upstream("eu").region == "eu-central-1"
    with pytest.raises(ConfigError, match="an upstream cannot be set by a variable"):
        load("", KDAEMON_UPSTREAMS_EU_REGION="x")


# Whose a stream is


def test_a_stream_names_its_upstream_and_what_that_calls_it() -> None:
    text = EU + "[streams.orders-eu]\nupstream = 'eu'\nupstream_name = 'orders'\n[streams.orders]"
    config = load(text)
    assert list(config.listed_of("eu")) == ["orders-eu"]
    assert list(config.listed_of("default")) == ["orders"]


def test_a_stream_that_is_listed_by_its_arn_is_of_the_upstream_that_has_account_and_region() -> (
    None
):
    arn = "arn:aws:kinesis:{}:{}:stream/{}"
    ours = arn.format("eu-central-1", "111111111111", "a")
    other_region = arn.format("eu-west-1", "111111111111", "b")
    other_account = arn.format("eu-central-1", "333333333333", "c")
    listed = "".join(f'[streams."{each}"]\n' for each in (ours, other_region, other_account))
    config = load(EU + listed + f"[streams.d]\narn = '{ours}d'\n[streams.e]\narn = '{ours}e'\n"
                  "upstream = 'default'\n")  # fmt: skip
    assert list(config.listed_of("eu")) == ["a", "d"]
    assert list(config.listed_of("default")) == ["b", "c", "e"]


def test_one_stream_of_an_upstream_is_listed_once_and_one_name_in_two_upstreams_twice() -> None:
    eu = "upstream = 'eu'\nupstream_name = 'orders'\n"
    load(EU + f"[streams.a]\n{eu}[streams.orders]")
    assert "is the stream" in problems(EU + f"[streams.a]\n{eu}[streams.b]\n{eu}")[0]
    arn = "arn:aws:kinesis:eu-central-1:111111111111:stream/orders"
    assert "is the stream" in problems(EU + f"[streams.a]\n{eu}[streams.b]\narn = '{arn}'")[0]
    path = "upstream = 'ya'\nupstream_name = '/ru/b1g/etn/orders'"
    short = "[streams.orders]\nupstream = 'ya'\n"
    assert "is the stream" in problems(YANDEX + short + f"[streams.b]\n{path}")[0]


def test_sizes_that_nobody_gave_are_those_of_the_stream_s_service() -> None:
    config = load(YANDEX + "[streams.a]\n[streams.b]\nupstream = 'ya'")
    a, b = config.streams["a"], config.streams["b"]
    assert (a.request_bytes_max, a.record_bytes_max) == (10 * MIB, 10 * MIB)
    assert (b.request_bytes_max, b.record_bytes_max) == (5 * MIB, MIB)
    unlisted = config.default_of("ya")
    assert (unlisted.request_bytes_max, unlisted.record_bytes_max) == (5 * MIB, MIB)
    swapped = load("service = 'yandex'\n" + EU + "[streams.a]\nupstream = 'eu'\n[streams.b]")
    assert swapped.streams["a"].request_bytes_max == 10 * MIB
    assert swapped.streams["b"].request_bytes_max == 5 * MIB


def test_a_size_of_default_is_held_to_what_the_stream_s_service_takes() -> None:
    text = "[default]\nrequest_bytes_max = 8388608\n" + YANDEX + "[streams.b]\nupstream = 'ya'\n"
    assert load(text).streams["b"].request_bytes_max == 5 * MIB
    assert "takes at most" in problems(text + "request_bytes_max = 8388608")[0]


def test_aggregates_that_default_asks_for_are_refused_where_a_listed_stream_cannot_have_them() -> (
    None
):
    text = "[default]\naggregation = 'kpl'\n" + YANDEX
    assert load(text).default_of("ya").aggregation == "none"
    (problem,) = problems(text + "[streams.b]\nupstream = 'ya'")
    assert "streams.b: Yandex Data Streams cannot carry aggregates" in problem
    load(text + "[streams.b]\nupstream = 'ya'\naggregation = 'none'")
    (problem,) = problems("service = 'yandex'\n[default]\naggregation = 'kpl'\n[streams.a]")
    assert problem.startswith("k.toml: default.aggregation:")


@pytest.mark.parametrize("name", ["bad name", "a/b", "@eu/x", "x" * 129])
def test_a_name_that_the_service_cannot_have_is_refused_wherever_it_stands(name: str) -> None:
    assert "is no name of a stream" in problems(EU + f"[streams.'{name}']\nupstream = 'eu'")[0]
    table = f"[streams.s]\nupstream = 'eu'\nupstream_name = '{name}'"
    assert "streams.s.upstream_name: is no name of a stream" in problems(EU + table)[0]


@pytest.mark.parametrize("default", ["default", "eu"])
def test_an_arn_of_a_table_means_the_first_that_has_its_account_and_region(default: str) -> None:
    """As an ARN does that a client writes, whatever the default upstream of streams is."""
    arn = "arn:aws:kinesis:eu-central-1:111111111111:stream/orders"
    top = "region = 'eu-central-1'\naccount_id = '111111111111'\n"
    tables = f"[default]\nupstream = '{default}'\n{EU}[streams.orders]\narn = '{arn}'\n"
    assert load(top + tables).streams["orders"].upstream == "default"
    assert load(tables).streams["orders"].upstream == "eu"
    assert load(top + tables + "upstream = 'eu'\n").streams["orders"].upstream == "eu"
