"""Settings of the listeners and of authentication: [listen] and [auth]. Pure. Where it sits:
`settings.py` has them.
"""

from dataclasses import dataclass
from typing import Annotated

from kdaemon.base.operations import PASSED_ON_DEFAULT
from kdaemon.config.about import Mark, setting
from kdaemon.config.values import (
    Address,
    FileMode,
    FilePath,
    Flag,
    HostNames,
    HttpAuth,
    ListenAddress,
    Milliseconds,
    Operations,
    UnixAuth,
    UnixPath,
    parse_address,
    whole,
)

_LIVE = Mark.LIVE
_RESTART = Mark.RESTART
"""A listener is opened by a start alone, which may find that its place is taken; what was connected
to another one was let in by its rules. Files are read again by themselves when they change."""


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """[listen]: where clients come in."""

    http: ListenAddress = setting(
        "127.0.0.1:8990",
        _RESTART,
        'The Kinesis API, NDJSON over HTTP, and lines. "": off.',
    )
    unix: UnixPath = setting(
        "auto",
        _RESTART,
        'The Unix socket, which speaks the same. "": off.',
        '"auto": $RUNTIME_DIRECTORY/kdaemon.sock (systemd), else'
        " $XDG_RUNTIME_DIR/kdaemon/kdaemon.sock, else off. Or an absolute path.",
    )
    unix_mode: FileMode = setting("0660", _RESTART, "Permissions of the socket file, octal.")
    admin: ListenAddress = setting(
        "127.0.0.1:8991", _RESTART, 'The page, metrics, probes and status. "": off.'
    )
    tls_certificate: FilePath = setting(
        "",
        _RESTART,
        "TLS on `http`: the certificate, with those that lead to its authority, a PEM file.",
        "Then nothing but TLS is spoken there (1.2 and 1.3). The files are looked at once a"
        " second: a pair that was changed serves whoever connects from then on; one that cannot be"
        " used changes nothing.",
    )
    tls_key: FilePath = setting("", _RESTART, "The key of the certificate, a PEM file.")
    tls_client_ca: FilePath = setting(
        "",
        _RESTART,
        "Clients must show a certificate that one of these authorities has signed, a PEM file."
        ' "": any client may come.',
    )
    admin_tls: Flag = setting(
        False,
        _RESTART,
        "The admin listener speaks TLS, too, and asks for the same certificates.",
    )
    admin_tap: Flag = setting(
        False,
        _LIVE,
        "`kdaemon tap` shows a sample of the records that pass through, to whoever can ask the"
        " admin listener.",
        "Only where that is on loopback, or asks for a certificate (admin_tls and tls_client_ca).",
    )
    insecure: Flag = setting(
        False,
        _RESTART,
        "Lets the TCP listeners face other machines, though nothing checks who writes, or though"
        " what is signed can be read on its way.",
        'Not needed where clients have to sign (auth.http = "sigv4") and TLS is spoken.',
    )
    hosts: HostNames = setting(
        (),
        _LIVE,
        "Names by which clients may call the TCP listeners (the Host header, without a port),"
        " beside addresses and localhost.",
        "This keeps web pages out whose name leads to this machine. Beyond loopback the name is"
        " checked only where this is set.",
    )
    operations_passed_on: Operations = setting(
        PASSED_ON_DEFAULT,
        _LIVE,
        "Operations of the Kinesis API, beside PutRecord and PutRecords, that are passed on to the"
        " service, signed with kdaemon's own credentials. [] = none.",
        "Whoever may write here may ask them, ListStreams and DescribeLimits of the whole account,"
        " the others of streams that records are taken for (accept_unlisted). With [auth] each may"
        " ask of streams that he may write to, and of the account if that is all of them. Of what"
        " describes or lists, all may stand here: also DescribeAccountSettings, DescribeChannel,"
        " DescribeStreamConsumer, GetResourcePolicy, ListChannels, ListStreamConsumers,"
        ' ListTagsForResource, ListTagsForStream. Add "GetShardIterator" and "GetRecords" only if'
        " clients may also read. What changes a stream is never passed on.",
    )
    connections_max: Annotated[int, whole(1, 1_000_000)] = setting(
        10_000,
        _LIVE,
        "Open client connections, all listeners together; one more is closed at once. The limit of"
        " open files bounds it, too.",
        "Memory of one that is idle: 5 KiB; with TLS 20, and 40 once it carried large requests;"
        " with HTTP/2 16 more.",
    )
    idle_timeout_ms: Milliseconds = setting(
        75_000,
        _LIVE,
        "A kept connection is closed when no request has come for so long.",
        "Keep it above that of a load balancer before kdaemon.",
    )

    @property
    def http_address(self) -> Address | None:
        """None: it is off."""
        return parse_address(self.http)

    @property
    def admin_address(self) -> Address | None:
        """None: it is off."""
        return parse_address(self.admin)

    @property
    def unix_mode_bits(self) -> int:
        """As chmod takes it: 0o660."""
        return int(self.unix_mode, 8)


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """[auth]: who may write, and how he shows who he is."""

    http: HttpAuth = setting(
        "none",
        _RESTART,
        'Over TCP. "none": whoever reaches the port may write. "sigv4": each request is signed'
        " with an access key of the principals.",
        'AWS Signature Version 4, service "kinesis", any region, as every AWS SDK and `curl'
        " --aws-sigv4` does. A signature is good for five minutes; within them whoever has read a"
        " request on its way can send it again. Lines cannot be signed and are refused.",
    )
    unix: UnixAuth = setting(
        "none",
        _RESTART,
        'Through the Unix socket. "none": whoever may open the file may write (listen.unix_mode).'
        ' "peer": users and groups of the principals.',
        "Of a group the one that a process runs as. kdaemon's own user and root are like all"
        " others.",
    )
    principals_file: FilePath = setting(
        "",
        _RESTART,
        "The principals: a TOML file that no other user can read or change.",
        "Its mode is 0600, or 0640 with a group of kdaemon's own. It is read again when it changes:"
        " put a new file in its place (`mv`). One that is wrong changes nothing, and the log says"
        " why.\n\n"
        "   [shop]\n"
        '   # Names, or how they begin; "*": all; ARNs for streams of other accounts.\n'
        '   streams = ["orders", "app-*"]\n'
        "   # As many keys as are needed, so that one can be replaced by another.\n"
        '   keys = [{ id = "AKIASHOP000000000001", secret = "at-least-16-characters-no-blanks" }]\n'
        '   # Of this system, by name or number, for auth.unix = "peer".\n'
        '   users = ["shop", 1001]\n'
        '   groups = ["shop"]',
    )
