"""A directory that loses its power: what a daemon, a process of its own, did not fsync may be gone.

`power.c` stands between the daemon and the file system and writes down what is done; here it is
read after the daemon's death, and the directory is made what a disk may hold of it. A mere kill
forgets nothing: the kernel still has what was written, until a later loss takes it away.

Needs what `preload.py` needs: `why_not` says what is missing.
Invariant: what the model says stands in a file that nobody is writing is what does stand there;
`check` compares all of it, so an operation that `power.c` does not know is found out.
"""

import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kit import preload
from tests.kit.unsynced import Directory, File, Node

SOURCE = Path(__file__).with_name("power.c")
INDEX = "-shm"  # SQLite's shared memory: no file that anybody syncs
INDEX_GONE = 0.5  # of losses: those after which nothing stands in its place
NAMING = "mrud"  # operations that change a name
_ENTRY = struct.Struct("<c3xIqQQ")  # `struct entry` of power.c


@dataclass(frozen=True, slots=True)
class Manners:
    """How the disk behaves. `fsync_us`: least and most that an fsync takes. `full_every`: one write
    of so many finds no space, but none of those of a start; 0: none does.
    """

    fsync_us: tuple[int, int] = (500, 25_000)
    full_every: int = 0


def why_not() -> str | None:
    """Why there are no power losses on this machine; None: there are."""
    return preload.why_not(SOURCE)


def library() -> Path:
    """`power.c`, compiled for this test run."""
    return preload.compiled(SOURCE)


