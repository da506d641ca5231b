"""Clients that write without a pause while daemons come and go: each record has a name of its own.

Four ways in: boto3 and NDJSON over kept HTTP connections, lines over the Unix socket and over TCP.
None of them tries anything again on its own, so that each refused connection, each connection that
ended under a request and each record that had to be written twice is seen and counted.
Shared by tests/process and by the long command (`python -m tests.crash.restarts`).
"""

import http.client
import json
import socket
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from tests.kit.patience import PATIENCE_S, wait_for
from tests.kit.sdk import kinesis

LINES_OUT = 20  # that a connection of lines writes before it reads their answer
RECORDS_A_CALL = 5
LAME_DUCK_MS = 600  # longer than a client takes between two requests


def settings_of(directory: Path, service: str, **more: object) -> dict[str, object]:
    """Of a daemon that comes and goes, with its socket and its spool in this directory."""
    return {
        "endpoint_url": service,
        "region": "us-east-1",
        "listen.unix": str(directory / "k.sock"),
        "spool.directory": str(directory / "spool"),
        "drain.lame_duck_ms": LAME_DUCK_MS,
        "default.only_writer": True,
        **more,
    }


@dataclass
class Tally:
    """What one client saw."""

    acknowledged: list[str] = field(default_factory=list)
    in_flight: set[str] = field(default_factory=set)  # not answered when a connection ended
    refused: int = 0  # connections
    broken: list[str] = field(default_factory=list)  # requests without an answer, and refusals


class Client(threading.Thread):
    """Writes until it is told to stop."""

    kind: ClassVar[str]

    def __init__(self, stream: str, at: str) -> None:
        super().__init__(name=self.kind)
        self.stream = stream
        self.at = at
        self.tally = Tally()
        self.failure: BaseException | None = None
        self.is_told = threading.Event()
        self._count = 0

    def names(self, count: int) -> list[str]:
        self._count += count
        return [f"{self.kind}-{number}" for number in range(self._count - count, self._count)]

    def run(self) -> None:
        try:
            while not self.is_told.is_set():
                self.work()
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            self.failure = error
        self.hang_up()

    def hang_up(self) -> None:
        """Closes what is kept open."""

    @abstractmethod
    def work(self) -> None:
        """Writes some records."""


class Boto(Client):
    """PutRecords of boto3 on one kept connection."""

    kind = "boto3"

    def __init__(self, stream: str, at: str) -> None:
        super().__init__(stream, at)
        once = BotoConfig(retries={"total_max_attempts": 1}, read_timeout=PATIENCE_S)
        self._client = kinesis(at, config=once)

    def work(self) -> None:
        names = self.names(RECORDS_A_CALL)
        entries = [{"Data": name.encode(), "PartitionKey": name} for name in names]
        try:
            answer = self._client.put_records(StreamName=self.stream, Records=entries)
        except EndpointConnectionError:
            self.tally.refused += 1
        except (BotoCoreError, ClientError) as error:
            self.tally.broken.append(repr(error))
            self.tally.in_flight.update(names)
        else:
            for name, result in zip(names, answer["Records"], strict=True):
                if "ErrorCode" in result:
                    self.tally.broken.append(str(result))
                else:
                    self.tally.acknowledged.append(name)

    def hang_up(self) -> None:
        self._client.close()


class Ndjson(Client):
    """Bodies of lines over one kept HTTP connection. `promise`: what is asked for."""

    kind = "ndjson"
    promise = "delivered"

    def __init__(self, stream: str, at: str) -> None:
        super().__init__(stream, at)
        self._http: http.client.HTTPConnection | None = None

    def work(self) -> None:
        names = self.names(RECORDS_A_CALL)
        body = "".join(json.dumps({"partition_key": each, "data": each}) + "\n" for each in names)
        headers = {"X-Kdaemon-Acknowledge": self.promise, "Content-Type": "application/x-ndjson"}
        if self._http is None:
            address = self.at.removeprefix("http://")
            self._http = http.client.HTTPConnection(address, timeout=PATIENCE_S)
            try:
                self._http.connect()
            except ConnectionRefusedError:
                self.tally.refused += 1
                self._http = None
                return
        try:
            self._http.request("POST", f"/v1/streams/{self.stream}/records", body, headers)
            answer = self._http.getresponse()
            text, status = answer.read(), answer.status
        except (OSError, http.client.HTTPException) as error:
            self.tally.broken.append(repr(error))
            self.tally.in_flight.update(names)
            self.hang_up()
            return
        if status == 200:
            self.tally.acknowledged += names
        else:
            self.tally.broken.append(f"{status} {text.decode()}")
        if answer.will_close:
            self.hang_up()

    def hang_up(self) -> None:
        if self._http is not None:
            self._http.close()
        self._http = None


