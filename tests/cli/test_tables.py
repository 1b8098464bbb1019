"""Rows -> text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.cli.tables import age, clean, columns, size, table


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    rows = [("iris", "1.5 KiB", ""), ("a-long-name", "12 B", "why")]
    assert table(("MODEL", "SIZE", "WHY"), rows, right=(1,)).split("\n") == [
        "MODEL           SIZE  WHY",
        "iris         1.5 KiB",
        "a-long-name     12 B  why",
    ]


def test_wide_letters_take_two_columns_and_combining_marks_none() -> None:
    assert [columns(text) for text in ("iris", "模型", "e\u0301", "🙂")] == [4, 4, 1, 2]
    lines = table(("MODEL", "X"), [("模型", "1"), ("abcd", "2")]).split("\n")
    assert lines[1:] == ["模型   1", "abcd   2"]


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [("\x1b[2Jgone", "\\x1b[2Jgone"), ("a\r\nb", "a\\r\\nb"), ("\u202eabc", "\\u202eabc")],
)
def test_what_a_terminal_would_obey_is_written_out(hostile: str, shown: str) -> None:
    assert clean(hostile) == shown
    assert table(("M",), [(hostile,)]) == f"M\n{shown}"


@given(st.text(), st.text())
def test_a_table_has_one_line_a_row_and_nothing_that_is_not_printable(one: str, two: str) -> None:
    lines = table(("A", "B"), [(one, two), (two, one)]).split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (16 << 20, "16.0 MiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes(size_bytes: int, shown: str) -> None:
    assert size(size_bytes) == shown


@pytest.mark.parametrize(
    ("ago_s", "shown"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (90_000, "1 d ago")],
)
def test_ages(ago_s: int, shown: str) -> None:
    assert age(5_000_000_000, 5_000_000_000 + ago_s * 1000) == shown


def test_ages_at_the_edges() -> None:
    assert age(0, 1) == "never"
    assert age(2_000, 1_000) == "0 s ago"  # the daemon's clock is ahead of ours
