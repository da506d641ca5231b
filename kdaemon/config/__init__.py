"""Configuration: `settings.py` says what can be set, `load.py` reads it, `rules.py` holds the rules
between keys, `values.py` the kinds and bounds of single values. Pure: text and mappings come in.
"""

from kdaemon.config.settings import (
    BillingConfig,
    Config,
    DrainConfig,
    ListenConfig,
    LogConfig,
    MetricsConfig,
    ObserveConfig,
    ReachConfig,
    SandboxConfig,
    SendConfig,
    SpoolConfig,
    StreamConfig,
    UpstreamConfig,
    resolve_unix_path,
    upstream_of_arn,
    user_runtime_problem,
)
from kdaemon.config.values import Address

__all__ = [
    "Address",
    "BillingConfig",
    "Config",
    "DrainConfig",
    "ListenConfig",
    "LogConfig",
    "MetricsConfig",
    "ObserveConfig",
    "ReachConfig",
    "SandboxConfig",
    "SendConfig",
    "SpoolConfig",
    "StreamConfig",
    "UpstreamConfig",
    "resolve_unix_path",
    "upstream_of_arn",
    "user_runtime_problem",
]
