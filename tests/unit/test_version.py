"""The version stands in kdaemon/__init__.py, and nowhere else but where deploy/ names the image.

Manifests and the chart are held to the version by tests of their own (test_deploy_*.py).
"""

import re
import tomllib
from pathlib import Path

import kdaemon

ROOT = Path(__file__).resolve().parents[2]


def test_a_build_takes_the_version_from_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "kdaemon.__version__"}


def test_the_changelog_has_a_heading_of_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert kdaemon.__version__ in dict(headings)
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", dict(headings)[kdaemon.__version__])


def test_deploy_names_the_image_of_this_version() -> None:
    named = re.compile(r"kdaemon:(\d+\.\d+\.\d+)|newTag: (\d+\.\d+\.\d+)")
    found = {
        number
        for path in [*ROOT.glob("deploy/**/README.md"), ROOT / "deploy" / "docker" / "Dockerfile"]
        for numbers in named.findall(path.read_text())
        for number in numbers
        if number
    }
    assert found == {kdaemon.__version__}
