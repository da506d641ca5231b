"""What is said of a hot shard's keys: which name, and which advice."""

import subprocess
from typing import Any

import msgspec
import pytest

from kdaemon.base.description import Capacity
from kdaemon.base.service import AWS, YANDEX
from kdaemon.base.steps import at_once
from kdaemon.engine.hot_keys import ShardLoad
from kdaemon.engine.snapshot import EngineSnapshot
from kdaemon.observe.keys import advice, key_name
from kdaemon.route.sketch import KeyPart, Split
from tests.kit.engine_rig import Rig

MIDDLE = Split(1 << 127, 0.48)


def engine(**told: Any) -> EngineSnapshot:
    rig = Rig()
    return msgspec.structs.replace(at_once(rig.engine.snapshot(rig.now_ns)), **told)


def load(
    quota_part: float, first_part: float, split: Split | None = MIDDLE, *, is_of_bytes: bool = False
) -> ShardLoad:
    first = KeyPart("k", *((0.0, first_part) if is_of_bytes else (first_part, 0.0)))
    keys = (first, KeyPart(17, 0.01, 0.01))
    return ShardLoad(1000.0, 1000.0, quota_part, is_of_bytes, keys, split)


def test_a_key_that_fills_a_shard_alone_is_to_be_spread() -> None:
    assert advice(load(2.12, 0.61), engine()) == (
        "at 212% of its quota of records: key #1 is 61% of that, more than a shard takes: splitting"
        " will not help; spread this key"
    )


@pytest.mark.parametrize(
    "told", [{"splits_shards": False}, {"capacity": Capacity(is_on_demand=True)}]
)
def test_whoever_splits_it_a_key_that_fills_a_shard_alone_fills_it_after(
    told: dict[str, Any],
) -> None:
    assert advice(load(2.12, 0.61), engine(**told)).endswith("spread this key")


def test_where_no_key_is_above_a_shard_s_quota_a_split_helps_and_says_how_far() -> None:
    assert advice(load(1.5, 0.61, is_of_bytes=True), engine()) == (
        "at 150% of its quota of bytes: key #1 is 61% of that: split at hash"
        f" {1 << 127} (48% below, 52% from there on)"
    )


def test_where_clients_wait_the_quota_says_little_and_a_split_frees_the_others_at_most() -> None:
    assert advice(load(0.99, 0.87), engine()) == (
        "at 99% of its quota of records: key #1 is 87% of that, and clients that wait hold more"
        " back: splitting frees 13% at most; spread this key"
    )
    assert "split at hash" in advice(load(0.99, 0.3), engine())


def test_a_split_that_is_not_enough_says_so() -> None:
    text = advice(load(3.0, 0.1), engine())
    assert text.endswith("and again: one half will be at 156% still")


def test_who_cannot_split_is_told_what_he_can_do() -> None:
    on_demand = engine(capacity=Capacity(is_on_demand=True))
    assert "the service splits the shard by itself" in advice(load(1.5, 0.1), on_demand)
    assert advice(load(1.5, 0.1), engine(splits_shards=False)).endswith("more shards")
    assert advice(load(1.5, 0.1, None), engine()).endswith("spread its keys")
    assert (AWS.splits_shards, YANDEX.splits_shards) == (True, False)


def test_an_operator_can_compute_the_hash_of_a_key_that_he_suspects() -> None:
    for key in ("customer-42", "ключ"):
        told = subprocess.run(
            ["/bin/sh", "-c", 'printf %s "$0" | sha256sum | cut -c1-12', key],
            check=True,
            capture_output=True,
            text=True,
        )
        assert key_name(key, shows_keys=False) == told.stdout.strip()


def test_a_key_is_shown_printable_and_an_explicit_one_as_its_decimal() -> None:
    assert key_name("a\x1b[31m\nb", shows_keys=True).isprintable()
    assert key_name(17, shows_keys=True) == "17"
    assert key_name(17, shows_keys=False) == key_name("17", shows_keys=False)
