"""The example and the documents' tables, written from the settings themselves.

Pure: texts come out. `make docs` (`python -m tests.kit.pages`) writes them into
config.example.toml, docs/configure.md and docs/reload.md, and a test compares these files with
them. Invariant: this file says nothing of a single setting; the text of a setting stands at its
field (`about.py`).
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from kdaemon.base.limits import KIB, MIB
from kdaemon.config.about import Mark
from kdaemon.config.changes import OF_STREAMS, OF_UPSTREAMS, TABLES, TOP
from kdaemon.config.keys import KEYS, STREAM_KEYS, UPSTREAM_KEYS, Key
from kdaemon.config.reach import UpstreamConfig
from kdaemon.config.settings import Config
from kdaemon.config.toml import toml_text

COLUMNS = 100  # width of a comment in the example

HEAD = """\
# Every setting of kdaemon, each with its default: this file changes nothing until you edit it.
# `make docs` writes it: docs/configure.md is the same as tables.
#
# Order of precedence: defaults < this file < environment < flags (`--set listen.http=...`).
# A variable is KDAEMON_, the table, the key: KDAEMON_REGION, KDAEMON_LISTEN_HTTP,
# KDAEMON_DEFAULT_LINGER_MS; a list is separated by commas. Streams are listed here or by flag only.
# `kdaemon check --config FILE` reports everything that is wrong at once. SIGHUP and
# `kdaemon reload` have a daemon read it again; docs/reload.md says which settings need a restart.
# Sizes are bytes, times milliseconds.
"""

TAIL = """\
# Another account, region or Yandex database, beside the one above: the keys from `service` to
# `ca_file`, and those of [send]. Each upstream has its own credentials, connections, control
# calls and health; one that is down stops no other. An ARN finds its upstream by account and
# region, so one of AWS names both; a path of Yandex by the database in `endpoint_url`.
#
# [upstreams.eu]
# region = "eu-central-1"
# role_arn = "arn:aws:iam::123456789012:role/producer"
# role_external_id = "7f2c"
#
# [upstreams.yandex]
# service = "yandex"
# endpoint_url = "https://yds.serverless.yandexcloud.net/ru-central1/b1g.../etn..."
# iam_token_file = "/run/iam/token"
#
# A stream names its upstream, and what that calls it, if its clients call it by another name:
#
# [streams.orders-eu]
# upstream = "eu"
# upstream_name = "orders"
#
# One stream: any key of [default], `arn`, `socket` and `upstream_name`. The table's name is the
# stream's name or its ARN.
#
# [streams.orders]
# only_writer = true
#
# [streams."name.with.dots"]
# acknowledge = "accepted"
#
# A log, as it is: `tail -F app.log | nc -U /run/kdaemon/app.sock`. All that is written to a
# stream's own socket is raw lines; it speaks nothing else, and answers nothing, so that a client
# need not read. Lines are stored where there is a spool (of a stream with order: if it
# acknowledges so), else accepted. Its permissions are listen.unix_mode.
#
# [streams.app]
# lines = "raw"
# partition_key_field = "user.id"
# socket = "/run/kdaemon/app.sock"
#
# A stream of another account: by its ARN, in either form.
#
# [streams."arn:aws:kinesis:eu-central-1:123456789012:stream/clicks"]
# linger_ms = 20
#
# [streams.payments]
# arn = "arn:aws:kinesis:eu-central-1:123456789012:stream/payments"
"""

WORDS: Mapping[Mark, str] = {
    Mark.LIVE: "live",
    Mark.RESTART: "restart",
    Mark.GROWS: "larger: live; smaller: restart",
    Mark.UNORDERED: "live; with order: restart",
}
"""When a change takes effect, in the tables."""

_CHOICE = re.compile(r'"\w+"(, "\w+")* or "\w+"')
_WHOLE = re.compile(r"a whole number (?:of (\w+) )?from (\d+) to (\d+)")

Rows = Mapping[str, tuple[Key, Any, Mark]]
"""Of one table, by the key: what it is, its default, and its mark."""


def example() -> str:
    """config.example.toml."""
    parts = [HEAD]
    for table, about, rows in _tables():
        if table.endswith(".NAME"):
            continue
        if table:
            parts.append(f"\n{_comment(about)}[{table}]\n")
        parts += [_entry(name, *row) for name, row in rows.items()]
    return "\n".join(parts) + "\n\n" + TAIL


def tables() -> str:
    """Those of docs/configure.md."""
    parts = []
    for table, about, rows in _tables():
        head = f"## `[{table}]`" if table else "## Top of the file"
        lines = [f"| `{name}` | {_row(*row)} |" for name, row in rows.items()]
        told = "| key | default | expected | a change is | meaning |\n|---|---|---|---|---|"
        parts.append("\n\n".join([head, about, "\n".join([told, *lines])]))
    return "\n\n".join(parts) + "\n"


def marks() -> str:
    """The table of docs/reload.md."""
    places = {"top of the file": TOP}
    places |= {f"`[{table}]`": of for table, of in TABLES.items()}
    places |= {"`[upstreams.NAME]`": OF_UPSTREAMS, "`[streams.NAME]`": OF_STREAMS}
    lines = ["| where | a change is | settings |", "|---|---|---|"]
    for place, of in places.items():
        for mark in dict.fromkeys(of.values()):
            keys = ", ".join(f"`{key}`" for key, each in of.items() if each is mark)
            lines.append(f"| {place} | {WORDS[mark]} | {keys} |")
    return "\n".join(lines) + "\n"


def _tables() -> Iterator[tuple[str, str, Rows]]:
    """Each with its name ("": the top of the file), what it is about, and its settings."""
    config, hints = Config(), get_type_hints(Config)
    tops = {name: (key, getattr(config, name), TOP[name]) for name, key in _keys_of("").items()}
    yield "", "Where the default upstream is, and what holds for all.", tops
    for table in (each.name for each in fields(Config) if each.name in TABLES):
        defaults, of = getattr(config, table), TABLES[table]
        rows = {
            name: (key, getattr(defaults, name), of[name]) for name, key in _keys_of(table).items()
        }
        yield table, _about(hints[table]), rows
    upstream = UpstreamConfig()
    own = {name: key for name, key in UPSTREAM_KEYS.items() if (name,) not in KEYS}
    told = "and beside them its own keys from `service` to `ca_file` at the top of the file."
    yield (
        "upstreams.NAME",
        f"{_about(UpstreamConfig)} It has these, {told}",
        {k: (key, getattr(upstream, k), OF_UPSTREAMS[k]) for k, key in own.items()},
    )
    of_one = "One stream. Every key of [default] may stand here, too."
    yield "streams.NAME", of_one, dict(_of_one_stream())


def _of_one_stream() -> Iterator[tuple[str, tuple[Key, Any, Mark]]]:
    """What [streams.NAME] has beside [default], or takes otherwise."""
    for name, mark in OF_STREAMS.items():
        key = STREAM_KEYS[name]
        if name not in TABLES["default"]:
            yield name, (key, "", mark)
        elif mark is not TABLES["default"][name]:
            about = replace(key.about, follows="that of `[default]`")
            yield name, (replace(key, about=about), "", mark)


def _keys_of(table: str) -> dict[str, Key]:
    """Of a table that is there once; "": of the top of the file."""
    return {path[-1]: key for path, key in KEYS.items() if path[:-1] == ((table,) if table else ())}


def _about(kind: type[Any]) -> str:
    """A table's docstring, after its name."""
    text = " ".join((kind.__doc__ or "").split()).partition(": ")[2]
    return f"{text[0].upper()}{text[1:]}"


