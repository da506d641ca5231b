"""An input of bytes that also says in which reads they come."""

import itertools


def cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """What is sent, and the reads in which it comes. The first byte says how many cuts there are,
    and two bytes each where.
    """
    cut_count = data[0] % 8 if data else 0
    places, sent = data[1 : 1 + 2 * cut_count], data[1 + 2 * cut_count :]
    cuts = sorted(
        int.from_bytes(places[at : at + 2], "big") % (len(sent) + 1)
        for at in range(0, len(places) - 1, 2)
    )
    edges = [0, *cuts, len(sent)]
    reads = [sent[a:b] for a, b in itertools.pairwise(edges)]
    return sent, [read for read in reads if read]
