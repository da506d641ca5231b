import subprocess
import sys
import unicodedata

import pytest

from kdaemon.base.text import printable, printable_lines

HARMFUL = {
    "a terminal's escape": "\x1b[2J",
    "an operating system command": "\x1b]0;title\x07",
    "C1": "\x85\x9b",
    "delete": "\x7f",
    "embedding and override": "\u202a\u202b\u202c\u202d\u202e",
    "isolates": "\u2066\u2067\u2068\u2069",
    "marks": "\u200e\u200f\u061c",
    "zero width": "\u200b\u200c\u200d\u2060\ufeff\u00ad",
    "separators": "\u2028\u2029\n\r\t\v\f",
    "lone surrogates": "\ud800\udfff",
    "private use": "\ue000\U000f0000",
    "unassigned": "\u0378\U000e0fff",
    "without a glyph": "\u3164\uffa0\u115f\ufe0f\U000e0100\U000e0041",
    "spaces that are none": "\u00a0\u3000",
}


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL.keys())
def test_what_harms_a_reader_is_shown_as_an_escape(text: str) -> None:
    shown = printable(f"a{text}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape") == f"a{text}b"


def test_text_of_any_language_stays_as_it_is() -> None:
    text = "naïve Straße Ελλάδα русский 日本語 العربية हिन्दी 🙂 a\\b"
    assert printable(text) == text


def test_no_character_of_a_harmful_category_is_left() -> None:
    shown = printable("".join(map(chr, range(sys.maxunicode + 1))))
    categories = {unicodedata.category(character) for character in set(shown)}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert "\n" not in shown


@pytest.mark.parametrize("text", ["x" * 50, "\x1b" * 50, "x" * 9 + "\u202e" * 41])
def test_the_result_is_bounded(text: str) -> None:
    shown = printable(text, 10)
    assert shown.endswith("...")
    assert len(shown) <= 10 + len("...")
    assert printable(text, 5000) == printable(text)


def test_a_stack_keeps_its_line_breaks_and_its_end() -> None:
    assert printable_lines("one\ntwo\x1b\nthree", 100) == "one\ntwo\\x1b\nthree"
    assert printable_lines("first\nthe cause", 9) == "the cause"


def test_no_file_is_opened_to_show_a_text() -> None:
    """It may say that no file can be opened."""
    script = """
import resource
from kdaemon.base.text import printable
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
print(printable("a\\n\\x1b"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "a\\n\\x1b\n", done.stderr
