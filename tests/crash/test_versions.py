"""The version before this one and this one, in turn, on one spool: what a new version finds there,
and what an old one does with what a newer one left.

`python -m tests.crash --older` goes on for as long as one likes (`make crash OLDER=1`).
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kdaemon.spool import schema
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.view import StoreView
from tests.crash.crasher import Crasher
from tests.crash.plan import STOPPED, Step
from tests.crash.process import Life
from tests.crash.test_crash import assert_sound
from tests.kit import older
from tests.kit.daemon import READY, Daemon, command, environment, sandbox, write_config
from tests.kit.endpoints import Endpoint, data_of, entry
from tests.kit.patience import wait_for
from tests.kit.template import STAGE, Stage

# Of the older one and of this one in turn; the last one, which delivers what is left, is this one.
STEPS = tuple(map(Step, (STOPPED, STOPPED, "random", "random")))
SCHEMA = 1  # that the older one knows
NOBODY = "http://127.0.0.1:1"  # where nobody listens
KEPT = "records of a stream that is not taken any more stay in the spool"


@pytest.mark.timeout(900)  # seconds; some 10 on an idle machine with two cores
async def test_two_versions_in_turn_on_one_spool_lose_nothing(tmp_path: Path) -> None:
    older.skip_without()
    seed = random.randrange(10**6)
    crasher = Crasher(
        tmp_path, seed, stages=[Stage(older.older_tree(tmp_path), is_older=True), STAGE]
    )
    report = await crasher.run(STEPS)
    assert_sound(report)


def test_the_schema_is_the_older_one_s() -> None:
    """With another one the older version refuses the spool: docs/operate.md has to say so then."""
    assert len(schema.MIGRATIONS) == SCHEMA


def settings(tmp_path: Path, service: str, endpoint_url: str) -> dict[str, object]:
    """All that the older version knows."""
    region = {"aws": "us-east-1", "yandex": "ru-central1"}[service]
    return {
        "service": service,
        "region": region,
        "endpoint_url": endpoint_url,
        "spool.directory": str(tmp_path / "spool"),
        "send.call_timeout_ms": 70_000,  # above what the older one waits for an answer of Yandex
        "drain.deadline_ms": 500,
    }


def with_another(known: dict[str, object], url: str) -> dict[str, object]:
    """The same, and another upstream, `eu`."""
    account = {"account_id": "000000000000"} if known["service"] == "aws" else {}
    return (
        known
        | account
        | {
            "upstreams.eu.region": "eu-central-1",
            "upstreams.eu.account_id": "111111111111",
            "upstreams.eu.endpoint_url": url,
            "streams.orders-eu.upstream": "eu",
            "streams.orders-eu.upstream_name": "orders",
        }
    )


@contextmanager
def run(config: Path) -> Iterator[Daemon]:
    with closing(Daemon(["run", "--config", str(config)], environment())) as daemon:
        daemon.wait_log(READY)
        yield daemon
        assert daemon.stop() == 0


def store(daemon: Daemon, data: list[bytes]) -> None:
    front = Endpoint("daemon", url=daemon.url, put_url=daemon.url)
    body = {"StreamName": "orders-eu", "Records": [entry(each, "key") for each in data]}
    acknowledge = {"x_kdaemon_acknowledge": "stored"}
    answer = front.put_raw("PutRecords", json.dumps(body).encode(), **acknowledge)
    assert (answer.status, answer.members["FailedRecordCount"]) == (200, 0)


@pytest.mark.parametrize("service", ["aws", "yandex"])
async def test_an_older_version_loses_nothing_of_other_upstreams(
    tmp_path: Path, service: str
) -> None:
    """It knows none. At AWS it keeps their records on disk; at Yandex it takes them for records of
    a stream that is missing, and keeps them as dead letters: docs/operate.md says what to do.
    """
    older.skip_without()
    data = [b"record-%d" % number for number in range(20)]
    with sandbox("orders", 2, service=service) as main, sandbox("orders", 2) as eu:
        known = settings(tmp_path, service, main)
        with run(write_config(tmp_path, with_another(known, NOBODY))) as daemon:
            store(daemon, data)
        life = await Life.start(
            write_config(tmp_path, known),
            environment(),
            is_from_scratch=True,
            stage=Stage(older.older_tree(tmp_path), is_older=True),
        )
        try:
            assert await life.wait_ready(), life.tell("ended at its start")
            if service == "aws":
                assert any(KEPT in line for line in life.lines), life.tell("is silent")
            else:
                await until(lambda: len(letters(tmp_path)) == len(data), life)
            life.terminate()
            assert await life.end() == 0
        finally:
            await life.aclose()
        with run(write_config(tmp_path, with_another(known, eu))) as daemon:
            if service == "yandex":
                replay(tmp_path, daemon)
            found = wait_for(lambda: at(eu) if len(at(eu)) == len(data) else None, "the records")
        assert Counter(found) == Counter(data)
        assert letters(tmp_path) == []


def at(service: str) -> list[bytes]:
    records = Endpoint("service", url=service, put_url=service).read_stream("orders")
    return [data_of(each) for each in records]


def letters(tmp_path: Path) -> list[str]:
    view = StoreView(str(tmp_path / "spool"))
    try:
        return [each.stream for each in view.letters.select(LetterFilter())]
    finally:
        view.close()


async def until(condition: Callable[[], bool], life: Life) -> None:
    while not condition():
        assert not await life.ends_within(0.05), life.tell("ended")


def replay(tmp_path: Path, daemon: Daemon) -> None:
    """All dead letters, to where they belong."""
    directory = str(tmp_path / "spool")
    done = command("dead-letters", "replay", "--directory", directory, "--endpoint", daemon.url)
    assert done.returncode == 0, done.stdout + done.stderr
