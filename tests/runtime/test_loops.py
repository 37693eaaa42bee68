"""Several loops at one queue: who gets how much, and failures."""

import threading

import pytest

from litseq.runtime import Generator
from litseq.runtime.loops import Loops
from runtime.fixtures import fixture_path


class Together:
    """A loop whose step ends when every loop has come to one."""

    def __init__(self, meeting):
        self.meeting = meeting
        self.places = []
        self.taken = []

    @property
    def jobs(self):
        return len(self.places)

    def submit(self, prompts):
        self.places += [place for place, _ in prompts]
        self.taken.append(len(prompts))

    def collect(self):
        self.meeting.wait(timeout=20)
        done, self.places = [(place, []) for place in self.places], []
        return done

    def stop(self):
        pass


def run(loops, most_jobs, count):
    work = Loops(loops, most_jobs)
    try:
        work.submit([(place, None) for place in range(count)])
        found = []
        while len(found) < count:
            found += work.collect()
    finally:
        work.stop()
    return found


@pytest.mark.parametrize(("count", "shares"), [(8, [4, 4]), (9, [4, 5]), (2, [1, 1])])
def test_few_prompts_are_shared_out_evenly(count, shares):
    meeting = threading.Barrier(2)
    loops = [Together(meeting), Together(meeting)]
    found = run(loops, 20, count)
    assert sorted(place for place, _ in found) == list(range(count))
    assert sorted(sum(loop.taken) for loop in loops) == shares


def test_of_many_prompts_none_takes_more_than_it_has_room_for():
    meeting = threading.Barrier(2)
    loops = [Together(meeting), Together(meeting)]
    run(loops, 3, 12)
    assert max(number for loop in loops for number in loop.taken) == 3


def test_what_a_loop_dies_of_reaches_who_waits():
    class Broken(Together):
        def collect(self):
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        run([Broken(None), Broken(None)], 4, 4)


@pytest.mark.parametrize(
    ("prompts", "options", "engines"),
    [(8, {"batch_size": 4}, 2), (8, {"batch_size": 16, "num_beams": 4}, 2), (5, {"batch_size": 4}, 2), (1, {}, 1)],
)
def test_a_batch_split_in_two_is_done_by_two(monkeypatch, prompts, options, engines):
    generator = Generator.from_bundle(fixture_path("tiny-encoder-decoder"), threads=1)
    made = []
    new = generator._engine
    monkeypatch.setattr(generator, "_engine", lambda rows, **bounds: made.append(rows) or new(rows, **bounds))
    generator.generate([[5, 6, 7]] * prompts, workers=2, max_new_tokens=3, **options)
    assert len(made) == engines
