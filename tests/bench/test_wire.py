import pytest

from litseq.bench.wire import fields, integers, message


def read(data):
    return [(number, value if isinstance(value, int) else bytes(value)) for number, value in fields(memoryview(data))]


def test_what_is_written_is_read_back():
    parts = [(1, 0), (2, 127), (3, 128), (15, 2**40 + 5), (16, b""), (200, b"x" * 300), (4, "größe")]
    assert read(message(*parts)) == [(n, v.encode() if isinstance(v, str) else v) for n, v in parts]


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x80", b"\x0b", b"\x0d\x01\x02", b"\xff" * 12])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError, match=r"cut off|unknown kind"):
        read(data)


def test_against_onnx():
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(dims=[3, 300], data_type=1, name="w", raw_data=b"abc")
    found = {}
    for number, value in fields(memoryview(tensor.SerializeToString())):
        found.setdefault(number, []).append(value)
    assert [n for value in found[1] for n in integers(value)] == [3, 300]
    assert (found[2], bytes(found[8][0]), bytes(found[9][0])) == ([1], b"w", b"abc")
