"""The engine of one stream: composes route, pace, pack and settle. Sans-I/O.

`engine.py`: what happens goes in, what is owed comes out. `settlement.py`: what an answer means for
each record. `strays.py`: aggregates that landed on a shard that is not known yet. `crowding.py`:
whose queue is full. `heat.py`: which shards are behind, and `snapshot.py`: all that others may
know of an engine, for those who look.
"""

from kdaemon.engine.engine import Engine
from kdaemon.engine.settings import EngineSettings

__all__ = ["Engine", "EngineSettings"]
