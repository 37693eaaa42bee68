import pytest

from litseq.runtime.processor import Processor, parse_cpuinfo, this_processor

ZEN_3 = "processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core Processor\nflags\t\t: fpu sse2 avx fma avx2\n\n"
ZEN_4 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu fma avx2 avx512f avx512bw avx512_vnni avx512_bf16\n"
ALDER_LAKE = "model name\t: 12th Gen Intel(R) Core(TM) i7-12700\nflags\t\t: fpu fma avx2 avx_vnni\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd40\n"


def test_name_and_features_are_linux_own():
    assert parse_cpuinfo(ZEN_3 * 2, "x86_64").name == "AMD EPYC 7763 64-Core Processor"
    assert parse_cpuinfo(ARM, "aarch64") == Processor("aarch64", frozenset({"fp", "asimd", "asimddp", "i8mm"}))
    assert parse_cpuinfo("", "x86_64") == Processor("x86_64")


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        (ZEN_3, False),
        (ZEN_4, True),
        (ALDER_LAKE, True),
        (ALDER_LAKE.replace("avx2", "avx2 avx512f"), False),
        ("", False),
    ],
)
def test_what_adds_8_bit_products_exactly(text, exact):
    assert parse_cpuinfo(text, "x86_64").has_vnni is exact


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr("litseq.runtime.processor._CPUINFO", tmp_path / "missing")
    this_processor.cache_clear()
    try:
        assert this_processor().features == frozenset()
        assert this_processor().name
    finally:
        this_processor.cache_clear()