class Stored(Ndjson):
    """The same, for what is to be on disk when it is answered."""

    kind = "stored"
    promise = "stored"


class Lines(Client):
    """Lines over TCP, a few at a time; what is not answered at the end is written again."""

    kind = "tcp-lines"
    promise = "delivered"

    def __init__(self, stream: str, at: str) -> None:
        super().__init__(stream, at)
        self._again: list[str] = []

    def connect(self) -> socket.socket:
        host, port = self.at.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE_S)

    def work(self) -> None:
        """One connection, until it ends."""
        try:
            sock = self.connect()
        except ConnectionRefusedError:
            self.tally.refused += 1
            return
        except FileNotFoundError:
            self.tally.refused += 1
            return
        out: list[str] = []
        with sock, sock.makefile("rb") as answers:
            sock.settimeout(PATIENCE_S)
            try:
                setup = {"stream": self.stream, "acknowledge": self.promise}
                sock.sendall(json.dumps(setup).encode() + b"\n")
                for told_count in self._exchange(sock, answers, out):
                    self.tally.acknowledged += out[:told_count]
                    del out[:told_count]
            except ConnectionError:
                pass
        self.tally.in_flight.update(out)
        self._again = out

    def _exchange(self, sock: socket.socket, answers: Any, out: list[str]) -> Iterator[int]:
        """How many of what is out are acknowledged, one answer after the other."""
        told = 0
        while True:
            if not out:
                if self.is_told.is_set() and not self._again:
                    return
                out += self._again or self.names(LINES_OUT)
                self._again = []
                lines = (json.dumps({"partition_key": each, "data": each}) for each in out)
                sock.sendall("".join(line + "\n" for line in lines).encode())
            line = answers.readline()
            if not line:
                return
            said = json.loads(line)
            if "acknowledged" in said:
                yield said["acknowledged"] - told
                told = said["acknowledged"]
            else:
                self.tally.broken.append(line.decode())
                return

    def run(self) -> None:
        super().run()
        try:
            while self._again and self.failure is None:
                self.work()
        except BaseException as error:  # noqa: BLE001 - as above
            self.failure = error


class UnixLines(Lines):
    """The same over the Unix socket."""

    kind = "unix-lines"

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(PATIENCE_S)
            sock.connect(self.at)
        except BaseException:
            sock.close()
            raise
        return sock


class Load:
    """All clients together, between `with` and its end."""

    def __init__(self, stream: str, url: str, unix: str, *, has_spool: bool = True) -> None:
        self.clients: list[Client] = [
            Boto(stream, url),
            Ndjson(stream, url),
            Lines(stream, url),
            UnixLines(stream, unix),
        ]
        if has_spool:
            self.clients.append(Stored(stream, url))

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.is_told.set()
        for client in self.clients:
            client.join(PATIENCE_S)

    @property
    def acknowledged_count(self) -> int:
        return sum(len(client.tally.acknowledged) for client in self.clients)

    def progressed(self) -> dict[str, int]:
        """How much of each client is acknowledged."""
        return {each.kind: len(each.tally.acknowledged) for each in self.clients}

    def wait_progress(self, count: int) -> None:
        """Each client gets so many more records acknowledged."""
        before = self.progressed()

        def moved() -> bool | None:
            now = self.progressed()
            return all(now[kind] >= before[kind] + count for kind in now) or None

        wait_for(moved, f"each client to go on: {before}")

    def check(self, found: list[bytes]) -> None:
        """Nobody was refused, and of what is acknowledged everything is there, once; twice only
        what was in flight when its connection ended.
        """
        for client in self.clients:
            assert client.failure is None, (client.kind, client.failure)
            assert not client.is_alive(), client.kind
            assert client.tally.refused == 0, client.kind
            assert client.tally.broken == [], client.kind
        stored = Counter(each.decode() for each in found)
        acknowledged = Counter(name for each in self.clients for name in each.tally.acknowledged)
        in_flight = set[str]().union(*(each.tally.in_flight for each in self.clients))
        assert max(acknowledged.values()) == 1
        lost = acknowledged.keys() - stored.keys()
        assert not lost, f"{len(lost)} lost: {sorted(lost)[:10]}"
        twice = {name for name, count in stored.items() if count > 1}
        assert not twice - in_flight, f"{len(twice)} twice: {sorted(twice)[:10]}"
