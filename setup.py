"""Builds kdaemon: pure, or with the code that every record passes compiled by mypyc.

This is the one place that says which modules are compiled, and why the others of their rooms are
not. KDAEMON_BUILD is `compiled` (the build fails where that cannot be), `pure` (a wheel for any
machine), or not set: compiled where there is a C compiler. An editable install is always pure: its
modules are the files of the tree. A wheel has the man page, too, made from the commands.
setuptools runs this file; build_backend.py says what it needs.
Invariant: a wheel is made of the files of the tree and of nothing that an earlier build has left.
"""

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "kdaemon"

ROOMS = ("base", "route", "pace", "pack", "settle", "engine", "wire", "http", "door")
"""Compiled whole, but for what PURE names."""

OTHERS = (
    # What each PutRecords call passes. The rest of the room works for few calls.
    "send/arriving.py",
    "send/bodies.py",
    "send/call.py",
    "send/client.py",
    "send/connection.py",
    "send/connection_slots.py",
    "send/driver.py",
    "send/exchange.py",
    "send/pool.py",
    "send/reader.py",
    "send/request.py",
    "send/settings.py",
    # What each stored frame passes in the loop. The rest of the room waits for the disk.
    "spool/commit_queue.py",
    "spool/commits.py",
    "spool/delivery.py",
    "spool/held.py",
    "spool/left.py",
    "spool/owed.py",
    "spool/passing_on.py",
    "spool/pending.py",
    "spool/progress.py",
    "spool/read_position.py",
    "spool/room.py",
    "spool/space.py",
    "spool/spool.py",
    "spool/spooled_stream.py",
    "spool/spooled_streams.py",
    "streams/inquiry.py",
    "streams/stream.py",
)
"""Compiled, of rooms that are not."""

LIBRARIES = ("msgspec", "h2", "hpack", "httptools")
"""What compiled code imports. mypyc has to know their types: a class of msgspec's that it took for
any would be taken for one of its own, and end the process.
"""

OPTIMISE = os.environ.get("KDAEMON_OPTIMISE", "3")
"""As gcc counts; a test has no time for that."""

# Why not.
STRUCTS = "has classes that msgspec makes, with keywords that mypyc does not pass on"
CAUSES = (
    "raises errors `from` others, whose cause mypyc forgets; works at a start or a change of files"
)
LIBRARY = "its classes are a library's with other defaults, which mypyc cannot set"
SELDOM = "works for few requests"

PURE = {
    "base/counters.py": STRUCTS,
    "base/record.py": STRUCTS,
    "base/failures.py": STRUCTS,
    "engine/snapshot.py": STRUCTS,
    "wire/explain.py": STRUCTS,
    "wire/json_field.py": "its types are values: msgspec makes a class for a field's name",
    "wire/line_shapes.py": STRUCTS,
    "wire/lines_read.py": STRUCTS,
    "wire/members.py": "its bytes are msgspec.Raw, which is no subclass of bytes",
    "wire/passed_on.py": SELDOM,
    "wire/passed_on_cbor.py": SELDOM,
    "wire/put_cbor.py": "takes errors of several classes by one name",
    "wire/rejections.py": STRUCTS,
    "wire/shapes.py": STRUCTS,
    "http/counters.py": STRUCTS,
    "http/certificate.py": CAUSES,
    "http/http2_core.py": LIBRARY,
    "http/http2_frames.py": STRUCTS,
    "http/http2_intake.py": STRUCTS,
    "http/listener.py": CAUSES,
    "http/passed.py": CAUSES,
    "http/renewal.py": CAUSES,
    "http/server.py": CAUSES,
    "http/takeover.py": CAUSES,
    "door/passthrough.py": SELDOM,
    "door/principals.py": CAUSES,
}


def compiled_modules() -> list[str]:
    """Their files, from the top of the project."""
    some = os.environ.get("KDAEMON_ROOMS", "").split()  # a test has no time for all
    paths = [path for room in some or ROOMS for path in (PACKAGE / room).glob("*.py")]
    names = [path.relative_to(PACKAGE).as_posix() for path in paths] + ([] if some else [*OTHERS])
    chosen = [name for name in names if name not in PURE]
    return sorted(f"kdaemon/{name}" for name in chosen if not name.endswith("__init__.py"))


def can_compile() -> bool:
    """Whether there is a C compiler, with Python's headers."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(compiler[0]) is not None and headers.exists()


def is_to_be_compiled() -> bool:
    asked = os.environ.get("KDAEMON_BUILD", "")
    if asked not in {"", "compiled", "pure"}:
        sys.exit(f"KDAEMON_BUILD is {asked!r}: expected compiled, pure or nothing")
    if asked == "compiled" and not can_compile():
        sys.exit("KDAEMON_BUILD is compiled, and there is no C compiler here, or no Python.h")
    return asked == "compiled" or (not asked and can_compile())


class BuildOnAllCores(build_ext):  # type: ignore[misc]
    """A compiler for each core: setuptools would compile the files of an extension in turn."""

    def build_extensions(self) -> None:
        compile_in_turn = self.compiler.compile

        def compile_at_once(sources: list[str], **how: Any) -> list[str]:
            if OPTIMISE == "0":
                sources = joined(sources)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = pool.map(lambda source: compile_in_turn([source], **how), sources)
                return [path for paths in made for path in paths]

        self.compiler.compile = compile_at_once
        super().build_extensions()


def joined(sources: list[str]) -> list[str]:
    """With a file for each core in place of those that mypyc wrote: to read the headers for each of
    them is a third of what it costs to compile without optimising.
    """
    made = [source for source in sources if Path(source).name.startswith("__native_")]
    others = [source for source in sources if source not in made]
    parts = [part for core in range(os.cpu_count() or 1) if (part := made[core :: os.cpu_count()])]
    for number, part in enumerate(parts):
        path = Path(part[0]).with_name(f"part_{number}.c")
        path.write_text("".join(f'#include "{Path(each).name}"\n' for each in part))
        others.append(str(path))
    return others


def extensions(scratch: str) -> list[Extension]:
    """Their C goes to `scratch`."""
    # Imported here: whoever builds a pure wheel has no mypy.
    from mypyc.build import mypycify  # noqa: PLC0415

    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"kdaemon is not compiled without the types of {', '.join(missing)}")
    # No configuration of mypy's: types are checked in `make test`, with all libraries at hand. What
    # mypy finds in a file that is not compiled matters to nobody here.
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    options += compiled_modules()
    made: list[Extension] = mypycify(
        options,
        opt_level=OPTIMISE,
        debug_level="0",
        multi_file=True,
        target_dir=scratch,
        group_name="kdaemon",
    )
    return made


def man_page(scratch: str) -> str:
    """The file that it is written to."""
    try:
        # Imported here: only a wheel has it, and only a build of one brings what this needs.
        from kdaemon.cli import manual  # noqa: PLC0415
    except ImportError as error:
        sys.exit(f"the man page is not made without {error.name}: see build_backend.py")
    path = Path(scratch, "kdaemon.1")
    path.write_text(manual.page(), encoding="utf-8")
    return str(path)


def main() -> None:
    """For all but a wheel (the metadata, an editable install) nothing is made."""
    if "bdist_wheel" not in sys.argv:
        setup()
        return
    with TemporaryDirectory(prefix="kdaemon-build-") as scratch:
        setup(
            ext_modules=extensions(scratch) if is_to_be_compiled() else [],
            cmdclass={"build_ext": BuildOnAllCores},
            data_files=[("share/man/man1", [man_page(scratch)])],
            options={"build": {"build_base": scratch}},
        )


if __name__ == "__main__":
    main()
