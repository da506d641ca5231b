"""All streams in use: one engine and one driver a stream, whatever it is called by.

`identity.py`: which stream a name, an ARN or a path means. `owner.py`: whether the account is known
that this depends on. `stream.py`: one stream as its clients' side and the spool see it.
`registry.py`: finds, opens, bounds and closes them.
"""

from kdaemon.streams.registry import Streams
from kdaemon.streams.stream import Stream, line_acknowledge

__all__ = ["Stream", "Streams", "line_acknowledge"]
