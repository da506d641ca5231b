"""Every client on its defaults, in every case that is short. `make clients` has the long ones."""

from pathlib import Path

import pytest

from tests.clients.cases import CASES, Case, try_case
from tests.clients.program import CLIENTS, Client


@pytest.mark.parametrize("case", [each for each in CASES if not each.is_long], ids=lambda c: c.name)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda c: c.name)
def test_what_a_client_is_told_is_true(client: Client, case: Case, tmp_path: Path) -> None:
    if not client.is_built:
        pytest.skip(f"{client.title} is not here: `make clients` builds it")
    outcome = try_case(tmp_path, client, case)
    assert not outcome.problem, outcome
    if case.all_go_well:
        assert not outcome.failed, outcome
