"""Where the commands read a spool, and where they write what they export.

Turns an error of either into a text and an exit code: 78 for a spool that does not exist or that
this user may not use, 1 for a disk or a lock. Invariant: no file is ever overwritten.
"""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from kdaemon.base.errors import SpoolError
from kdaemon.cli.common import DEFAULTS, EXIT_CONFIG, CommandError, load, now_ms, say
from kdaemon.cli.values_text import printable_json

if TYPE_CHECKING:
    from kdaemon.cli.terminal import OnProgress
    from kdaemon.spool.saved_copy import SavedCopy
    from kdaemon.spool.store import Store
    from kdaemon.spool.view import StoreView

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
        text = "several workers have spools: name one of them with --directory"
        raise CommandError(f"{text}: {', '.join(meant)}", exit_code=EXIT_CONFIG)
    return meant[0]


def _meant_directory(directory: str | None, config_path: str | None) -> str:
    if directory is None:
        directory = load(config_path, [], _WITHOUT).spool.directory
    if not directory:
        raise CommandError(
            f"{config_path or DEFAULTS}: no spool: spool.directory is not set; set it there or in"
            " KDAEMON_SPOOL_DIRECTORY, or name the spool with --directory",
            exit_code=EXIT_CONFIG,
        )
    return str(Path(directory).absolute())


@contextmanager
def opened(directory: str) -> Iterator["StoreView"]:
    """Opens a spool for reading. An error inside the block is printed and ends the command."""
    from kdaemon.spool.view import StoreView  # noqa: PLC0415 - brings SQLite

    with _told(directory), closing(StoreView(directory)) as view:
        yield view


@contextmanager
def held(directory: str) -> Iterator["Store"]:
    """Opens the spool for writing, and locks it against a daemon. Errors as in `opened`."""
    from kdaemon.spool.store import Store  # noqa: PLC0415 - brings SQLite

    # No bound on letters: none is added here.
    with (
        _told(directory),
        closing(Store(directory, letters_bytes_max=sys.maxsize, wall_ms=now_ms)) as store,
    ):
        salvage = store.upkeep.salvage
        if salvage is not None:
            say(f"the database was damaged, and stands aside: {salvage.path}", err=True)
        yield store


def saved_copy(file: str, directory: str) -> "SavedCopy":
    """A new spool in `directory` out of a database file; what goes wrong is told, and ends the
    command.
    """
    from kdaemon.spool.saved_copy import save_copy  # noqa: PLC0415 - brings SQLite

    with _told(directory):
        return save_copy(file, directory, now_ms)


@contextmanager
def _told(directory: str) -> Iterator[None]:
    try:
        yield
    except SpoolError as error:
        if isinstance(error.__cause__, PermissionError):
            raise _not_permitted(directory) from error
        exit_code = EXIT_CONFIG if error.kind in _CONFIG_KINDS else 1
        raise CommandError(f"{error}{_HINTS.get(error.kind, '')}", exit_code=exit_code) from error
    except PermissionError as error:
        raise _not_permitted(directory) from error
    except OSError as error:
        if error.filename is None:  # of the output, say
            raise
        raise CommandError(f"{directory}: {error.strerror}", exit_code=EXIT_CONFIG) from error


def _not_permitted(directory: str) -> CommandError:
    try:
        owner = Path(directory).owner()
    except (OSError, KeyError):
        owner = "its owner"
    text = f"permission denied: run this as {owner} (sudo -u {owner} kdaemon ...)"
    return CommandError(f"{directory}: {text}", exit_code=EXIT_CONFIG)


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
def written(path: str, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Standard output (`-`), or a new file with these rights. When the block is left, the file is
    on disk; if the block raised, the file is removed. An error of writing ends the command.
    """
    name = "standard output" if path == "-" else path
    try:
        if path == "-":
            out = sys.stdout.buffer
            yield _TerminalLines(out) if sys.stdout.isatty() else out
            out.flush()
        else:
            with _new_file(path, mode) as file:
                yield file
    except BrokenPipeError:
        raise  # the reader has seen enough; click ends the command quietly
    except FileExistsError as error:
        text = "exists, and is not overwritten: remove it or name another"
        raise CommandError(f"{path}: {text}") from error
    except OSError as error:
        raise CommandError(f"cannot write {name}: {error.strerror or error}") from error


@contextmanager
def exporting(path: str, noun: str) -> "Iterator[tuple[BinaryIO, OnProgress]]":
    """As `written`, with a progress bar, unless the terminal is where the lines go."""
    from kdaemon.cli.terminal import progress  # noqa: PLC0415 - brings rich

    is_shown = path != "-" or not sys.stdout.isatty()
    with written(path) as out, progress(noun, is_shown=is_shown) as on_progress:
        yield out, on_progress


@contextmanager
def _new_file(path: str, mode: int) -> Iterator[BinaryIO]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        with os.fdopen(descriptor, "wb", buffering=_WRITE_BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            Path(path).unlink()
        raise
