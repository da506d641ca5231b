"""kdaemon: delivers records to Kinesis Data Streams and Yandex Data Streams."""

from importlib.util import find_spec

__version__ = "0.2.0"  # the one place: a build reads it here, tests hold deploy/ to it


def build() -> str:
    """`compiled` or `pure`: which kind of installation this is. One module stands for all that may
    be compiled (setup.py lists them). It is looked for, not imported.
    """
    found = find_spec("kdaemon.base.limits")
    return "pure" if found is None or str(found.origin).endswith(".py") else "compiled"
