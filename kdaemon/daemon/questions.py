"""Questions of a supervisor to a worker, and the answers: a snapshot, a tap of records, a reload.

Each question and each answer is a pickled value after its length: both ends run one program, of one
version, as one user, over a pair of sockets that no other process has. A large answer is sent in
parts, each made in one step of the worker's loop.
Knows questions by their names; must not know what they are about.
Invariants: an answer goes to its own question, however late it comes; a worker that is gone or does
not answer fails that one question, and no other.
Where it sits: crew.py asks, worker.py answers.
"""

import asyncio
import logging
import pickle
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import fields, is_dataclass
from io import BytesIO
from itertools import count
from typing import Any

from kdaemon.base.steps import Steps

# As long as `STILL_NS_MAX` of heartbeat.py lets a loop stand still; ours, 2026-11-28.
ANSWER_TIMEOUT_S = 10.0
GONE = "it is gone"
_LENGTH = struct.Struct("!I")

log = logging.getLogger("kdaemon")

Answer = Callable[..., AsyncIterator[Any]]


class NoAnswerError(Exception):
    """The worker is gone, or does not answer, or failed to make the answer."""


class Asker:
    """The supervisor's end."""

    def __init__(self, sock: socket.socket, first: bytes) -> None:
        """`first`: what the worker is told before the first question; see `read_first`."""
        self._sock = sock
        self._first = first
        self._numbers = count(1)
        self._parts: dict[int, list[Any]] = {}
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._why_silent = GONE  # why nothing is heard any more

    async def start(self) -> None:
        """Tells what comes first, and begins to hear answers."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        self._writer.write(_LENGTH.pack(len(self._first)) + self._first)
        self._hearing = asyncio.get_running_loop().create_task(self._hear(reader))

    async def ask(self, name: str, *given: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> list[Any]:
        """The parts of the answer. Raises NoAnswerError."""
        if self._writer is None or self._hearing is None or self._writer.is_closing():
            raise NoAnswerError(GONE)
        if self._hearing.done():
            raise NoAnswerError(self._why_silent)
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._parts[number] = []
        try:
            self._writer.write(_framed((number, name, given)))
            async with asyncio.timeout(timeout_s):
                answer: list[Any] = await waiting
                return answer
        except TimeoutError:
            raise NoAnswerError(f"no answer within {timeout_s:g} s") from None
        finally:
            del self._waiting[number], self._parts[number]

    def close(self) -> None:
        """Fails the questions that are open."""
        if self._hearing is not None:
            self._hearing.cancel()
        if self._writer is not None:
            self._writer.close()
        else:
            self._sock.close()
        self._fail()

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                number, kind, value = await _read(reader)
                waiting = self._waiting.get(number)
                if waiting is None or waiting.done():
                    continue  # its question has timed out
                if kind == "part":
                    self._parts[number].append(value)
                elif kind == "end":
                    waiting.set_result(self._parts[number])
                else:
                    waiting.set_exception(NoAnswerError(value))
        except (OSError, EOFError):
            self._fail()
        except Exception as error:  # what follows cannot be read either
            log.exception("an answer of a worker cannot be read: a defect of kdaemon")
            self._why_silent = f"its answer cannot be read ({type(error).__name__}): see the log"
            self._fail()

    def _fail(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(NoAnswerError(self._why_silent))


def read_first(sock: socket.socket) -> bytes:
    """Waits for what the supervisor tells before its first question. EOFError: the supervisor is
    gone.
    """
    sock.setblocking(True)
    (length,) = _LENGTH.unpack(_read_exactly(sock, _LENGTH.size))
    first = _read_exactly(sock, length)
    sock.setblocking(False)
    return first


def _read_exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


async def answer_all(sock: socket.socket, answers: Mapping[str, Answer]) -> None:
    """The worker's end: answers until the supervisor is gone. Each question has a task of its own:
    a slow one, or one that timed out, delays no other; but see `in_turn`.
    """
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    loop = asyncio.get_running_loop()
    going_on: set[asyncio.Task[None]] = set()
    try:
        while True:
            number, name, given = await _read(reader)
            one = loop.create_task(_answer(writer, number, answers[name](*given)))
            going_on.add(one)
            one.add_done_callback(going_on.discard)
    except (OSError, EOFError):
        pass
    finally:
        for one in going_on:
            one.cancel()
        writer.close()


async def _answer(writer: asyncio.StreamWriter, number: int, parts: AsyncIterator[Any]) -> None:
    try:
        async for part in parts:
            writer.write(_framed((number, "part", part)))
            await writer.drain()
        writer.write(_framed((number, "end", None)))
    except Exception as error:
        if writer.is_closing():  # the supervisor is gone
            return
        log.exception("a question of the supervisor could not be answered: a defect of kdaemon")
        writer.write(_framed((number, "error", f"{type(error).__name__}: see its log")))


def in_turn(turn: asyncio.Lock, answer: Answer) -> Answer:
    """`answer`, but questions that share a `turn` are answered one after the other."""

    async def answered(*given: Any) -> AsyncIterator[Any]:
        async with turn:
            async for part in answer(*given):
                yield part

    return answered


async def stepped(steps: Steps[Any], now_ns: Callable[[], int], slice_ns: int) -> Any:
    """The result of work in steps, done in slices of the loop's time."""
    until_ns = now_ns() + slice_ns
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        if now_ns() >= until_ns:
            await asyncio.sleep(0)
            until_ns = now_ns() + slice_ns


async def _read(reader: asyncio.StreamReader) -> tuple[int, str, Any]:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    told: tuple[int, str, Any] = pickle.loads(await reader.readexactly(length))  # noqa: S301 - see above
    return told


def _framed(value: object) -> bytes:
    data = pickled(value)
    return _LENGTH.pack(len(data)) + data


def pickled(value: object) -> bytes:
    """A pickle of `value`, also where it holds compiled dataclasses."""
    into = BytesIO()
    _Pickler(into, pickle.HIGHEST_PROTOCOL).dump(value)
    return into.getvalue()


class _Pickler(pickle.Pickler):
    """Pickles dataclasses so that they are made again by their constructors: a dataclass that mypyc
    compiled takes values in no other way.
    """

    def reducer_override(self, value: Any) -> Any:
        if not is_dataclass(value) or isinstance(value, type):
            return NotImplemented
        return _made, (
            type(value),
            {each.name: getattr(value, each.name) for each in fields(value)},
        )


def _made(kind: type, values: dict[str, Any]) -> Any:
    return kind(**values)
