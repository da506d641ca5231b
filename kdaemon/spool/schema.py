"""The tables of a spool, their version, and how SQLite is set up for them.

Invariant: a database is ours if its application id is, and its `user_version` says how many of
`MIGRATIONS` it has seen. A step is never edited once released; a new one is added at the end.
"""

import sqlite3

from kdaemon.base.errors import SpoolError

APPLICATION_ID = 0x6B646165  # "kdae": what `file` and we tell the database by

# Measured 2026-11-21, commits of 8 x 120 kB, ext4 on a virtual disk: 203 MB/s in pages of 4 KiB,
# 231 in 8, 287 in 16, 272 in 32; commits of 3 kB: 3,100, 2,900 and 2,400 a second.
PAGE_BYTES = 16 * 1024
# The log is copied into the database at this size. 16 MiB is 3 % faster and has a p99 of 17 ms a
# commit against 7 (same measurement).
CHECKPOINT_BYTES = 4 * 1024 * 1024
WAL_BYTES_MAX = 16 * 1024 * 1024  # kept on disk between commits; a frame can be 14 MiB
CACHE_KIB = 2048  # of pages in memory; a bigger one gains nothing, for rows are read once
BUSY_MS = 5000  # waiting for another process that deletes letters; its transactions are short

# Of a row of `frame` beside its payload: numbers, their sizes, its entry in the index; about.
_ROW_HEAD_BYTES = 64
_LEAF_BYTES = PAGE_BYTES - 35  # a longer row goes on in pages of its own [sqlite.org/fileformat2]
_LEAF_BYTES_MIN = (PAGE_BYTES - 12) * 32 // 255 - 23  # that much of it stays

_CREATE = """
CREATE TABLE total (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    next_frame_id INTEGER NOT NULL,
    letter_count INTEGER NOT NULL,
    letter_bytes INTEGER NOT NULL
);
INSERT INTO total VALUES (1, 1, 0, 0);

CREATE TABLE stream (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    frame_count INTEGER NOT NULL DEFAULT 0,
    record_count INTEGER NOT NULL DEFAULT 0,
    byte_count INTEGER NOT NULL DEFAULT 0
);
-- The second copy of each name, on another page.
CREATE UNIQUE INDEX stream_name ON stream (name);

-- The payload stands last: what is before it is read without it.
CREATE TABLE frame (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    record_count INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX frame_stream ON frame (stream);

-- Apart from the frame, whose row would be written anew, payload and all.
CREATE TABLE progress (id INTEGER PRIMARY KEY, settled BLOB NOT NULL);

CREATE TABLE letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    reason TEXT NOT NULL,
    last_ms INTEGER NOT NULL,
    byte_count INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    partition_key TEXT NOT NULL,
    explicit_hash_key TEXT,
    data BLOB NOT NULL
);

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    stream INTEGER,
    record_count INTEGER,
    accepted_ms INTEGER,
    checksum INTEGER,
    quarantined_ms INTEGER NOT NULL,
    payload BLOB
);
"""

ID_MAX = 2**53  # a greater one is damage: no spool lives to see it
VERSION_MAX = 1_000  # beyond it, the number is damaged: no spool will ever have so many. Ours
MIGRATIONS: tuple[str, ...] = (_CREATE,)  # step i leads from version i to i + 1


def frame_bytes(payload_bytes: int) -> int:
    """What a frame takes of the disk: a row of more than half a page takes a whole one."""
    local = row = payload_bytes + _ROW_HEAD_BYTES
    overflow_pages = 0
    if row > _LEAF_BYTES:
        local = _LEAF_BYTES_MIN + (row - _LEAF_BYTES_MIN) % (PAGE_BYTES - 4)
        local = local if local <= _LEAF_BYTES else _LEAF_BYTES_MIN
        overflow_pages = -(-(row - local) // (PAGE_BYTES - 4))
    return PAGE_BYTES // (_LEAF_BYTES // local) + overflow_pages * PAGE_BYTES


def configure(connection: sqlite3.Connection, *, is_owner: bool) -> None:
    """Settings of a connection. One that is not the owner never copies the log into the database:
    only one process at a time ever does that, so that none can meet SQLite's races in it (a reset
    of the log under a writer could corrupt the database before SQLite 3.51.3).
    """
    settings = [
        f"busy_timeout = {BUSY_MS}",
        "synchronous = FULL",  # the log is fsynced at each commit
        "secure_delete = OFF",  # Debian's default is to overwrite each page that is freed
        f"wal_autocheckpoint = {CHECKPOINT_BYTES // PAGE_BYTES if is_owner else 0}",
        f"journal_size_limit = {WAL_BYTES_MAX}",
        f"cache_size = -{CACHE_KIB}",
        "temp_store = MEMORY",
        "mmap_size = 0",  # an I/O error shall be an error, not a SIGBUS
        "cell_size_check = ON",  # damage is found where it is read
        "trusted_schema = OFF",
    ]
    for setting in settings:
        connection.execute(f"PRAGMA {setting}").fetchall()


def begin(connection: sqlite3.Connection, path: str) -> None:
    """Makes an empty file a spool, as far as that is outside a transaction; harmless on one that
    is. Raises SpoolError: `version` for a newer one, which is left as it is; `directory` where the
    file system cannot hold a write-ahead log.
    """
    refuse_newer(connection, path)
    if application_id(connection) == 0:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise SpoolError(
            "directory",
            path,
            "the file system cannot hold a write-ahead log (shared memory is missing, as on many "
            "network file systems): set spool.directory to a local disk",
        )


def is_whole(connection: sqlite3.Connection) -> bool:
    """Whether the tables are those that the migrations make, to the letter."""
    model = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for step in MIGRATIONS:
            model.executescript(step)
        return _tables(model) == _tables(connection)
    finally:
        model.close()


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str | None]]:
    return connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


def application_id(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("PRAGMA application_id").fetchone()
    return int(found)


def version(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)


def refuse_newer(connection: sqlite3.Connection, path: str) -> None:
    """Raises SpoolError (`version`) for a newer schema, and sqlite3.DatabaseError (corrupt) for a
    version that none can have: beyond all that will be, or an older one with the tables of today.
    """
    found = version(connection)
    if not 0 <= found <= VERSION_MAX or (found < len(MIGRATIONS) and is_whole(connection)):
        raise damage(f"it says that it is of version {found}, and is not")
    if found > len(MIGRATIONS):
        raise SpoolError(
            "version",
            path,
            f"written by a newer kdaemon (schema {found}; this one knows up to {len(MIGRATIONS)}): "
            "run that version, or drain the spool with it, or set another spool.directory",
        )


def damage(text: str) -> sqlite3.DatabaseError:
    """What SQLite itself raises for damage that it sees; this is what only we can see."""
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Brings an older schema up to date, each step in a transaction of its own. Raises SpoolError
    (`version`) if a step cannot be done; it is undone when the connection is closed.
    """
    for step in range(version(connection), len(MIGRATIONS)):
        script = f"BEGIN IMMEDIATE;\n{MIGRATIONS[step]}\nPRAGMA user_version = {step + 1};\nCOMMIT;"
        try:
            connection.executescript(script)
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
                raise  # the disk's
            raise SpoolError(
                "version",
                path,
                f"cannot be brought from schema {step} to {step + 1} ({error}): drain it with the "
                "kdaemon that wrote it, or set another spool.directory",
            ) from error
