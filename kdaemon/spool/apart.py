"""Records for a real service and records for a sandbox never share a spool.

A spool that stood behind a sandbox has a file that says so. Knows directories and whether records
stand there; no configuration. Invariant: a start changes the kind of a spool only where no record
stands in it. Where it sits: daemon/ calls it before it opens a spool.
"""

from contextlib import suppress
from pathlib import Path

from kdaemon.base.errors import SpoolError
from kdaemon.spool.lock import sync
from kdaemon.spool.rights import directory_error
from kdaemon.spool.shared import left_spools, prepare_root

_MARK = "spool.sandbox"


def keep_apart(root: str, *, is_sandboxed: bool) -> None:
    """Makes the spool at `root`, and those of its workers, one for a sandbox or for real services.
    SpoolError: foreign, where records of the other kind stand there; and as for `prepare_root`.
    """
    mark = Path(root, _MARK)
    try:
        if mark.exists() is is_sandboxed:
            return
        if left_spools(root, ()):
            raise SpoolError("foreign", root, _told(is_sandboxed=is_sandboxed))
        if is_sandboxed:
            prepare_root(root)
            mark.touch(0o600)
            sync(Path(root))
        else:
            with suppress(FileNotFoundError):
                mark.unlink()
    except OSError as error:
        raise directory_error(root, error) from error


def _told(*, is_sandboxed: bool) -> str:
    if is_sandboxed:
        return (
            "it holds records for a real service, which a sandbox would take and forget: start"
            " without --sandbox, or name another directory (--set spool.directory=DIR)"
        )
    return (
        "it holds records of a sandbox (`kdaemon run --sandbox`), which would go to a real service:"
        " name another spool.directory, or delete this one if nobody needs them"
    )
