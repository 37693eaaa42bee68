"""The experiment and its report: several architectures, objectives or sizes on one set of data, compared fairly.

`litseq compare` runs it, and `litseq.compare.run.run_comparison` from Python. Every training is a process of its own, and
the processes that only measure speed load no torch: this file imports nothing.
"""
