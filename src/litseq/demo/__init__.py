"""The main job, start to end, on data made on the spot: train, export, verify, generate, compare.

It uses litseq as its user would, through the public API only. This file imports nothing: the processes that spell
numbers import `litseq.demo.number_words`, and should not load torch for it.
"""
