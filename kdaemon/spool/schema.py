"""The tables of a spool, their version, and SQLite's settings for them.

Knows SQLite and the tables; no frame, and no file beside the database.
Invariant: a database is ours if its application id is ours, and its `user_version` says how many of
`MIGRATIONS` it has seen. A step is never edited once released; a new step is added at the end.
Where it sits: `database.py` configures connections by it; `upkeep.py` makes and migrates the
tables.
"""

import sqlite3

from kdaemon.base.errors import SpoolError

APPLICATION_ID = 0x6B646165  # "kdae": `file` and kdaemon know the database by it

# Measured 2026-11-21, commits of 8 x 120 kB, ext4 on a virtual disk: 203 MB/s in pages of 4 KiB,
# 231 in 8, 287 in 16, 272 in 32; commits of 3 kB: 3,100, 2,900 and 2,400 a second.
PAGE_BYTES = 16 * 1024
# The log is copied into the database at this size. With 16 MiB commits are 3 % faster, but their
# p99 is 17 ms instead of 7 (same measurement).
CHECKPOINT_BYTES = 4 * 1024 * 1024
WAL_BYTES_MAX = 16 * 1024 * 1024  # kept on disk between commits; a frame can be 14 MiB
CACHE_KIB = 2048  # of pages in memory; a larger cache gains nothing, for rows are read once
BUSY_MS = 5000  # to wait for another process that deletes letters; its transactions are short

# About the bytes of a row of `frame` beside its payload: numbers, their sizes, its index entry.
_ROW_HEAD_BYTES = 64
_LEAF_BYTES = PAGE_BYTES - 35  # a longer row also takes overflow pages [sqlite.org/fileformat2]
_LEAF_BYTES_MIN = (PAGE_BYTES - 12) * 32 // 255 - 23  # at least so much of it stays

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

ID_MAX = 2**53  # a greater id is damage: no spool lives long enough for it
VERSION_MAX = 1_000  # a higher version is damage: there will never be so many. Ours
MIGRATIONS: tuple[str, ...] = (_CREATE,)  # step i leads from version i to i + 1


def frame_bytes(payload_bytes: int) -> int:
    """Bytes that a frame takes on disk: a row of more than half a page takes a whole page."""
    local = row = payload_bytes + _ROW_HEAD_BYTES
    overflow_pages = 0
    if row > _LEAF_BYTES:
        local = _LEAF_BYTES_MIN + (row - _LEAF_BYTES_MIN) % (PAGE_BYTES - 4)
        local = local if local <= _LEAF_BYTES else _LEAF_BYTES_MIN
        overflow_pages = -(-(row - local) // (PAGE_BYTES - 4))
    return PAGE_BYTES // (_LEAF_BYTES // local) + overflow_pages * PAGE_BYTES


def configure(connection: sqlite3.Connection, *, is_owner: bool) -> None:
    """Sets up a connection. Only the owner's connection copies the log into the database. So only
    one process at a time ever does that, and none can meet SQLite's races there (before SQLite
    3.51.3, a reset of the log under a writer could corrupt the database).
    """
    settings = [
        f"busy_timeout = {BUSY_MS}",
        "synchronous = FULL",  # the log is fsynced at each commit
        "secure_delete = OFF",  # Debian's default overwrites each page that is freed
        f"wal_autocheckpoint = {CHECKPOINT_BYTES // PAGE_BYTES if is_owner else 0}",
        f"journal_size_limit = {WAL_BYTES_MAX}",
        f"cache_size = -{CACHE_KIB}",
        "temp_store = MEMORY",
        "mmap_size = 0",  # so that an I/O error is an error, not a SIGBUS
        "cell_size_check = ON",  # damage is found where it is read
        "trusted_schema = OFF",
    ]
    for setting in settings:
        connection.execute(f"PRAGMA {setting}").fetchall()


def begin(connection: sqlite3.Connection, path: str) -> None:
    """Makes an empty file a spool, as far as that is done outside a transaction; changes nothing in
    a file that is a spool. Raises SpoolError: `version` for a newer spool, which is left as it is;
    `directory` where the file system cannot hold a write-ahead log.
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
    """Whether the tables are, to the letter, those that the migrations make."""
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
    """Raises SpoolError (`version`) for a newer schema. Raises sqlite3.DatabaseError (corrupt) for
    a version that no spool can have: above VERSION_MAX, or an older one with the tables of today.
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
    """The error that SQLite itself raises for damage that it sees; for damage that only we
    can see.
    """
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Brings an older schema up to date, each step in a transaction of its own. Raises SpoolError
    (`version`) if a step cannot be done; closing the connection undoes that step.
    """
    for step in range(version(connection), len(MIGRATIONS)):
        script = f"BEGIN IMMEDIATE;\n{MIGRATIONS[step]}\nPRAGMA user_version = {step + 1};\nCOMMIT;"
        try:
            connection.executescript(script)
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
                raise  # an error of the disk
            raise SpoolError(
                "version",
                path,
                f"cannot be brought from schema {step} to {step + 1} ({error}): drain it with the "
                "kdaemon that wrote it, or set another spool.directory",
            ) from error
