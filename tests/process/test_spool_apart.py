"""What waits for a real service never goes to a sandbox, and the other way round."""

from contextlib import closing
from pathlib import Path

import pytest

from kdaemon.spool.apart import keep_apart
from tests.kit.daemon import Daemon, environment, running, write_config
from tests.kit.stores import append, open_store, open_view, stored_ids

NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("with_sandbox", [True, False], ids=["sandbox", "real"])
def test_records_of_the_other_kind_are_left_where_they_are(
    tmp_path: Path, workers: int, *, with_sandbox: bool
) -> None:
    root = tmp_path / "spool"
    keep_apart(str(root), is_sandboxed=not with_sandbox)
    root.mkdir(0o700, exist_ok=True)
    spool = root / "worker-1" if workers > 1 else root
    with closing(open_store(spool)) as store:
        append(store, 1, 2, stream="demo")
    settings = {"spool.directory": str(root), "workers": workers, "sandbox.listen": "127.0.0.1:0"}
    if not with_sandbox:
        settings |= {"endpoint_url": NOWHERE, "region": "us-east-1"}
    config = str(write_config(tmp_path, settings))
    daemon = Daemon(
        ["run", *(["--sandbox"] if with_sandbox else []), "--config", config], environment()
    )
    try:
        assert daemon.wait() == 1
        told = "for a real service" if with_sandbox else "of a sandbox"
        assert f"it holds records {told}" in "\n".join(daemon.lines)
    finally:
        daemon.close()
    with closing(open_view(spool)) as view:
        assert stored_ids(view, "demo") == [1, 2]


def test_a_spool_without_a_record_is_had_by_either(tmp_path: Path) -> None:
    settings = {"spool.directory": str(tmp_path / "spool")}
    for service in (None, NOWHERE, None):
        with running(tmp_path, settings, service=service) as daemon:
            assert daemon.counted("kdaemon_records_spooled") == 0
