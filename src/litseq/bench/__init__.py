"""Speed of a bundle on this machine, beside what the machine could do at best."""

from litseq.bench.limits import Limits, measure_limits, read_bandwidth
from litseq.bench.speed import BenchResult, Point, bench

__all__ = ["BenchResult", "Limits", "Point", "bench", "measure_limits", "read_bandwidth"]
