"""Where the commands read a spool, and where they write what they export.

Turns an error of either into a text and an exit code: 78 for a spool that does not exist or that
this user may not use, 1 for a disk or a lock, 130 for Ctrl-C. Invariant: no file is ever
overwritten.
"""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import click

from kdaemon.base.errors import SpoolError
from kdaemon.cli.common import EXIT_CONFIG, EXIT_INTERRUPTED, load, say
from kdaemon.cli.values_text import printable_json

if TYPE_CHECKING:
    from kdaemon.spool.saved_copy import SavedCopy
    from kdaemon.spool.store import Store, StoreView

# Errors of the name that was given, not of the disk: trying again would change nothing.
_CONFIG_KINDS = frozenset({"directory", "foreign", "version"})
_HINTS = {
    "directory": ", or name the spool with --directory",
    "corrupt": "; the daemon, when it starts, sets it aside and saves what can be read of it, and"
    " `kdaemon spool salvage` does so without one",
}
_WITHOUT = "without a configuration: --directory DIR names the spool"
_WRITE_BUFFER_BYTES = 1024 * 1024

directory_option = click.option(
    "--directory", metavar="DIR", help="The spool. Default: spool.directory of the configuration."
)
output_option = click.option(
    "--output",
    metavar="FILE",
    default="-",
    help="Write to this new file. Default: standard output.",
)


def spool_directories(directory: str | None, config_path: str | None) -> list[str]:
    """The directories of the spools that the options or the configuration name. If several workers
    have spools, all of them. Exits with 78 if none is named.
    """
    meant = _meant_directory(directory, config_path)
    if directory is not None:
        return [meant]
    from kdaemon.spool.directory import database_path  # noqa: PLC0415 - the same
    from kdaemon.spool.shared import worker_spools  # noqa: PLC0415 - brings SQLite

    of_workers = list(worker_spools(meant).values())
    if of_workers and not os.path.lexists(database_path(meant)):
        return of_workers
    return [meant, *of_workers]


def spool_directory(directory: str | None, config_path: str | None) -> str:
    """The one directory that is named. Exits with 78 if none is named, or if several workers have
    spools.
    """
    meant = spool_directories(directory, config_path)
    if len(meant) > 1:
        say(
            f"several workers have spools: name one of them with --directory: {', '.join(meant)}",
            err=True,
        )
        sys.exit(EXIT_CONFIG)
    return meant[0]


def _meant_directory(directory: str | None, config_path: str | None) -> str:
    if directory is None:
        directory = load(config_path, [], _WITHOUT).spool.directory
    if not directory:
        say(
            f"{config_path or 'defaults and environment'}: no spool: spool.directory is not set; "
            "set it there or in KDAEMON_SPOOL_DIRECTORY, or name the spool with --directory",
            err=True,
        )
        sys.exit(EXIT_CONFIG)
    return str(Path(directory).absolute())


@contextmanager
def opened(directory: str) -> Iterator["StoreView"]:
    """Opens a spool for reading. An error inside the block is printed and ends the command."""
    from kdaemon.spool.store import Store  # noqa: PLC0415 - brings SQLite

    with _told(directory), closing(Store.open_for_reading(directory)) as view:
        yield view


@contextmanager
def held(directory: str) -> Iterator["Store"]:
    """Opens the spool for writing, and locks it against a daemon. Errors as in `opened`."""
    from kdaemon.spool.store import Store  # noqa: PLC0415 - brings SQLite
    from kdaemon.system import SystemClock  # noqa: PLC0415 - as above

    def wall_ms() -> int:
        return int(SystemClock.wall_seconds() * 1000)

    letters_bytes_max = sys.maxsize  # no bound: no letter is added here
    with (
        _told(directory),
        closing(
            Store.open(directory, letters_bytes_max=letters_bytes_max, wall_ms=wall_ms)
        ) as store,
    ):
        if store.set_aside is not None:
            say(f"the database was damaged, and stands aside: {store.set_aside}", err=True)
        yield store


def saved_copy(file: str, directory: str) -> "SavedCopy":
    """A new spool in `directory` out of a database file; what goes wrong is told, and ends the
    command.
    """
    from kdaemon.spool.saved_copy import save_copy  # noqa: PLC0415 - brings SQLite
    from kdaemon.system import SystemClock  # noqa: PLC0415 - as above

    with _told(directory):
        return save_copy(file, directory, lambda: int(SystemClock.wall_seconds() * 1000))


@contextmanager
def _told(directory: str) -> Iterator[None]:
    try:
        yield
    except SpoolError as error:
        if isinstance(error.__cause__, PermissionError):
            _exit_permission(directory)
        hint = _HINTS.get(error.kind, "")
        say(f"{error}{hint}", err=True)
        sys.exit(EXIT_CONFIG if error.kind in _CONFIG_KINDS else 1)
    except PermissionError:
        _exit_permission(directory)
    except KeyboardInterrupt:
        say("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)


def _exit_permission(directory: str) -> NoReturn:
    try:
        owner = Path(directory).owner()
    except (OSError, KeyError):
        owner = "its owner"
    say(
        f"{directory}: permission denied: run this as {owner} (sudo -u {owner} kdaemon ...)",
        err=True,
    )
    sys.exit(EXIT_CONFIG)


def daemon_text(pid: int | None) -> str:
    """Says whether a daemon runs on the spool. `pid`: as `StoreView.holder_pid`."""
    if pid is None:
        return "no daemon runs on it"
    return f"a daemon runs on it (pid {pid or 'unknown'})"


class _TerminalLines(io.BytesIO):
    """JSON lines for a terminal: characters that would control the terminal are escaped."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__()
        self._out = out

    def write(self, line: Any) -> int:
        return self._out.write(printable_json(line.decode().removesuffix("\n")).encode() + b"\n")

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)


@contextmanager
def written(path: str) -> Iterator[BinaryIO]:
    """Standard output (`-`), or a new file that only its owner can read. When the block is left,
    the file is on disk; if the block raised, the file is removed. An error of writing is printed
    and ends the command.
    """
    name = "standard output" if path == "-" else path
    try:
        if path == "-":
            out = sys.stdout.buffer
            yield _TerminalLines(out) if sys.stdout.isatty() else out
            out.flush()
        else:
            with _new_file(path) as file:
                yield file
    except BrokenPipeError:
        raise  # the reader has seen enough; click ends the command quietly
    except FileExistsError:
        say(f"{path}: exists, and is not overwritten: remove it or name another", err=True)
        sys.exit(1)
    except OSError as error:
        say(f"cannot write {name}: {error.strerror or error}", err=True)
        sys.exit(1)


@contextmanager
def _new_file(path: str) -> Iterator[BinaryIO]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=_WRITE_BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            Path(path).unlink()
        raise
