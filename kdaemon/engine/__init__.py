"""The engine of one stream: composes route, pace, pack and settle. Sans-I/O.

`engine.py`: frames and results go in, batches and settled frames come out. `settlement.py`: the
meaning of an answer for each record. `strays.py`: aggregates that landed on a shard that is not
known yet. `crowding.py`: whose queue is full. `heat.py`: which shards are behind. `snapshot.py`:
all that other rooms may know of an engine.
"""

from kdaemon.engine.engine import Engine
from kdaemon.engine.settings import EngineSettings

__all__ = ["Engine", "EngineSettings"]
