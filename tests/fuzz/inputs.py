"""Strategies for the replies of a hostile node: valid replies of wrong types, mutated replies, and bytes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from redlock._transport import codec
from tests.fuzz.memory import INFO, resp

_NUMBERS = st.one_of(
    st.integers(-2, 6), st.sampled_from([2**31, 2**52, 2**53, 2**63 - 1, -(2**63), 10**30]), st.integers()
)
_TEXTS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"0" * 40, b"x" * 1_100, b"\x1b[31m", b"a\r\n*99\r\nb", b"\xff\xfe", "\u202e".encode(), b"1764"]),
)
HELD_UP = "ERR password='" + "\\" * 80
"""A text over which a careless search for passwords would take years."""
_ERRORS = st.sampled_from(
    ["NOSCRIPT x", "NOAUTH x", "WRONGPASS x", "NOPERM x", "LOADING x", "BUSY x", "MISCONF x", "ERR x", "", HELD_UP]
)


def _aggregates(inner: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    few = st.lists(inner, max_size=6)
    return st.one_of(
        few.map(lambda items: b"*%d\r\n" % len(items) + b"".join(items)),
        few.map(lambda items: b"~%d\r\n" % len(items) + b"".join(items)),
        few.map(lambda items: b">%d\r\n" % len(items) + b"".join(items)),
        few.map(lambda items: b"%%%d\r\n" % (len(items) // 2) + b"".join(items[: len(items) // 2 * 2])),
    )


_SCALARS = st.one_of(
    _NUMBERS.map(lambda number: b":%d\r\n" % number),
    _NUMBERS.map(lambda number: b"(%d\r\n" % number),
    _TEXTS.map(lambda text: b"$%d\r\n%s\r\n" % (len(text), text)),
    _ERRORS.map(lambda text: b"-" + text.encode() + b"\r\n"),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n", b",nan\r\n", b",1e400\r\n", b"+OK\r\n"]),
)
RESP = st.recursive(_SCALARS, _aggregates, max_leaves=12)

_SHAPES = st.one_of(
    st.tuples(st.sampled_from([1, 0, 2, 3]), _NUMBERS, _NUMBERS).map(list),
    st.tuples(st.just(0), _NUMBERS, _NUMBERS, _TEXTS, _NUMBERS).map(list),
    st.tuples(st.just(3), _NUMBERS, _TEXTS).map(list),
    st.tuples(st.just(2), _NUMBERS, _NUMBERS).map(list),
    st.lists(_TEXTS, max_size=3),
    st.tuples(_TEXTS, st.lists(_TEXTS, max_size=5)).map(list),
    st.lists(st.lists(st.one_of(_NUMBERS, _TEXTS), max_size=6), max_size=4),
).map(resp)

_HONEST = st.sampled_from(
    [
        resp([1, 1_764_000_000_000, 1_764_000_000_000_000]),
        resp([0, 1_764_000_000_000, 5, "f" * 32 + ":task@host", 4_000]),
        resp([2, 1_764_000_000_000, 9_000]),
        resp([3, 1_764_000_000_000, "nodes=3"]),
        resp(INFO.format(run_id="0" * 40)),
        resp(["0" * 40, "0", "nodes=5 max_ttl=10s prefix=''"]),
        resp(["1764000000", "999999"]),
        resp(["0", ["a", "b", "c"]]),
        resp(["BLPOP", "HMGET"]),
        resp([[1, 0, 5, 0], [0, 0, 5, "holder", 100, 1]]),
        resp(["\x01redlock:wake:x", "1"]),
        b"".join(resp(script.sha) for script in codec.SCRIPTS.values()),
        b"+OK\r\n",
    ]
)
_HEADERS = st.sampled_from(
    [
        b"*4294967295\r\n",
        b"*500000000\r\n",
        b"$1\r\naXX*500000000\r\n",
        b"*99\r\n",
        b"$999999999999\r\n",
        b"$70000\r\n" + b"x" * 70_000 + b"\r\n",
        b"%1\r\n*0\r\n+x\r\n",
        b"*1\r\n" * 12,
        b"*1\r\n" * 1_000 + b":1\r\n",
        b"*9\r\n" * 9,
    ]
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(_HONEST))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.integers(0, 4))
        if how == 0:
            del data[at:]
        elif how == 1 and data:
            data[at] = draw(st.integers(0, 255))
        elif how == 2:
            data[at:at] = draw(st.binary(max_size=5))
        elif how == 3:
            del data[at : at + draw(st.integers(1, 5))]
        else:
            data[at:at] = data[at:]
    return bytes(data)


REPLIES = st.lists(
    st.one_of(_HONEST, _mutated(), _SHAPES, RESP, _HEADERS, st.binary(max_size=40)), min_size=1, max_size=16
)
"""The bytes of a node, one item after each command; after the last item the list begins again."""
