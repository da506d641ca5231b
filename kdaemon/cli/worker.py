"""`kdaemon worker`: runs one of several workers. Only the supervisor starts it, because only the
supervisor has the channels that the worker needs.
"""

import os
import socket
from typing import TYPE_CHECKING, NoReturn

import click

from kdaemon.base.errors import WorkerError
from kdaemon.cli.common import CommandError
from kdaemon.system import bound_malloc, import_plain_lists, leave_signals

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from kdaemon.observe.logs import LogHandler


@click.command()
@click.argument("told", type=int)
@click.argument("asked", type=int)
@click.argument("board", type=int)
def worker(told: int, asked: int, board: int) -> NoReturn:
    """Take records in for a supervisor, which is the parent of this process."""
    # A terminal and a service manager signal all processes; the supervisor decides what that means.
    leave_signals()
    from kdaemon.daemon.questions import read_first  # noqa: PLC0415 - see cli/__init__.py

    try:
        told_sock, asked_sock = socket.socket(fileno=told), socket.socket(fileno=asked)
        for descriptor in (told, asked, board):
            os.set_inheritable(descriptor, False)
        first = read_first(asked_sock)
    except (OSError, EOFError):
        text = "this command is for kdaemon itself: set workers, and start `kdaemon run`"
        raise CommandError(text, exit_code=2) from None
    bound_malloc()
    import_plain_lists()
    from kdaemon.cli.logged import run_logged  # noqa: PLC0415 - as above
    from kdaemon.daemon.board import Board  # noqa: PLC0415 - as above
    from kdaemon.daemon.worker import Assignment, Worker  # noqa: PLC0415 - as above

    try:
        assignment = Assignment.decode(first)
    except WorkerError as error:
        raise CommandError(f"error: {error}") from error
    # A variable or a file may have changed since the supervisor read it: then ConfigError.
    loaded = assignment.load(assignment.sources)

    def start(logs: "LogHandler") -> "Coroutine[Any, Any, int]":
        logs.queue.shared_by = board
        logs.fields = {"worker": assignment.number}
        shared = Board(board, assignment.slots)
        return Worker(assignment, loaded, logs, told_sock, asked_sock, shared).run()

    run_logged(loaded.config, start)
