"""All streams in use: one engine and one driver for each stream, whatever its clients call it by.

`identity.py`: which stream a name, an ARN or a path means. `upstreams.py`: which upstream a
spelling belongs to; `upstream.py`: one of them. `owner.py`: whether the account is known, on which
the meaning of an ARN depends. `spellings.py`: all that this says of a stream that is not open.
`stream.py`: one stream as its clients' side and the spool see it; `inquiry.py`: who waits for word
of it; `laid_out.py`: its settings, as its engine gets them; `slots.py`: which streams are closed.
`registry.py`: finds, opens and closes streams.
"""

from kdaemon.streams.registry import Streams
from kdaemon.streams.stream import Stream, line_acknowledge

__all__ = ["Stream", "Streams", "line_acknowledge"]
