"""Calls to the sandbox's service, as its server makes them."""

from typing import Any

import pytest

from kdaemon.base.errors import ServiceError
from kdaemon.sandbox.service import Service

SECOND = 1_000_000_000
WALL_OFFSET = 1_700_000_000 * SECOND


def call(service: Service, operation: str, now_ns: int = 0, **members: Any) -> Any:
    return service.handle(operation, members, now_ns)


def refusal(service: Service, operation: str, now_ns: int = 0, **members: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        service.handle(operation, members, now_ns)
    assert caught.value.status == 400
    return caught.value


def summary(service: Service, name: str) -> dict[str, Any]:
    answer = call(service, "DescribeStreamSummary", StreamName=name)
    found: dict[str, Any] = answer["StreamDescriptionSummary"]
    return found
