import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.errors import BackendError, RecordTooLong
from scalesocket.wire.splitter import Splitter
from tests.wire.cuts import cut, every_cut

KiB = 1024
MiB = 1024 * KiB


def split(chunks: list[bytes], delimiters: str = "\n", max_record: int = 1 * MiB) -> list[bytes]:
    splitter = Splitter(delimiters, max_record=max_record)
    return [record for chunk in chunks for record in splitter.feed(chunk)] + splitter.finish()


def split_until_too_long(chunks: list[bytes], max_record: int, delimiters: str = "\n") -> tuple[list[bytes], bool]:
    """Return the records, and whether one was too long."""
    splitter = Splitter(delimiters, max_record=max_record)
    records: list[bytes] = []
    try:
        for chunk in chunks:
            records += splitter.feed(chunk)
        records += splitter.finish()
    except RecordTooLong as error:
        return records + list(error.records), True
    return records, False


@pytest.mark.parametrize(
    ("delimiters", "stream", "records"),
    [
        ("\n", b"one\ntwo\n", [b"one", b"two"]),
        ("\n", b"one\r\ntwo\r\n", [b"one", b"two"]),
        ("\n", b"one\rtwo\n\r\n\r", [b"one\rtwo", b"", b"\r"]),
        ("\n", b"one\n\n\ntwo", [b"one", b"", b"", b"two"]),
        ("\n", b"\n", [b""]),
        ("\n", b"", []),
        ("\n\r", b"one\r\ntwo\rthree\n\rfour\r\r\n", [b"one", b"two", b"three", b"", b"four", b""]),
        ("bc", b"foobar\n", [b"foo", b"ar\n"]),
        ("\0", b"foo\0bar", [b"foo", b"bar"]),
        ("\0", b"a\r\0b\n\0", [b"a\r", b"b\n"]),
        ("\n\0", b"a\r\nb\0c\r\0d", [b"a", b"b", b"c\r", b"d"]),
        ("é", "caféolé!".encode(), [b"caf", b"ol", b"!"]),
        ("\n😀", "a\r\nb😀😀c".encode(), [b"a", b"b", b"", b"c"]),
        (".", b"a.b\n.", [b"a", b"b\n"]),
    ],
)
def test_a_stream_is_split_the_same_at_every_cut(delimiters: str, stream: bytes, records: list[bytes]) -> None:
    for chunks in every_cut(stream):
        assert split(chunks, delimiters) == records


@given(
    stream=st.lists(st.sampled_from([b"\n", b"\r", b"a", b"b", b"\0", "é".encode(), b"\xc3"])).map(b"".join),
    places=st.lists(st.integers(0)),
)
@pytest.mark.parametrize("delimiters", ["\n", "\0", "\nb", "é\n", "ab"])
def test_records_do_not_depend_on_the_chunks(delimiters: str, stream: bytes, places: list[int]) -> None:
    pattern = "|".join(r"\r?\n" if end == "\n" else re.escape(end) for end in delimiters).encode()
    expected = re.split(pattern, stream)
    if expected[-1] == b"":
        expected.pop()

    assert split(cut(stream, places), delimiters) == expected


@pytest.mark.parametrize("delimiters", ["\n", "\n\0", "\0", "é"])
def test_a_record_longer_than_max_record_is_an_error_after_the_records_before_it(delimiters: str) -> None:
    end = delimiters[-1].encode()
    stream = b"one" + end + b"x" * 8 + end

    for chunks in every_cut(stream + b"y" * 8):
        assert split_until_too_long(chunks, 8, delimiters) == ([b"one", b"x" * 8, b"y" * 8], False)
    for chunks in every_cut(stream + b"y" * 9 + end + b"three" + end):
        assert split_until_too_long(chunks, 8, delimiters) == ([b"one", b"x" * 8], True)
    for chunks in every_cut(stream + b"y" * 9):
        assert split_until_too_long(chunks, 8, delimiters) == ([b"one", b"x" * 8], True)


def test_a_carriage_return_before_the_newline_does_not_count_for_max_record() -> None:
    for chunks in every_cut(b"x" * 8 + b"\r\n"):
        assert split_until_too_long(chunks, 8) == ([b"x" * 8], False)


def test_a_record_that_is_too_long_is_an_error_before_its_end() -> None:
    splitter = Splitter(max_record=8)

    with pytest.raises(BackendError, match="max_record"):
        splitter.feed(b"x" * 10)


def test_a_long_record_in_many_small_chunks_is_read_in_linear_time() -> None:
    splitter = Splitter(max_record=16 * MiB)
    chunk = b"x" * 64

    begin = time.perf_counter()
    for _ in range(8 * MiB // len(chunk)):
        splitter.feed(chunk)
    records = splitter.feed(b"\n")

    assert [len(record) for record in records] == [8 * MiB]
    assert time.perf_counter() - begin < 10  # about 0.1 s; copying it for each chunk would take minutes


def test_a_splitter_needs_a_delimiter() -> None:
    with pytest.raises(ValueError, match="needs a delimiter"):
        Splitter("", max_record=1)
