"""What a build of kdaemon needs (PEP 517): setuptools; what makes the man page; where it is
compiled, mypy and libraries.

All else is setuptools' own. Versions are pinned here, and with their hashes in
deploy/docker/build-requirements.lock; a test holds both to requirements-dev.lock.
"""

from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from setup import is_to_be_compiled

MANUAL = [  # what makes the man page: kdaemon/cli/manual.py
    "click==8.5.1",
    "msgspec==0.22.0",
]
COMPILER = [
    "mypy==2.4.1",  # with mypyc in it
    "ast-serialize==0.13.1",  # this one and the next four: what mypy needs
    "librt==0.16.0",
    "mypy-extensions==1.2.0",
    "pathspec==1.1.1",
    "typing-extensions==4.16.0",
    # The libraries that compiled code uses (setup.py: LIBRARIES), for their types.
    # msgspec is among them, and stands above.
    "h2==4.4.1",
    "hpack==4.2.0",
    "httptools==0.9.0",
    "hyperframe==6.1.0",
]

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    needed: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    return needed + MANUAL + (COMPILER if is_to_be_compiled() else [])
