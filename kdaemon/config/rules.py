"""Rules between settings: each returns every clash that it sees.

Pure. A bound of one key alone stands with the key (`settings.py`); a rule here needs two keys. The
loader runs all the rules over one Config and decides which file or variable to name.
"""

from collections.abc import Iterator, Mapping

from kdaemon.base.operations import may_be_passed_on, operation_problem
from kdaemon.config.clash import Clash, Path
from kdaemon.config.parts import SPOOL_PART_BYTES_MIN, memory_needed
from kdaemon.config.settings import Config
from kdaemon.config.stream_rules import find_stream_clashes, stream_name_problem
from kdaemon.config.upstream_rules import find_upstream_clashes
from kdaemon.config.values import Address, parse_address

WILDCARD_HOSTS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised in order to refuse them


def find_clashes(
    config: Config, listed: Mapping[str, Path], upstreams: Mapping[str, Path]
) -> list[Clash]:
    """Every clash. `listed`: where each stream of `config.streams` stands, by its name; `upstreams`
    likewise.
    """
    return [
        *_exposed(config),
        *_tap(config),
        *_auth(config),
        *_same_address(config),
        *_tls(config),
        *_useless(config),
        *_passed_on(config),
        *_spool(config),
        *_workers(config),
        *_sandbox(config),
        *find_stream_clashes(config, listed),
        *find_upstream_clashes(config, listed, upstreams),
    ]


def _listeners(config: Config) -> list[tuple[Path, Address]]:
    """The TCP listeners that are on."""
    texts = [
        (("listen", "http"), config.listen.http),
        (("listen", "admin"), config.listen.admin),
        (("sandbox", "listen"), config.sandbox.listen),
    ]
    found = [(path, parse_address(text)) for path, text in texts]
    return [(path, address) for path, address in found if address is not None]


def _exposed(config: Config) -> Iterator[Clash]:
    if config.listen.insecure:
        return
    for path, address in _listeners(config):
        why = _why_insecure(config, path)
        if not address.is_loopback and why is not None:
            yield Clash(
                (path, ("listen", "insecure")),
                f"address {address.host} faces other machines, and {why}: "
                "use 127.0.0.1, or set listen.insecure = true if the network itself is trusted",
            )


def _tap(config: Config) -> Iterator[Clash]:
    """Records are shown to this machine alone, or to who shows a certificate."""
    listen = config.listen
    if not listen.admin_tap:
        return
    tap, admin = ("listen", "admin_tap"), ("listen", "admin")
    address = listen.admin_address
    if address is None:
        yield Clash((tap, admin), "is true, and listen.admin is off: leave it out, or set that")
    elif not (address.is_loopback or (listen.admin_tls and listen.tls_client_ca)):
        yield Clash(
            (tap, admin),
            f"is true, and listen.admin ({listen.admin}) shows records to other machines: use a"
            " loopback address, or ask for certificates (admin_tls and tls_client_ca)",
        )


def _why_insecure(config: Config, path: Path) -> str | None:
    """Why a listener should not face other machines; None: it may."""
    if path != ("listen", "http") or config.auth.http == "none":
        return "nothing checks who writes"
    if config.listen.tls_certificate:
        return None
    return (
        "signed requests are not encrypted: whoever reads one on its way may send it again "
        "within five minutes (listen.tls_certificate)"
    )


def _auth(config: Config) -> Iterator[Clash]:
    """Each way to show who one is needs principals, and a listener that asks."""
    auth, file = config.auth, ("auth", "principals_file")
    has_socket = config.listen.unix or any(each.socket for each in config.streams.values())
    for key, value, listener in (
        ("http", auth.http, config.listen.http),
        ("unix", auth.unix, has_socket),
    ):
        if value == "none":
            continue
        if not auth.principals_file:
            yield Clash(
                (("auth", key), file),
                f'is "{value}", and no file says who may write: set auth.principals_file',
            )
        if not listener:
            yield Clash(
                (("auth", key), ("listen", key)),
                f'is "{value}", and listen.{key} is off: leave it out, or set listen.{key}',
            )
    if auth.principals_file and (auth.http, auth.unix) == ("none", "none"):
        yield Clash(
            (file,),
            'is read by nobody: set auth.http = "sigv4" or auth.unix = "peer", or leave it out',
        )


