"""A disk under SQLite that remembers what was synced, fails on demand, and can lose its power.

A layer between SQLite and its own file operations (a VFS), put there through the library's C API:
every write, truncation and sync of the files below one directory passes here, then goes on to the
real file. Where Python brings SQLite inside itself and the API cannot be reached, `attach` says so.
"""

import ctypes
import ctypes.util
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.unsynced import File

SQLITE_OK = 0

_pointer = ctypes.c_void_p
_VFS_WORDS = ("xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose")
_VFS_REST = ("xRandomness", "xSleep", "xCurrentTime", "xGetLastError", "xCurrentTimeInt64")
_VFS_CALLS = ("xSetSystemCall", "xGetSystemCall", "xNextSystemCall")


class _Vfs(ctypes.Structure):
    """struct sqlite3_vfs, version 3."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", _pointer),
        ("zName", ctypes.c_char_p),
        ("pAppData", _pointer),
        ("xOpen", _pointer),
        *((name, _pointer) for name in (*_VFS_WORDS, *_VFS_REST, *_VFS_CALLS)),
    ]


class _Methods(ctypes.Structure):
    """struct sqlite3_io_methods, version 3."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        *(
            (name, _pointer)
            for name in (
                *("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock"),
                *("xUnlock", "xCheckReservedLock", "xFileControl", "xSectorSize"),
                *("xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap"),
                *("xFetch", "xUnfetch"),
            )
        ),
    ]


class _File(ctypes.Structure):
    """struct sqlite3_file; what follows belongs to the VFS."""

    _fields_ = [("methods", ctypes.POINTER(_Methods))]


_Open = ctypes.CFUNCTYPE(
    ctypes.c_int, _pointer, _pointer, _pointer, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_int, ctypes.c_int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, ctypes.c_int)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_int)


def works(_operation: str, _name: str) -> int:
    """What `Disk.before` is when nothing fails."""
    return SQLITE_OK


@dataclass
class Disk:
    """What stands below `directory`, as a disk would have it.

    `before`: called with the operation ("write", "truncate", "sync", "delete") and the file's name
    before each; returns a result code of SQLite: 0 lets it happen, another one fails it.
    """

    directory: Path
    before: Callable[[str, str], int] = field(default_factory=lambda: works)
    operation_count: int = 0
    _files: dict[str, File] = field(default_factory=dict)

    def after_power_loss(self, dice: random.Random, to: Path) -> None:
        """Writes into `to` what a disk may hold if the power fails now: all that was synced, and of
        the rest any part in any order, down to single sectors.
        """
        for name, content in self._files.items():
            if (self.directory / name).exists():  # else it has another name by now
                (to / name).write_bytes(content.after_power_loss(dice))

    def opened(self, name: str) -> None:
        """A file that was not seen before: what is in it was synced, and then given this name."""
        if name not in self._files:
            self._files[name] = File(bytearray((self.directory / name).read_bytes()))

    def did(self, operation: str, name: str, offset: int = 0, data: bytes = b"") -> int:
        """Asks `before`, then notes what is about to happen; a result code of SQLite."""
        self.operation_count += 1
        code = self.before(operation, name)
        if code != SQLITE_OK:
            return code
        content = self._files.setdefault(name, File())
        if operation == "write":
            content.write(offset, data)
        elif operation == "truncate":
            content.cut(offset)
        elif operation == "sync":
            content.begin_sync()
            content.end_sync()
        elif operation == "delete":
            del self._files[name]
        return SQLITE_OK


@contextmanager
def attach(directory: Path) -> Iterator[Disk | None]:
    """The disk below `directory`, for databases opened while this lasts; None if SQLite cannot be
    reached. Close them before the end.
    """
    library = _library()
    if library is None:
        yield None
        return
    layer = _Layer(library, Disk(directory))
    _kept.append(layer)
    library.sqlite3_vfs_register(ctypes.byref(layer.vfs), 1)
    try:
        yield layer.disk
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(layer.vfs))


# A test that fails may leave a database open, whose files call into its layer when they are closed.
_kept: list["_Layer"] = []


