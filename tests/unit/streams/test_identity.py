"""Which stream a spelling means: before and after the daemon knows its own account."""

import pytest

from kdaemon.base.names import parse_arn
from kdaemon.config.load import load_config
from kdaemon.streams.identity import Identities, Identity

OURS, OTHERS = "111111111111", "222222222222"


def arn(account: str = OURS, name: str = "orders", region: str = "eu-central-1") -> str:
    return f"arn:aws:kinesis:{region}:{account}:stream/{name}"


def identities(text: str = "region = 'eu-central-1'") -> Identities:
    config = load_config(text=text)
    return Identities(config.upstream("default"), config.streams.values())


def meant(of: Identities, spelling: str) -> Identity:
    meaning = of.of(spelling)
    assert meaning is not None
    return meaning


def twin(of: Identities, spelling: str) -> Identity | None:
    parsed = parse_arn(spelling)
    assert parsed is not None
    return of.twin(parsed)


def by_arn(account: str = OURS, name: str = "orders", region: str = "eu-central-1") -> Identity:
    return Identity(name, account, region)


def test_a_name_and_the_arn_of_our_account_and_region_are_one_stream() -> None:
    known = identities()
    assert known.learn(OURS, "eu-central-1")
    assert known.is_known
    assert meant(known, arn()) == meant(known, "orders") == Identity("orders")
    assert meant(known, arn(OTHERS)) == by_arn(OTHERS)
    assert meant(known, arn(region="us-east-1")) == by_arn(region="us-east-1")
    assert twin(known, arn()) is twin(known, arn(OTHERS)) is None
    assert not known.learn(OURS, "")


def test_an_arn_of_another_partition_is_no_stream_of_ours() -> None:
    known = identities()
    known.learn(OURS, "eu-central-1")
    assert known.of(arn().replace("arn:aws:", "arn:aws-cn:")) is None


@pytest.mark.parametrize("account", [OURS, OTHERS])
def test_until_the_account_is_known_an_arn_is_a_stream_of_its_own_and_may_mean_its_name(
    account: str,
) -> None:
    unsure = identities()
    assert meant(unsure, arn(account)) == by_arn(account)
    assert twin(unsure, arn(account)) == Identity("orders")
    assert meant(unsure, arn(account, region="us-east-1")) == by_arn(account, region="us-east-1")
    assert twin(unsure, arn(account, region="us-east-1")) is None, "its region tells enough"


def test_an_account_without_a_region_leaves_only_its_own_arns_in_doubt() -> None:
    unsure = identities("")
    unsure.learn(OURS, "")
    assert not unsure.is_known
    assert meant(unsure, arn(region="us-east-1")) == by_arn(region="us-east-1")
    assert twin(unsure, arn(region="us-east-1")) == Identity("orders")
    assert twin(unsure, arn(OTHERS)) is None
    unsure.learn("", "us-east-1")
    assert meant(unsure, arn(region="us-east-1")) == Identity("orders")
    assert meant(unsure, arn()) == by_arn()


def test_another_account_may_become_ours() -> None:
    known = identities()
    known.learn(OURS, "")
    assert known.learn(OTHERS, "")
    assert meant(known, arn(OTHERS)) == Identity("orders")
    assert meant(known, arn(OURS)) == by_arn(OURS)


def test_what_the_spool_has_is_sent_as_it_was_stored() -> None:
    known = identities(f"region = 'eu-central-1'\n[streams.'{arn(OTHERS, 'clicks')}']")
    known.learn(OURS, "")
    assert known.stored(arn(OURS)) == by_arn(OURS)
    assert known.stored("orders") == Identity("orders")
    assert known.stored("clicks") == Identity("clicks"), "whatever was listed since"
    assert known.stored("a b") is None


@pytest.mark.parametrize("is_known", [True, False])
def test_a_listed_arn_of_ours_is_one_stream_with_its_name(is_known: bool) -> None:
    known = identities(f"region = 'eu-central-1'\n[streams.'{arn(OURS)}']")
    if is_known:
        known.learn(OURS, "")
    assert meant(known, "orders") == meant(known, arn(OURS)) == by_arn(OURS)
    assert twin(known, arn(OURS)) is twin(known, arn(OTHERS)) is None


def test_a_listed_arn_is_what_its_name_means() -> None:
    text = f"region = 'eu-central-1'\n[streams.'{arn(OTHERS)}']"
    known = identities(text)
    known.learn(OURS, "")
    identity = by_arn(OTHERS)
    assert meant(known, "orders") == meant(known, arn(OTHERS)) == identity
    listed = known.listed(identity)
    assert listed is not None
    assert listed.arn == arn(OTHERS)
    assert known.listed(Identity("orders")) is None
    assert meant(known, arn(OURS)) == by_arn(OURS), "its name means another stream"


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
