"""What `kdaemon check --service` says of what a service told, or did not."""

from dataclasses import replace
from typing import Any

import pytest

from kdaemon.base.description import Caller, Capacity, OpenShard, StreamDescription
from kdaemon.base.errors import ServiceError
from kdaemon.cli.findings import (
    Finding,
    Level,
    Teller,
    of_caller,
    of_clock,
    of_denied,
    of_description,
    of_write,
)
from kdaemon.config.load import load_config
from kdaemon.streams.laid_out import engine_settings

MIB = 1024 * 1024
TELLER = Teller("default", "orders")
PLAIN = StreamDescription(
    shards=(OpenShard("shardId-0", 0, 2**127 - 1), OpenShard("shardId-1", 2**127, 2**128 - 1)),
    record_bytes_max=MIB,
    is_auto=False,
    stream_arn="arn:aws:kinesis:eu-central-1:123456789012:stream/orders",
)


def found(text: str = "", **told: Any) -> list[Finding]:
    """Of [streams.orders] with these keys."""
    head, _, keys = text.partition("|")
    config = load_config(text=f"{head}\n[streams.orders]\n{keys}")
    stream, upstream = config.streams["orders"], config.upstream("default")
    settings = engine_settings(stream, upstream.traits)
    return list(of_description(TELLER, stream, settings, upstream, replace(PLAIN, **told)))


def problems(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if each.level is Level.PROBLEM]


def said(findings: list[Finding]) -> str:
    return "\n".join(map(str, findings))


def test_a_plain_stream_has_no_problem_and_its_quota_is_told() -> None:
    findings = found("|shard_records_per_second = 500\nshard_bytes_per_second = 524288")
    assert problems(findings) == []
    assert "2 open shards: 1,000 records/s and 1.0 MiB/s at most" in said(findings)
    assert "a record may have 1.0 MiB with its key" in said(findings)


def test_a_record_limit_that_somebody_set_too_high_is_a_warning_and_the_default_is_none() -> None:
    assert all(each.level is Level.OK for each in found())
    warned = [each for each in found("|record_bytes_max = 2097152") if each.do]
    assert [each.level for each in warned] == [Level.WARNING]
    assert "record_bytes_max (2.0 MiB) is more" in warned[0].text


def test_aggregates_above_the_streams_limit_are_a_problem() -> None:
    text = '|aggregation = "kpl"\naggregate_bytes_max = 1048576'
    assert problems(found(text)) == []
    (problem,) = problems(found(text, record_bytes_max=MIB // 2))
    assert problem.do == "lower aggregate_bytes_max"


@pytest.mark.parametrize("setting", ['ordering = "partition_key"', 'aggregation = "kpl"'])
def test_auto_with_order_or_aggregates_is_a_problem(setting: str) -> None:
    (problem,) = problems(found(f"|{setting}", is_auto=True))
    assert setting in problem.text
    assert problem.do.startswith("take it out of the stream's configuration")
    assert problems(found(is_auto=True)) == []
    assert "partition keys are ignored" in said(found(is_auto=True))


def test_queues_or_channels_with_aggregates_are_a_problem() -> None:
    (problem,) = problems(found('|aggregation = "kpl"', has_record_readers=True))
    assert "Queues or channels" in problem.text
    assert "remove the stream's queues and channels" in problem.do
    assert problems(found(has_record_readers=True)) == []


def test_a_stream_of_another_account_than_the_configuration_says_is_a_problem() -> None:
    (problem,) = problems(found('account_id = "999999999999"|'))
    assert problem.subject == "account"
    assert problems(found('account_id = "123456789012"|')) == []
    arn = "arn:aws:kinesis:eu-central-1:123456789012:stream/orders"
    assert problems(found(f'account_id = "999999999999"|arn = "{arn}"')) == []


def test_warm_throughput_quota_and_encryption_are_told() -> None:
    warm = Capacity(True, 100 * MIB, 200 * MIB)
    text = said(found(capacity=warm, encryption_type="KMS", shard_bytes_per_second=MIB // 2))
    assert "warm throughput 100 MiB/s" in text
    assert "it is being made 200 MiB/s" in text
    assert "kms:GenerateDataKey" in text
    assert "kdaemon paces by the stream's" in text
    assert "2,000 records/s and 1.0 MiB/s" in text
    assert "adds shards by itself" in said(found(capacity=Capacity(is_on_demand=True)))


def test_what_is_not_known_is_not_told() -> None:
    nothing: dict[str, Any] = {"shards": None, "record_bytes_max": None, "stream_arn": None}
    assert found(**nothing) == []


@pytest.mark.parametrize(
    ("skew_s", "level", "told"),
    [
        (0.4, Level.OK, "agrees"),
        (-45.0, Level.WARNING, "45 s behind the service's"),
        (400.0, Level.PROBLEM, "400 s ahead of the service's"),
        (-301.0, Level.PROBLEM, "behind"),
    ],
)
def test_a_clock_that_is_off_is_told(skew_s: float, level: Level, told: str) -> None:
    (finding,) = of_clock(TELLER, skew_s)
    assert finding.level is level
    assert told in finding.text
    assert ("chronyc" in finding.do) is (level is not Level.OK)
    assert list(of_clock(TELLER, None)) == []


@pytest.mark.parametrize(
    ("is_of_aws", "code", "status", "level", "asks"),
    [
        (True, "DryRunOperationException", 400, Level.OK, False),
        (False, "DryRunOperationException", 400, Level.OK, False),
        (False, "InvalidArgumentException", 400, Level.NOTE, True),
        (False, "ValidationException", 400, Level.NOTE, True),
        (True, "InvalidArgumentException", 400, Level.PROBLEM, False),
        (True, "AccessDeniedException", 400, Level.PROBLEM, True),
        (False, "AccessDeniedException", 400, Level.PROBLEM, True),
        (True, "InternalFailure", 500, Level.WARNING, True),
        (True, "ConnectError", 0, Level.PROBLEM, True),
    ],
)
def test_the_answer_to_a_dry_run_says_whether_records_may_be_written(
    is_of_aws: bool, code: str, status: int, level: Level, asks: bool
) -> None:
    finding = of_write(TELLER, ServiceError(code, "no", status=status), is_of_aws=is_of_aws)
    assert finding.level is level
    assert bool(finding.do) is asks


@pytest.mark.parametrize("operation", ["DescribeStreamSummary", "ListShards", "DescribeStream"])
def test_a_description_that_is_denied_is_a_warning_with_what_it_costs(operation: str) -> None:
    finding = of_denied(TELLER, operation, ServiceError("AccessDeniedException", "no"))
    assert finding.level is Level.WARNING
    assert "stay unknown" in finding.text
    assert finding.do


def test_whose_credentials_they_are_is_told_and_a_contradiction_is_a_problem() -> None:
    upstream = load_config(text='account_id = "123456789012"').upstream("default")
    same = list(of_caller(TELLER, upstream, Caller("123456789012", "eu-central-1")))
    assert [each.level for each in same] == [Level.OK]
    other = list(of_caller(TELLER, upstream, Caller("210987654321", "eu-central-1")))
    assert [each.level for each in other] == [Level.OK, Level.PROBLEM]
    (unknown,) = of_caller(TELLER, upstream, Caller("", "eu-central-1"))
    assert unknown.do == "set account_id"


def test_a_finding_is_one_line_that_no_terminal_obeys() -> None:
    finding = Finding(Level.PROBLEM, "eu", "or\nders", "write", "no\x1b[2J.", "act")
    assert str(finding) == "problem @eu/or\\nders: write: no\\x1b[2J; do: act"
