"""Every client on its defaults, in every case that is short. `make clients` has the long ones."""

from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import CASES, Case, try_case
from tests.clients.program import CLIENTS, Client


def marked(client: Client) -> Any:
    marks = getattr(pytest.mark, client.runtime) if client.runtime else ()
    return pytest.param(client, marks=marks, id=client.name)


@pytest.mark.parametrize("case", [each for each in CASES if not each.is_long], ids=lambda c: c.name)
@pytest.mark.parametrize("client", [marked(each) for each in CLIENTS])
def test_what_a_client_is_told_is_true(client: Client, case: Case, tmp_path: Path) -> None:
    if not client.is_built:
        pytest.skip(f"{client.title} is not here: `make clients` builds it")
    outcome = try_case(tmp_path, client, case)
    assert not outcome.problem, outcome
    if case.all_go_well:
        assert not outcome.failed, outcome
