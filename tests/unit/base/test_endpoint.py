"""Addresses, URLs and keys as people write them."""

import pytest

from kdaemon.base.endpoint import (
    endpoint_problem,
    host_port,
    http_url,
    proxy_problem,
    region_of_endpoint,
    region_problem,
    text_problem,
)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", "127.0.0.1:1"), ("::1", "[::1]:1"), ("h.x", "h.x:1")]
)
def test_an_ipv6_address_stands_in_brackets(host: str, expected: str) -> None:
    assert host_port(host, 1) == expected
    assert http_url(host, 1) == f"http://{expected}"
    assert endpoint_problem(http_url(host, 1)) is None


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://kinesis.eu-west-1.amazonaws.com",
            "http://127.0.0.1:4567/",
            "http://[::1]:1/a/b",
        ),
        *("https://yds.serverless.yandexcloud.net/ru-central1/b1g/etn", "http://h:65535"),
    ],
)
def test_an_address_of_a_service(url: str) -> None:
    assert endpoint_problem(url) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://localhost:99999", "port"),
        ("http://localhost:0", "port 0"),
        ("http://localhost:x", "port"),
        ("http://", "no host"),
        ("http://:80", "no host"),
        ("http://[::1", "host"),
        ("kinesis:4567", "no host"),
        ("ftp://h/", "'ftp'"),
        ("h", "no host"),
        ("http://me:hush@h/", "user"),
        ("http://h/?hush", "query"),
        ("http://h/#hush", "fragment"),
        ("http://h\n", "a line break at its end"),
        (" http://h", "a blank at its beginning"),
        ("http://h\x00/", "a control character"),
        ("http://bücher/", "not ASCII"),
    ],
)
def test_what_is_no_address_of_a_service_is_told_and_not_shown(url: str, words: str) -> None:
    problem = endpoint_problem(url)
    assert problem is not None
    assert words in problem
    assert "hush" not in problem


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://me:hush@h:1", None),
        ("h:3128", None),
        ("https://h", None),
        ("socks5://h:1", "'socks5'"),
        ("socks5h://me:hush@h:1", "'socks5h'"),
        ("http://:1", "no host"),
        (":1", "no host"),
        ("http://h:99999", "port"),
        ("http://h:1\r\n", "line break"),
    ],
)
def test_a_proxy_is_one_that_we_speak_to(url: str, words: str | None) -> None:
    problem = proxy_problem(url)
    assert (problem is None) is (words is None)
    assert problem is None or (words is not None and words in problem and "hush" not in problem)


def test_where_a_character_stands_that_nobody_sees_is_told() -> None:
    assert text_problem("AKIDEXAMPLE/+=") is None
    assert text_problem("AKID\n") == "has a line break at its end"
    assert text_problem("\tAKID") == "has a control character at its beginning"
    assert text_problem("AK ID") == "has a blank at position 3 of 5"
    assert region_problem("eu-west-1") is None
    assert region_problem("eu/west") is not None


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://kinesis.us-east-1.amazonaws.com", "us-east-1"),
        ("https://kinesis-fips.us-gov-west-1.amazonaws.com/", "us-gov-west-1"),
        ("https://123456789012.data-kinesis.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://kinesis.eu-central-1.api.aws:443/x", "eu-central-1"),
        ("https://vpce-0a-b.kinesis.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
        ("https://KINESIS.cn-north-1.amazonaws.com.cn.", "cn-north-1"),
        ("http://localhost:4566", None),
        ("https://kinesis.us-east-1.amazonaws.com.evil.example", None),
        ("https://kinesis.us-east-1.example.com", None),
        ("https://sqs.us-east-1.amazonaws.com", None),
        ("http://[::1", None),
        ("", None),
    ],
)
def test_an_endpoint_of_aws_tells_its_region(url: str, region: str | None) -> None:
    assert region_of_endpoint(url) == region
