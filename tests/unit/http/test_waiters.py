"""Who waited is called back, whoever else breaks."""

import pytest

from kdaemon.http.waiters import call_back


def breaks() -> None:
    raise RuntimeError("mine")


@pytest.mark.parametrize(("stream", "fields"), [("orders", {"stream": "orders"}), (None, {})])
def test_one_that_breaks_is_logged_and_holds_up_nobody(
    stream: str | None, fields: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    called: list[int] = []
    call_back([lambda: called.append(1), breaks, lambda: called.append(2)], stream)
    assert called == [1, 2]
    (line,) = caplog.records
    assert line.getMessage().endswith("broke: a defect of kdaemon")
    assert vars(line)["fields"] == fields
    assert line.exc_info is not None
