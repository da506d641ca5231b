"""The engine of one stream: composes route, pace, pack and settle. Sans-I/O.

`engine.py`: frames and results go in, batches and settled frames come out. `crowding.py`: whose
queue is full. `ways.py`: where the records of a stored frame would go. `heat.py`: which shards are
behind. `hot_keys.py`: which keys make them so. `health.py`: whether calls succeed. `snapshot.py`:
all that other rooms may know of an engine.
"""

from kdaemon.engine.engine import Engine

__all__ = ["Engine"]
