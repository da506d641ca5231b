"""Configuration: `settings.py` has all settings, `given.py` reads the values that were given,
`load.py` makes one Config of them, `rules.py` has the rules between keys, `values.py` the kinds and
bounds of single values. Pure: text and mappings come in.
"""

from kdaemon.config.listen import ListenConfig
from kdaemon.config.reach import ReachConfig, UpstreamConfig
from kdaemon.config.sections import DrainConfig, LogConfig, SandboxConfig
from kdaemon.config.settings import (
    Config,
    resolve_unix_path,
    upstream_of_arn,
    user_runtime_problem,
)
from kdaemon.config.stream import StreamConfig
from kdaemon.config.values import Address

__all__ = [
    "Address",
    "Config",
    "DrainConfig",
    "ListenConfig",
    "LogConfig",
    "ReachConfig",
    "SandboxConfig",
    "StreamConfig",
    "UpstreamConfig",
    "resolve_unix_path",
    "upstream_of_arn",
    "user_runtime_problem",
]
