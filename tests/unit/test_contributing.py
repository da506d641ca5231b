"""What CONTRIBUTING.md tells somebody who works on kdaemon to call is there."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
TARGETS = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))


def test_hooks_call_make_and_nothing_else() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local", "no tool of another version than the lock's"
    for hook in repository["hooks"]:
        program, target = hook["entry"].split()
        assert (program, hook["language"]) == ("make", "system")
        assert target in TARGETS


def test_each_target_and_each_file_on_the_page_is_there() -> None:
    calls = re.findall(r"(?:^|`)make ([a-z -]+?)(?:  +#|`)", PAGE, re.MULTILINE)
    assert len(calls) > 6
    assert {target for call in calls for target in call.split()} <= TARGETS
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / link).exists(), link


def test_the_inner_loop_is_ten_lines_at_most() -> None:
    (loop,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert loop.count("\n") <= 10