class PowerDisk:
    """The directory `root`, made empty. One process at a time works in it, each after
    `next_process`, whose variables it is given; after each, `killed`, `lose_power` or `check`.
    """

    def __init__(
        self,
        directory: Path,
        seed: int,
        manners: Manners | None = None,
        begin: Callable[[Path], object] = Path.mkdir,
    ) -> None:
        """`begin`: makes the root, with what stands there on disk."""
        self.root = directory.resolve() / "disk"
        begin(self.root)
        self.forgotten_count = 0  # changes that were pending at a loss
        self._journals = directory.resolve() / "journals"
        self._journals.mkdir()
        self._journal: Path | None = None  # not read yet
        self._journal_count = 0
        self._manners = manners or Manners()
        self._dice = random.Random(f"power {seed}")
        self._nodes: dict[int, Node] = {}  # by inode
        self._top = self._look(self.root)

    def next_process(self, death_at: int = 0) -> dict[str, str]:
        """Variables for the process that is started next. `death_at`: at its so many-th operation
        it is killed; 0: it is not.
        """
        assert self._journal is None, "the last process has not been seen to"
        self._journal_count += 1
        self._journal = self._journals / str(self._journal_count)
        manners = self._manners
        disk = (*manners.fsync_us, manners.full_every, death_at, self._dice.randrange(2**31))
        return {
            "LD_PRELOAD": str(library()),
            "POWER_LOSS_ROOT": str(self.root),
            "POWER_LOSS_JOURNAL": str(self._journal),
            "POWER_LOSS_DISK": " ".join(map(str, disk)),
        }

    def killed(self) -> None:
        """The process is gone; the kernel has all that it wrote. At most one of its operations was
        cut off between the file and the journal, and is learnt from the file.
        """
        self._replay()
        self._learn(self.root, self._top)

    def check(self) -> None:
        """The process ended by itself: all that stands here was written down."""
        self._replay()
        learnt = self._learn(self.root, self._top)
        assert not learnt, f"done, and not seen by power.c: {', '.join(learnt)}"

    def lose_power(self) -> None:
        """The process is gone, and of what was not synced any part."""
        image = self.root.with_name("image")
        self.put_image(image)
        self.forgotten_count += sum(len(node.pending) for node in self._standing(self._top))
        shutil.rmtree(self.root)
        image.rename(self.root)
        self._nodes.clear()
        self._top = self._look(self.root)

    def put_image(self, to: Path) -> None:
        """Makes `to` what the disk may hold if the power fails now: each time something else. The
        process is gone.
        """
        self._replay()
        to.mkdir()
        self._put(to, self._top)
        for path in self.root.rglob(f"*{INDEX}"):
            copy = to / path.relative_to(self.root)
            if copy.parent.is_dir() and self._dice.random() >= INDEX_GONE:
                content = path.read_bytes()
                is_noise = self._dice.random() < 0.5
                copy.write_bytes(self._dice.randbytes(len(content)) if is_noise else content)

    def operations(self) -> str:
        """Of the process that has ended and was not seen to yet: a letter each, as in power.c."""
        assert self._journal is not None
        return "".join(what for what, *_ in _entries(self._journal.read_bytes()))

    # What was done

    def _replay(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None and journal.exists():  # else it died before it did anything here
            for what, number, inode, other, data in _entries(journal.read_bytes()):
                self._apply(what, number, inode, other, data)
            journal.unlink()
        for node in self._nodes.values():
            node.forget_syncs()

    def _apply(self, what: str, number: int, inode: int, other: int, data: bytes) -> None:
        if what in NAMING:
            self._rename(what, inode, data[:other].decode(), data[other:].decode())
            return
        node = self._nodes[inode]
        match what, node:
            case "w", File():
                node.write(number, data)
            case "c", File():
                node.cut(number)
            case "b", _:
                node.begin_sync(number)
            case "s", _:
                node.end_sync(number)
            case "o", _:
                pass
            case _:
                raise AssertionError(f"{what!r} of {node}")

    def _rename(self, what: str, inode: int, old: str, name: str) -> None:
        if name.endswith(INDEX):
            return
        directory, last = self._parent(name)
        match what:
            case "u":
                directory.unlink(last)
            case "r":
                old_directory, old_last = self._parent(old)
                assert old_directory is directory, f"{old} is renamed to another directory"
                directory.rename(old_last, last, self._nodes[inode])
            case _:
                node = self._nodes[inode] = File() if what == "m" else Directory()
                directory.name(last, node)

    def _parent(self, name: str) -> tuple[Directory, str]:
        directory = self._top
        *above, last = name.split("/")
        for each in above:
            found = directory.whole()[each]
            assert isinstance(found, Directory), name
            directory = found
        return directory, last

    # What stands there

    def _look(self, path: Path) -> Directory:
        """All of it is on disk."""
        found = Directory()
        self._nodes[path.stat().st_ino] = found
        for each in path.iterdir():
            if each.is_dir():
                found.synced[each.name] = self._look(each)
            elif not each.name.endswith(INDEX):
                file = found.synced[each.name] = File(bytearray(each.read_bytes()))
                self._nodes[each.stat().st_ino] = file
        return found

    def _learn(self, path: Path, directory: Directory) -> list[str]:
        """Takes from the files what the model does not have; their names. Names that differ were
        changed by one operation, so they go together, or come.
        """
        learnt = []
        change: dict[str, Node | None] = {}
        names = directory.whole()
        paths = {each.name: each for each in path.iterdir() if not each.name.endswith(INDEX)}
        for name in names.keys() - paths.keys():
            change[name] = None
            learnt.append(name)
        for name, each in paths.items():
            inode = each.stat().st_ino
            node = names.get(name)
            if node is None or self._nodes.get(inode) is not node:
                learnt.append(name)
                node = self._nodes.get(inode)
                if node is None:
                    node = self._nodes[inode] = Directory() if each.is_dir() else File()
                change[name] = node
            if isinstance(node, Directory):
                learnt += self._learn(each, node)
            elif _catch_up(node, each.read_bytes()):
                learnt.append(name)
        if change:
            directory.pending.append(change)
        return learnt

    def _standing(self, directory: Directory) -> Iterator[Node]:
        yield directory
        for node in {id(each): each for each in directory.whole().values()}.values():
            if isinstance(node, Directory):
                yield from self._standing(node)
            else:
                yield node

    def _put(self, path: Path, directory: Directory) -> None:
        for name, node in directory.after_power_loss(self._dice).items():
            to = path / name
            if isinstance(node, Directory):
                to.mkdir(0o700)
                self._put(to, node)
                continue
            image = node.after_power_loss(self._dice)
            with to.open("wb") as file:
                file.truncate(len(image))  # zeros take no time
                if image.count(0) < len(image):
                    file.write(image)
            to.chmod(0o600)


def _entries(raw: bytes) -> Iterator[tuple[str, int, int, int, bytes]]:
    """The last one may be cut off: its operation then never happened."""
    at = 0
    while at + _ENTRY.size <= len(raw):
        what, size, number, inode, other = _ENTRY.unpack_from(raw, at)
        at += _ENTRY.size
        if at + size > len(raw):
            return
        yield what.decode(), number, inode, other, raw[at : at + size]
        at += size


def _catch_up(file: File, found: bytes) -> bool:
    """Whether the file holds something else than the model says; then it says the same."""
    known = file.whole()
    if known == found:
        return False
    if len(known) != len(found):
        file.cut(len(found))
        known = file.whole()
    if known != found:
        first = next(at for at, (a, b) in enumerate(zip(known, found, strict=True)) if a != b)
        last = next(at for at in range(len(found) - 1, -1, -1) if known[at] != found[at])
        file.write(first, found[first : last + 1])
    return True
