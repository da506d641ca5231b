"""What a page of docs/ says that a test holds is held by a test of that name."""

import re
from functools import cache
from pathlib import Path

import pytest

from kdaemon.config.keys import KEYS, STREAM_KEYS, dotted
from kdaemon.observe.table import CONFIG
from kdaemon.sandbox.faults import Fault, FaultKind

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "yandex.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+)`", PAGE)))


@cache
def names_of_tests() -> frozenset[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if "node_modules" not in path.parts:
            found.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return frozenset(found)


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_page_of_yandex_names_is_there(name: str) -> None:
    assert name in names_of_tests()


def test_each_row_of_the_page_of_yandex_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    facts = [row for row in rows if not row.startswith("| the service |")]
    assert len(facts) > 20
    assert [row for row in facts if "`test_" not in row] == []


SANDBOX = (ROOT / "docs" / "sandbox.md").read_text()


@pytest.mark.parametrize("name", [*(kind.value for kind in FaultKind), *Fault.__struct_fields__])
def test_the_page_of_the_sandbox_has_each_fault_and_each_member_of_one(name: str) -> None:
    assert f"`{name}`" in SANDBOX


KPL = (ROOT / "docs" / "migrate-from-kpl.md").read_text()
KPL_PROPERTIES = """
    AggregationEnabled AggregationMaxCount AggregationMaxSize CaCertFile CaCertPath
    CloudwatchEndpoint CloudwatchPort CollectionMaxCount CollectionMaxSize ConnectTimeout
    CredentialsProvider CredentialsRefreshDelay DaemonHealthCheckTimeoutMs EnableCoreDumps
    EnableDaemonHealthCheck EnableOldestFutureTracker FailIfThrottled
    GlueSchemaRegistryConfiguration GlueSchemaRegistryCredentialsProvider
    GlueSchemaRegistryPropertiesFilePath KinesisEndpoint KinesisPort LogLevel MaxConnections
    MaxUserRecordSize MetricsCredentialsProvider MetricsGranularity MetricsLevel MetricsNamespace
    MetricsUploadDelay MinConnections NativeExecutable ProxyHost ProxyPassword ProxyPort
    ProxyUserName RateLimit RecordMaxBufferedTime RecordTtl Region RequestTimeout
    ReturnUserRecordOnFailure StsEndpoint StsPort TempDirectory ThreadPoolSize ThreadingModel
    UserRecordTimeoutInMillis VerifyCertificate AdditionalMetricsDimension
    AwsAccessKeyId AwsSecretKey CustomEndpoint Port
"""
"""What KinesisProducerConfiguration of KPL 1.0.7 can be set, and in the last line what a file of
properties of 0.x can have besides; read 2026-11-29.
"""


@pytest.mark.parametrize("name", KPL_PROPERTIES.split())
def test_each_property_of_the_kpl_is_on_its_page(name: str) -> None:
    assert f"`{name}`" in KPL


def test_each_setting_that_the_page_of_the_kpl_names_is_there() -> None:
    settings = KPL.partition("## Settings side by side")[2].partition("## What else")[0]
    cells = [row.split(" | ")[1] for row in settings.splitlines() if row.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([a-z_.]+)(?: = [^`]+)?`", cell)}
    assert len(named) > 15
    known = {dotted(path) for path in KEYS} | set(STREAM_KEYS) | {"stored", "accepted"}
    assert named - known == set()


RELOAD = (ROOT / "docs" / "reload.md").read_text()


def test_the_page_of_reloads_names_the_metrics() -> None:
    assert [each.name for each in CONFIG if f"`{each.name}`" not in RELOAD] == []
