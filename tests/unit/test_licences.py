"""What kdaemon brings along may be shipped with it: the licences of the runtime lock.

The table is the list for people; the packages' own metadata is what it is held to.
"""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "PSF-2.0"}
"""None of them asks anything of whoever uses kdaemon but to keep the notice."""

LICENCES = {
    "aiobotocore": "Apache-2.0",
    "aiohappyeyeballs": "PSF-2.0",
    "aiohttp": "Apache-2.0 AND MIT",
    "aioitertools": "MIT",
    "aiosignal": "Apache-2.0",
    "asyncio-throttle": "MIT",
    "attrs": "MIT",
    "botocore": "Apache-2.0",
    "click": "BSD-3-Clause",
    "frozenlist": "Apache-2.0",
    "h2": "MIT",
    "hpack": "MIT",
    "httptools": "MIT",
    "hyperframe": "MIT",
    "idna": "BSD-3-Clause",
    "jmespath": "MIT",
    "markdown-it-py": "MIT",
    "mdurl": "MIT",
    "msgspec": "BSD-3-Clause",
    "multidict": "Apache-2.0",
    "prometheus-client": "Apache-2.0 AND BSD-2-Clause",
    "propcache": "Apache-2.0",
    "pygments": "BSD-2-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "rich": "MIT",
    "six": "MIT",
    "typing-extensions": "PSF-2.0",
    "urllib3": "MIT",
    "uvloop": "Apache-2.0 OR MIT",
    "wrapt": "BSD-2-Clause",
    "yarl": "Apache-2.0",
}
"""Of each package of requirements.lock, as an SPDX expression (2026-11-29)."""

OLDER_WORDS = {
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "The MIT License (MIT)": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",  # python-dateutil's, of its LICENSE
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
}
"""What packages say that name no SPDX expression."""

LOCKED = {
    name: " ; " in line
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    for name in re.findall(r"^([\w.-]+)==", line)
}
"""By name: whether only some versions of Python have it."""


def names_of(expression: str) -> set[str]:
    return set(re.split(r" AND | OR ", expression))


def told(package: Message) -> set[str]:
    """The licences that its metadata names."""
    expression = package["License-Expression"]
    if expression is not None:
        return names_of(expression)
    words = [(package["License"] or "").partition("\n")[0].strip()]
    words += [each for each in package.get_all("Classifier") or () if each.startswith("License ::")]
    found = {OLDER_WORDS.get(word, word) for word in words if word}
    return found - {"Dual License"}  # python-dateutil's; its classifiers say which two


def test_each_package_of_the_lock_is_in_the_table_and_no_other() -> None:
    assert sorted(LICENCES) == sorted(LOCKED)


@pytest.mark.parametrize("name", LICENCES)
def test_a_licence_is_one_that_is_allowed_and_what_the_package_says(name: str) -> None:
    assert names_of(LICENCES[name]) <= ALLOWED
    try:
        package = metadata(name)
    except PackageNotFoundError:
        assert LOCKED[name], "it belongs to every Python"
        return
    assert told(package) == names_of(LICENCES[name])  # type: ignore[arg-type]  # it is one


def test_the_licence_of_kdaemon_itself_is_in_each_wheel() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert 'license = "Apache-2.0"\nlicense-files = ["LICENSE"]\n' in project
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
