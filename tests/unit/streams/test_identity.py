"""Which stream a spelling means: before and after the daemon knows its own account."""

import pytest

from kdaemon.config.load import load_config
from kdaemon.streams.identity import Identities, Identity

OURS, OTHERS = "111111111111", "222222222222"


def arn(account: str = OURS, name: str = "orders", region: str = "eu-central-1") -> str:
    return f"arn:aws:kinesis:{region}:{account}:stream/{name}"


def identities(text: str = "region = 'eu-central-1'") -> Identities:
    return Identities(load_config(text=text))


def meant(of: Identities, spelling: str) -> Identity:
    meaning = of.of(spelling)
    assert meaning is not None
    return meaning.identity


def test_a_name_and_the_arn_of_our_account_and_region_are_one_stream() -> None:
    known = identities()
    known.learn(OURS, "eu-central-1")
    assert meant(known, arn()) == meant(known, "orders") == Identity("orders")
    assert meant(known, arn(OTHERS)) == Identity("orders", OTHERS, "eu-central-1")
    assert meant(known, arn(region="us-east-1")) == Identity("orders", OURS, "us-east-1")


def test_an_arn_of_another_partition_is_no_stream_of_ours() -> None:
    known = identities()
    known.learn(OURS, "eu-central-1")
    assert known.of(arn().replace("arn:aws:", "arn:aws-cn:")) is None


def test_until_the_account_is_known_an_arn_of_our_region_is_taken_for_ours() -> None:
    unsure = identities()
    meaning = unsure.of(arn())
    assert meaning is not None
    assert (meaning.identity, meaning.is_assumed) == (Identity("orders"), True)
    assert meant(unsure, arn(name="clicks")) == Identity("clicks")
    assert meant(unsure, arn(region="us-east-1")) == Identity("orders", OURS, "us-east-1")


def test_of_two_accounts_only_one_can_be_ours() -> None:
    unsure = identities()
    assert meant(unsure, arn(OURS)) == Identity("orders")
    assert meant(unsure, arn(OTHERS)) == Identity("orders", OTHERS, "eu-central-1")


def test_what_was_assumed_is_put_right_when_the_account_is_learnt() -> None:
    unsure = identities()
    assert meant(unsure, arn(OTHERS)) == Identity("orders")
    assert unsure.learn(OURS, "")
    assert meant(unsure, arn(OTHERS)) == Identity("orders", OTHERS, "eu-central-1")
    assert meant(unsure, arn(OURS)) == Identity("orders")
    assert not unsure.learn(OURS, "eu-central-1")


def test_without_a_region_that_of_the_arn_is_taken_for_ours() -> None:
    unsure = identities("")
    assert meant(unsure, arn(region="us-east-1")) == Identity("orders")


def test_a_listed_arn_is_what_its_name_means() -> None:
    text = f"region = 'eu-central-1'\n[streams.'{arn(OTHERS)}']"
    known = identities(text)
    known.learn(OURS, "")
    identity = Identity("orders", OTHERS, "eu-central-1")
    assert meant(known, "orders") == meant(known, arn(OTHERS)) == identity
    listed = known.listed(identity)
    assert listed is not None
    assert listed.arn == arn(OTHERS)
    assert known.listed(Identity("orders")) is None
    assert meant(known, arn(OURS)) == Identity("orders")


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        "a b",
        "a" * 129,
        "arn:aws" + ":kinesis:" * 36_000,
        "arn:aws:kinesis:eu-central-1:1:stream/a",
        "arn:aws:kinesis:eu-central-1:111111111111:stream/",
        "arn:aws:sqs:eu-central-1:111111111111:stream/a",
        "arn:aws:kinesis:eu-central-1:111111111111:stream/a/consumer/b:1",
        "/ru-central1/a/b/c",
        "orders\n",
        "örders",
    ],
)
def test_what_no_stream_can_be_called_means_none(spelling: str) -> None:
    assert identities().of(spelling) is None


YANDEX = "service = 'yandex'\nendpoint_url = 'https://yds.example/ru-central1/b1g/etn'"


def test_a_short_name_at_yandex_stands_below_the_database_of_the_endpoint() -> None:
    known = identities(YANDEX)
    path = Identity("/ru-central1/b1g/etn/orders")
    for spelling in ("orders", "/ru-central1/b1g/etn/orders", "//ru-central1/b1g/etn//orders/"):
        assert meant(known, spelling) == path
    assert meant(known, "/ru-central1/other/etn/orders") == Identity(
        "/ru-central1/other/etn/orders"
    )
    assert known.of("/") is None
    assert known.of("") is None


def test_without_a_database_in_the_endpoint_a_name_at_yandex_is_what_it_is() -> None:
    known = identities("service = 'yandex'")
    assert meant(known, "orders") == Identity("orders")
    assert meant(known, "/a/b/orders/") == Identity("/a/b/orders")
    assert known.of("a\x1b[31m") is None
