"""`python -m kdaemon` and the `kdaemon` script: starts the commands."""

import errno
import os
import sys

from kdaemon.cli import cli
from kdaemon.system import fill_descriptors

# Errors that a write to standard output may meet: a full disk, a quota, a failing disk.
_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


def main() -> None:
    fill_descriptors()
    try:
        cli(prog_name="kdaemon")
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS or error.filename is not None:
            raise
        # Python flushes it when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        sys.stderr.write(f"kdaemon: standard output cannot be written: {error.strerror}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
