"""Fixtures of the room `send`."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kdaemon.send.client import ClientSettings, ServiceClient
from tests.unit.send.scripted import (
    ACCESS_KEY,
    SECRET_KEY,
    ScriptedService,
    opened,
    scripted_service,
)


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    async with scripted_service() as scripted:
        yield scripted


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An AWS environment with a key pair and a region, and nothing of the machine's own."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")


@pytest.fixture
async def client(service: ScriptedService, aws_environment: None) -> AsyncIterator[ServiceClient]:
    async with opened(ClientSettings(endpoint_url=service.url)) as client:
        yield client
