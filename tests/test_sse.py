"""Server-sent events out of bytes: any line end, cut anywhere, with noise between."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.narrators.sse import Events

STREAM = (
    'data: {"text": "灯砸中了它🔥"}\n\n: keep-alive\n\ndata:two\ndata: lines\n\nevent: x\nid: 7\n\ndata: [DONE]\n\n'
)
EXPECTED = ['{"text": "灯砸中了它🔥"}', "two\nlines", "[DONE]"]


def read(*pieces: bytes) -> list[str]:
    events = Events()
    found = [data for piece in pieces for data in events.feed(piece)]
    return [*found, *events.end()]


@given(st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200), max_size=12))
def test_a_stream_says_the_same_however_it_is_cut(line_end: str, cuts: list[int]) -> None:
    raw = STREAM.replace("\n", line_end).encode()
    at = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]

    assert read(*(raw[begin:end] for begin, end in pairwise(at))) == EXPECTED


def test_a_byte_at_a_time_is_enough() -> None:
    assert read(*(bytes([byte]) for byte in STREAM.replace("\n", "\r\n").encode())) == EXPECTED


@pytest.mark.parametrize("tail", ["data: last", "data: last\n", "data: last\r"])
def test_a_last_event_that_nothing_closes_counts(tail: str) -> None:
    assert read(STREAM.encode(), tail.encode()) == [*EXPECTED, "last"]


def test_keep_alive_noise_is_no_event() -> None:
    assert read(b"\n\n\r\n: ping\n\n:\n\n\n") == []


def test_an_error_in_a_field_of_its_own_is_heard() -> None:
    assert read(b'error: {"message": "busy"}\n\n') == ['{"message": "busy"}']


def test_bytes_that_are_no_text_break_nothing() -> None:
    assert read(b"data: \xff\xfe\n\n") == ["\ufffd\ufffd"]
