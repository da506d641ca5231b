"""An upstream as those who look see it, without the streams behind it."""

from dataclasses import dataclass, field

from kdaemon.base.counting import StreamCounters
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.service import AWS, Service


@dataclass
class SeenUpstream:
    """The default one, at AWS, whose account nobody knows."""

    name: str = "default"
    service: Service = AWS
    account: str = ""
    region: str = "eu-central-1"
    endpoint: Endpoint = field(default_factory=Endpoint)
    credentials_end_s: float | None = None
    closed: StreamCounters = field(default_factory=StreamCounters)
