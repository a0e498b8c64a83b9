"""Text files against io.TextIOWrapper: contents, line ends, positions, in many encodings."""

import codecs
import gc
import os
import sys
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flexsc_loop

TEXTS = st.text(st.sampled_from("ab\r\n\u00e9\u20ac\U0001f600\x1c\u2028"), max_size=60) | st.text(
    st.sampled_from("ab\n"), max_size=60
).map(lambda text: text * 500)
ENCODINGS = st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-8-sig", "utf-32", "utf-7", "latin-1", "shift_jis"])
NEWLINES = st.sampled_from([None, "", "\n", "\r", "\r\n"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["read", "readline", "tell", "back", "readlines", "end"]), st.integers(-1, 40)),
    max_size=30,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


async def compare(path, options, steps):
    """The same steps on both; positions are compared by what is read after a jump to them."""
    theirs = open(path, **options)
    ours = await flexsc_loop.open(path, **options)
    marks = [(0, 0)]
    with theirs:
        for what, number in steps:
            if what in ("read", "readline"):
                assert await getattr(ours, what)(number) == getattr(theirs, what)(number)
            elif what == "readlines":
                assert await ours.readlines() == theirs.readlines()
            elif what == "tell":
                marks.append((await ours.tell(), theirs.tell()))
            elif what == "back":
                mine, other = marks[number % len(marks)]
                assert await ours.seek(mine) == mine
                theirs.seek(other)
            else:
                assert await ours.seek(0, os.SEEK_END) == theirs.seek(0, os.SEEK_END)
        mine, other = await ours.tell(), theirs.tell()
        rest = theirs.read()
        assert await ours.read() == rest
        await ours.seek(mine)
        assert await ours.read() == rest
        # Either understands the other's positions.
        await ours.seek(other)
        assert await ours.read() == rest
        theirs.seek(mine)
        assert theirs.read() == rest
    await ours.close()


def test_reading_and_positions(new_loop, path):
    loop = new_loop()

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(TEXTS, ENCODINGS, NEWLINES, STEPS)
    def check(text, encoding, newline, steps):
        path.write_bytes(text.encode(encoding, "replace"))
        options = {"mode": "r", "encoding": encoding, "errors": "replace", "newline": newline}
        loop.run_until_complete(compare(path, options, steps))

    check()


async def test_newlines_that_were_read(loop, path):
    path.write_bytes(b"one\ntwo\r\nthree\rfour")
    for newline in (None, "", "\n"):
        with open(path, newline=newline) as theirs:
            async with flexsc_loop.open(path, newline=newline) as ours:
                for _ in range(5):
                    assert await ours.readline() == theirs.readline()
                    assert ours.newlines == theirs.newlines


@pytest.mark.parametrize(("mode", "options", "most"), [("rb", {}, 260), ("r", {"encoding": "utf-8"}, 420)])
async def test_a_file_at_rest_is_small(loop, tmp_path, mode, options, most):
    """Bytes besides its buffers and its name: what Python's allocator has handed out for 200 of them."""
    path = tmp_path / "file"
    path.write_text("line\n")
    first = await flexsc_loop.open(path, mode, **options)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        opened = [await flexsc_loop.open(path, mode, **options) for _ in range(200)]
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before - sys.getsizeof(opened)) / len(opened)
    finally:
        tracemalloc.stop()
    for file in [first, *opened]:
        await file.close()
    assert each <= most


async def test_an_encoding_that_has_become_another(loop, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"text")
    names = {"upper": str.upper, "lower": str.lower}
    for change in ("upper", "lower"):

        def search(name, change=change):
            if name != "changing":
                return None
            plain = codecs.lookup("ascii")

            class Decoder(codecs.IncrementalDecoder):
                def decode(self, data, final=False):
                    return names[change](bytes(data).decode())

            return codecs.CodecInfo(plain.encode, plain.decode, incrementaldecoder=Decoder, name="changing")

        codecs.register(search)
        try:
            async with flexsc_loop.open(path, encoding="changing") as file:
                assert await file.read() == names[change]("text")
        finally:
            codecs.unregister(search)
    with pytest.raises(LookupError):
        await flexsc_loop.open(path, encoding="changing")
