"""`kdaemon`, after some Python of a test: for constants that are no settings.

`python -m tests.kit.before ARGUMENTS`, or a copy of the template: KIT_BEFORE has the Python. Where
it sits: `daemon.running(before=...)`.
"""

import os

import kdaemon.__main__


def main() -> None:
    exec(os.environ.pop("KIT_BEFORE"), {})
    kdaemon.__main__.main()


if __name__ == "__main__":
    main()
