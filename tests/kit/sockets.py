"""Sockets of clients that say what no library would: connected, and read."""

import contextlib
import socket

from tests.kit.patience import PATIENCE_S


def connected(address: str) -> socket.socket:
    """To a listener by its log line: a URL, or a path. OSError: nobody listens."""
    scheme, _, at = address.partition("://")
    if at:
        host, _, port = at.rpartition(":")
        return socket.create_connection((host, int(port)), PATIENCE_S)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(PATIENCE_S)
        client.connect(scheme)
        stack.pop_all()
        return client


def read_all(client: socket.socket) -> bytes:
    """All that is said until the connection ends, however it does."""
    read = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            read += piece
    return read


def read_answers(client: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Statuses and bodies of so many answers on one connection, in their order."""
    answers = []
    with client.makefile("rb") as file:
        for _ in range(count):
            status = int(file.readline().split()[1])
            length = 0
            while (line := file.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            answers.append((status, file.read(length)))
    return answers
