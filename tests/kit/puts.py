"""A put that was read, as values: the class itself is compiled, and compares none."""

from kdaemon.wire.limits import PutRequest

_NAMES = (
    "records",
    "sizes",
    "byte_count",
    "depends_on_kind",
    "is_reserved",
    "refused_count",
    "stream_name",
    "stream_arn",
    "is_dry_run",
    "sequence_number_for_ordering",
    "keyless_count",
    "is_single",
)


def members_of(request: PutRequest) -> dict[str, object]:
    """All that a put says, by name."""
    return {name: getattr(request, name) for name in _NAMES}