def _same_address(config: Config) -> Iterator[Clash]:
    listeners = _listeners(config)
    for index, (path, address) in enumerate(listeners):
        for other_path, other in listeners[:index]:
            is_same_host = address.host == other.host or {address.host, other.host} & WILDCARD_HOSTS
            if address.port and address.port == other.port and is_same_host:
                yield Clash(
                    (path, other_path),
                    f"{'.'.join(other_path)} and {'.'.join(path)} have one port ({address.port}): "
                    "give each its own",
                )


def _tls(config: Config) -> Iterator[Clash]:
    """A certificate and its key belong together, and to a listener."""
    for table, on in (("listen", config.listen), ("sandbox", config.sandbox)):
        certificate, key = (table, "tls_certificate"), (table, "tls_key")
        if bool(on.tls_certificate) is not bool(on.tls_key):
            given, missing = (certificate, key) if on.tls_certificate else (key, certificate)
            yield Clash(
                (given, missing),
                f"is set, and {'.'.join(missing)} is not: a certificate and its key go together",
            )
        if on.tls_client_ca and not on.tls_certificate:
            yield Clash(
                ((table, "tls_client_ca"), certificate),
                f"is set, and {table}.tls_certificate is not: without TLS no client shows one",
            )
    listen = config.listen
    if listen.admin_tls and not listen.tls_certificate:
        yield Clash(
            (("listen", "admin_tls"), ("listen", "tls_certificate")),
            "is true, and there is no listen.tls_certificate: set it, with listen.tls_key",
        )
    if listen.tls_certificate and not listen.http and not listen.admin_tls:
        yield Clash(
            (("listen", "tls_certificate"), ("listen", "http")),
            "is set, and listen.http is off: a certificate is for a TCP listener",
        )


def _useless(config: Config) -> Iterator[Clash]:
    has_socket = any(stream.socket for stream in config.streams.values())
    if not config.listen.http and not config.listen.unix and not has_socket:
        yield Clash(
            (("listen", "http"), ("listen", "unix")),
            "both http and unix are off, so that no client could come in: set one of them",
        )
    if not config.accept_unlisted and not config.streams:
        yield Clash(
            (("accept_unlisted",),),
            "is false, and no stream is listed, so that no record could be accepted: "
            "add a [streams.NAME], or set it to true",
        )


def _passed_on(config: Config) -> Iterator[Clash]:
    for name in config.listen.operations_passed_on:
        problem = operation_problem(name)
        if problem is not None:
            yield Clash(
                (("listen", "operations_passed_on"),),
                f"{problem}; expected some of {', '.join(may_be_passed_on())}",
            )


def _spool(config: Config) -> Iterator[Clash]:
    spool = config.spool
    if spool.letters_bytes_max >= spool.bytes_max:
        yield Clash(
            (("spool", "letters_bytes_max"), ("spool", "bytes_max")),
            f"letters_bytes_max ({spool.letters_bytes_max}) must be below spool.bytes_max "
            f"({spool.bytes_max}), or dead letters would leave no room for records",
        )


def _sandbox(config: Config) -> Iterator[Clash]:
    for name in config.sandbox.streams:
        problem = stream_name_problem(name, config.traits)
        if problem is not None:
            yield Clash((("sandbox", "streams"),), f'has "{name}", which {problem}')


def _workers(config: Config) -> Iterator[Clash]:
    """Each has room for a request of the largest kind while another one is being delivered."""
    count, needed = config.worker_count, memory_needed(config)
    if config.workers == "auto" or count == 1:
        return
    each = config.memory_bytes_max // count
    if each < needed:
        yield Clash(
            (("workers",), ("memory_bytes_max",)),
            f"{count} workers have {each} bytes of memory_bytes_max ({config.memory_bytes_max})"
            f" each, and one needs {needed}, twice request_bytes_max: raise memory_bytes_max to"
            f" {count * needed}, or set fewer workers",
        )
    if config.spool.directory and config.spool.bytes_max < count * SPOOL_PART_BYTES_MIN:
        yield Clash(
            (("workers",), ("spool", "bytes_max")),
            f"{count} workers share spool.bytes_max ({config.spool.bytes_max}), and a spool needs"
            f" {SPOOL_PART_BYTES_MIN}: raise spool.bytes_max to {count * SPOOL_PART_BYTES_MIN}, or"
            " set fewer workers",
        )
