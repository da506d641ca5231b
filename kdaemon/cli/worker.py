"""`kdaemon worker`: runs one of several workers. Only the supervisor starts it, because only the
supervisor has the channels that the worker needs.
"""

import os
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from kdaemon.base.errors import ConfigError, WorkerError
from kdaemon.cli.common import exit_config

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
    _leave_signals()
    from kdaemon.daemon.questions import read_first  # noqa: PLC0415 - see cli/__init__.py

    try:
        told_sock, asked_sock = socket.socket(fileno=told), socket.socket(fileno=asked)
        for descriptor in (told, asked, board):
            os.set_inheritable(descriptor, False)
        first = read_first(asked_sock)
    except (OSError, EOFError):
        click.echo(
            "this command is for kdaemon itself: set workers, and start `kdaemon run`", err=True
        )
        sys.exit(2)
    from kdaemon.system import bound_malloc, import_plain_lists  # noqa: PLC0415 - as above

    bound_malloc()
    import_plain_lists()
    from kdaemon.cli.logged import run_logged  # noqa: PLC0415 - as above
    from kdaemon.daemon.board import Board  # noqa: PLC0415 - as above
    from kdaemon.daemon.worker import Assignment, Worker  # noqa: PLC0415 - as above

    try:
        assignment = Assignment.decode(first)
        loaded = assignment.load(assignment.sources)
    except ConfigError as error:  # a variable or a file changed since the supervisor read it
        exit_config(error.problems)
    except WorkerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)

    def start(logs: "LogHandler") -> "Coroutine[Any, Any, int]":
        logs.queue.shared_by = board
        logs.fields = {"worker": assignment.number}
        shared = Board(board, assignment.slots)
        return Worker(assignment, loaded, logs, told_sock, asked_sock, shared).run()

    run_logged(loaded.config, start)


def _leave_signals() -> None:
    """Leaves signals to the supervisor, which decides what each means: a terminal and a service
    manager send signals to all processes. Sets handlers, not SIG_IGN, because programs that this
    process starts would inherit SIG_IGN.
    """
    from kdaemon.system import leave_signals  # noqa: PLC0415 - see above

    leave_signals()
