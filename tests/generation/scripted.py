"""What the tests of guessing share: a model with a clock of its own, and slow answers."""

import itertools

import numpy as np

from generation.toy_model import ToyModel
from litseq.generation import Engine, GenerationOptions, Prompt, Request, run
from litseq.generation.speculation import Costs

END = 2


class Scripted(ToyModel):
    """A model that says what a function of its ids and its source says, and takes time by a clock of its own."""

    def __init__(self, follow, step=10.0, slope=0.05, **options):
        super().__init__(**options)
        self.follow, self.step, self.slope = follow, step, slope
        self.now = 0.0

    def clock(self):
        return self.now

    def read(self, first, ids, top_k=0, *, every=False):
        longest = max(map(len, ids))
        self.now += self.step * (1 + self.slope * len(ids) * (longest - 1))
        return super().read(first, ids, top_k, every=every)

    def logits(self, ids, source=()):
        logits = np.zeros(self.vocab_size, np.float32)
        logits[self.follow(list(ids), list(source))] = 1
        return logits


def eager():
    """Costs by a clock to which every call takes the same time, so that guessing always pays."""
    return Costs(itertools.count().__next__)


def prompts_of(rng, count, with_source=False):
    sources = [rng.integers(3, 11, rng.integers(1, 12)).tolist() if with_source else None for _ in range(count)]
    return [Prompt(rng.integers(3, 11, rng.integers(1, 9)).tolist(), source) for source in sources]


def calls(model):
    return sum(kind != "admit" for kind, _ in model.calls)


def one(model, prompt, drafters, options=None, costs=None, **request):
    engine = Engine(model, (END,), drafters=drafters, costs=costs)
    engine.submit(Request(prompt, options or GenerationOptions(max_new_tokens=40), **request))
    (result,) = run(engine)
    assert model.rows == 0
    return result


def slow_until(model, prompt, most, end):
    ids = list(prompt.ids)
    while len(ids) - len(prompt.ids) < most:
        token = int(model.logits(ids, prompt.source or ()).argmax())
        if token in end:
            break
        ids.append(token)
    return ids[len(prompt.ids) :]