def _entry(name: str, key: Key, default: Any, _mark: Mark) -> str:
    """Of the example."""
    text = " ".join(part for part in (key.about.meaning, key.about.more) if part)
    words = re.findall(r'"\w+"', key.expected)
    if _CHOICE.fullmatch(key.expected) and not all(word in text for word in words):
        text += f" One of {key.expected}."
    size = _size(name, default)
    return f"{_comment(text)}{name} = {toml_text(default)}{f' # {size}' if size else ''}\n"


def _comment(text: str) -> str:
    """Wrapped, but for lines that begin with a blank."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        is_kept = paragraph.startswith(" ") or not paragraph
        lines += (
            [paragraph]
            if is_kept
            else textwrap.wrap(
                paragraph, COLUMNS - 2, break_long_words=False, break_on_hyphens=False
            )
        )
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _row(key: Key, default: Any, mark: Mark) -> str:
    """Of a table of the documents."""
    about = key.about
    size = _size("bytes", default) if "of bytes" in key.expected else ""
    shown = about.follows or size or f"`{toml_text(default)}`"
    return " | ".join([shown, _expected(key), WORDS[mark], about.meaning])


def _expected(key: Key) -> str:
    """With its numbers as people read them."""
    found = _WHOLE.fullmatch(key.expected)
    if found is None:
        return key.expected
    unit, low, high = found[1], int(found[2]), int(found[3])
    kind = "bytes" if unit == "bytes" else ""
    shown = [_size(kind, each) or f"{each:,}" for each in (low, high)]
    return f"{f'{unit}, ' if unit else ''}{shown[0]} to {shown[1]}"


def _size(name: str, value: Any) -> str:
    """A number of bytes as people read it; "": it is none, or a small one."""
    if "bytes" not in name or not isinstance(value, int) or value < KIB:
        return ""
    for unit, text in ((MIB * MIB, "TiB"), (KIB * MIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if value % unit == 0:
            return f"{value // unit} {text}"
    return ""