def _library() -> ctypes.CDLL | None:
    """The very library that `sqlite3` uses, or None: recognised by a VFS that it then can see."""
    name = ctypes.util.find_library("sqlite3")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    library.sqlite3_initialize()
    found = library.sqlite3_vfs_find(None)
    if not found or found.contents.iVersion < 3:
        return None
    probe = _Vfs.from_buffer_copy(found.contents)
    probe.zName = b"kdaemon-probe"
    library.sqlite3_vfs_register(ctypes.byref(probe), 0)
    try:
        sqlite3.connect("file:probe?mode=memory&vfs=kdaemon-probe", uri=True).close()
    except sqlite3.OperationalError:  # no such vfs: another copy of SQLite
        return None
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(probe))
    return library


class _Layer:
    """The VFS itself: the default one with some of its functions replaced."""

    def __init__(self, library: ctypes.CDLL, disk: Disk) -> None:
        self.disk = disk
        self._original = library.sqlite3_vfs_find(None).contents
        self._original_open = _Open(self._original.xOpen)
        self._original_delete = _Delete(self._original.xDelete)
        self._prefix = str(disk.directory) + "/"
        self._names: dict[int, str] = {}  # by address of the open file
        self._originals: dict[int, _Methods] = {}  # by address of their table
        self._by_file: dict[int, _Methods] = {}
        self._open = _Open(self._on_open)
        self._delete = _Delete(self._on_delete)
        self._write = _Write(self._on_write)
        self._truncate = _Truncate(self._on_truncate)
        self._sync = _Sync(self._on_sync)
        self._tables: dict[int, _Methods] = {}
        self.vfs = _Vfs.from_buffer_copy(self._original)
        self.vfs.zName = b"kdaemon-disk"
        self.vfs.xOpen = ctypes.cast(self._open, _pointer).value
        self.vfs.xDelete = ctypes.cast(self._delete, _pointer).value

    def _on_open(
        self,
        vfs: int,
        name: int | None,
        file: int,
        flags: int,
        out_flags: "ctypes._Pointer[ctypes.c_int]",
    ) -> int:
        code: int = self._original_open(vfs, name, file, flags, out_flags)
        path = ctypes.string_at(name).decode() if name else ""
        if code != SQLITE_OK or not path.startswith(self._prefix):
            return code
        handle = _File.from_address(file)
        address = ctypes.addressof(handle.methods.contents)
        if address not in self._tables:
            table = _Methods.from_buffer_copy(handle.methods.contents)
            self._originals[address] = handle.methods.contents
            table.xWrite = ctypes.cast(self._write, _pointer).value
            table.xTruncate = ctypes.cast(self._truncate, _pointer).value
            table.xSync = ctypes.cast(self._sync, _pointer).value
            self._tables[address] = table
        self._by_file[file] = self._originals[address]
        self._names[file] = path.removeprefix(self._prefix)
        self.disk.opened(self._names[file])
        handle.methods = ctypes.pointer(self._tables[address])
        return code

    def _on_delete(self, vfs: int, name: int, sync_directory: int) -> int:
        path = ctypes.string_at(name).decode()
        if path.startswith(self._prefix) and Path(path).exists():
            code = self.disk.did("delete", path.removeprefix(self._prefix))
            if code != SQLITE_OK:
                return code
        return int(self._original_delete(vfs, name, sync_directory))

    def _on_write(self, file: int, data: int, count: int, offset: int) -> int:
        code = self.disk.did("write", self._names[file], offset, ctypes.string_at(data, count))
        if code != SQLITE_OK:
            return code
        return int(_Write(self._by_file[file].xWrite)(file, data, count, offset))

    def _on_truncate(self, file: int, size: int) -> int:
        code = self.disk.did("truncate", self._names[file], size)
        if code != SQLITE_OK:
            return code
        return int(_Truncate(self._by_file[file].xTruncate)(file, size))

    def _on_sync(self, file: int, flags: int) -> int:
        code = self.disk.did("sync", self._names[file])
        if code != SQLITE_OK:
            return code
        return int(_Sync(self._by_file[file].xSync)(file, flags))
