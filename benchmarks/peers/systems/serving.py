"""What litseq does beyond one batch: requests at any time, chats with reuse."""

import random
import time
from contextlib import ExitStack

from litseq.generation import GenerationOptions, Prompt, Request
from litseq.runtime import Generator


def serve(
    system: object, *, requests: int, rate: float, rows: int, fixed: bool, seed: int, vocab: int
) -> dict[str, object]:
    """Serve requests that arrive as a Poisson process, prompts of 8 to 256 tokens, outputs of 8 to 192.

    Args:
        system: The litseq system.
        requests: How many.
        rate: Arrivals a second.
        rows: Rows at most.
        fixed: Take what waits, up to `rows`, and nothing more until all of it is done.
        seed: Of lengths and arrivals.
        vocab: Prompts are random ids below it.
    """
    chance = random.Random(seed)
    arrivals, moment = [], 0.0
    for _ in range(requests):
        moment += chance.expovariate(rate)
        length, count = (int(8 * 2 ** chance.uniform(0, top)) for top in (5.0, 4.6))
        prompt = [chance.randrange(3, vocab) for _ in range(length)]
        arrivals.append((moment, Request(Prompt(prompt), GenerationOptions(max_new_tokens=count), len(arrivals))))
    tokens, latencies, started = 0, [], {}
    waiting = list(reversed(arrivals))
    with ExitStack() as stack:
        engine = stack.enter_context(system.generator._engine(rows))
        begin = time.perf_counter()
        while waiting or not engine.idle:
            now = time.perf_counter() - begin
            open_places = rows if engine.idle else 0
            while waiting and waiting[-1][0] <= now and (not fixed or open_places):
                arrival, request = waiting.pop()
                started[engine.submit(request)] = arrival
                open_places -= 1
            if engine.idle:
                time.sleep(max(0.0, min(0.002, waiting[-1][0] - now)))
                continue
            for result in engine.step():
                tokens += len(result.tokens)
                latencies.append(time.perf_counter() - begin - started[result.ticket])
        seconds = time.perf_counter() - begin
    latencies.sort()
    return {
        "seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds,
        "p50": latencies[len(latencies) // 2], "p95": latencies[int(0.95 * (len(latencies) - 1))],
    }  # fmt: skip


def chat(system: object, *, turns: int, question: int, answer: int, reuse: bool, seed: int, vocab: int) -> dict:
    """A conversation of token ids that grows by a question and an answer a turn; seconds to the first token a turn."""
    options = {"reuse_bytes": 512 * 2**20} if reuse else {"reuse_bytes": 0}
    generator = Generator.from_bundle(system.path, threads=system.threads, verify=False, **options)
    generator._end_tokens = ()
    chance = random.Random(seed)
    conversation: list[int] = []
    first, tokens = [], []
    for _ in range(turns):
        conversation += [chance.randrange(3, vocab) for _ in range(question)]
        begin = time.perf_counter()
        generator.generate([conversation], max_new_tokens=1)
        first.append(time.perf_counter() - begin)
        done = generator.generate([conversation], max_new_tokens=answer)
        conversation += done[0].token_ids
        tokens += done[0].token_ids
    return {"first_token_seconds": first, "prompt_tokens": len(conversation), "tokens": tokens}
