"""What a client may be told: settings that contradict each other make no value."""

import re
from typing import Any

import pytest

from kdaemon.base.service import AWS, YANDEX
from kdaemon.send.settings import ClientSettings

ROLE = "arn:aws:iam::222222222222:role/writer"
AN_ID = {"role_external_id": "ab"}
TOKEN = {"service": YANDEX, "iam_token_file": "/run/token"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"role_arn": ROLE},
        {"role_arn": ROLE, "account_id": "222222222222"},
        {"role_arn": "arn:aws-us-gov:iam::222222222222:role/a/b+=,.@-_c"},
        {"role_arn": "arn:aws-cn:iam::222222222222:role/r", **AN_ID, "role_duration_s": 43_200},
        {"role_arn": ROLE, "role_session_name": "a.b@c=d,e+f-g_h"},
        {"role_arn": ROLE, "endpoint_url": "https://vpce.example/"},
        {"use_fips": True, "use_dualstack": True, "account_id_endpoint_mode": "required"},
        {"use_fips": False, "endpoint_url": "https://h/"},
        {"use_fips": False, "service": YANDEX},
        {"proxy_url": ""},
        {"is_anonymous": True, "endpoint_url": "http://h/", "use_fips": True, **TOKEN},
        {"proxy_url": "http://me:hush@proxy:3128"},
        {"proxy_url": "proxy:3128"},
        TOKEN,
        TOKEN | {"endpoint_url": "https://yds.serverless.yandexcloud.net/ru-central1/b1g/etn"},
        *(
            TOKEN | {"endpoint_url": f"http://{host}/"}
            for host in ("127.0.0.1:1", "[::1]:1", "localhost:1")
        ),
    ],
    ids=str,
)
def test_these_are_settings(fields: dict[str, Any]) -> None:
    settings = ClientSettings(**fields)
    assert settings.problems() == []
    assert "hush" not in repr(settings)
    assert "role_external_id" not in repr(settings)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"role_arn": "writer"}, "role_arn is no role's ARN"),
        ({"role_arn": "arn:aws:iam::1:role/r"}, "role_arn is no role's ARN"),
        ({"role_arn": "arn:aws:iam::222222222222:user/r"}, "role_arn is no role's ARN"),
        ({"role_arn": ROLE + "\n"}, "role_arn is no role's ARN"),
        ({"role_arn": ""}, "role_arn is no role's ARN"),
        ({"role_arn": ROLE, "service": YANDEX}, "role_arn is for AWS"),
        ({"role_arn": ROLE, "role_duration_s": 899}, "role_duration_s .*900 to 43200"),
        ({"role_arn": ROLE, "role_duration_s": 43_201}, "role_duration_s .*900 to 43200"),
        ({"role_arn": ROLE, "role_external_id": "a b"}, "role_external_id "),
        ({"role_arn": ROLE, "role_external_id": ""}, "role_external_id "),
        ({"role_arn": ROLE, "role_session_name": "a b"}, "role_session_name "),
        ({"role_arn": ROLE, "role_session_name": "a" * 65}, "role_session_name "),
        ({"role_arn": ROLE, "account_id": "333333333333"}, "account_id .*role_arn"),
        (AN_ID, "role_external_id .*role_arn"),
        ({"role_session_name": "ab"}, "role_session_name .*role_arn"),
        ({"use_fips": True, "endpoint_url": "https://h/"}, "use_fips .*endpoint_url"),
        ({"use_dualstack": True, "endpoint_url": "https://h/"}, "use_dualstack .*endpoint_url"),
        ({"use_fips": True, "service": YANDEX}, "use_fips is for AWS"),
        ({"account_id_endpoint_mode": "x"}, "account_id_endpoint_mode .*preferred"),
        ({"account_id_endpoint_mode": "preferred", "service": YANDEX}, "_mode is for AWS"),
        ({"proxy_url": "socks5://me:hush@h:1"}, "proxy_url .*scheme 'socks5'"),
        ({"proxy_url": "http://:1"}, "proxy_url names no host"),
        ({"proxy_url": "http://me:hush@h:99999"}, "proxy_url .*port"),
        ({"iam_token_file": "/f", "service": AWS}, "iam_token_file is for Yandex"),
        ({"iam_token_file": "", "service": YANDEX}, "iam_token_file is empty"),
        (TOKEN | {"endpoint_url": "http://yds.example/"}, "endpoint_url is http://"),
        (TOKEN | {"endpoint_url": "http://127.0.0.1.example/"}, "endpoint_url is http://"),
        ({"is_anonymous": True}, "is_anonymous needs an endpoint_url"),
    ],
    ids=str,
)
def test_these_are_none_and_the_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^[a-z_ ]*{named}") as caught:
        ClientSettings(**fields)
    assert "hush" not in str(caught.value)
    assert re.match("[a-z_]+ ", str(caught.value))
