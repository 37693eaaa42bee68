"""Does memory stay where it is? Calls of all kinds on one generator, with the resident memory after every tenth of them.

    python benchmarks/soak.py BUNDLE [--calls 10000] [--threads 1] [--allow 8]

Fails when the second half of the calls grew it by more than --allow MiB: what caches keep is there by then.
"""

import argparse
import gc
import random
import sys
import threading
import time

from load import memory

from litseq.runtime import Generator


def call(generator: Generator, chance: random.Random) -> None:
    """One call with prompts of any length: a batch, beams, samples, a stream that is left early, or scores."""
    prompts = [_prompt(generator, chance) for _ in range(chance.choice((1, 1, 2, 5, 9)))]
    kind, tokens = chance.randrange(5), chance.randrange(1, 24)
    if kind == 0:
        generator.generate(prompts, max_new_tokens=tokens)
    elif kind == 1:
        generator.generate(prompts, max_new_tokens=tokens, num_beams=3)
    elif kind == 2:
        generator.generate(prompts, max_new_tokens=tokens, temperature=0.8, top_k=20, logprobs=True)
    elif kind == 3:
        stream = generator.stream(prompts[0], max_new_tokens=tokens)
        next(stream, None)
        stream.close()
    else:
        generator.score(prompts, [_prompt(generator, chance) for _ in prompts])


def _prompt(generator: Generator, chance: random.Random) -> list[int]:
    most = min(40, generator.manifest.model.max_seq_len // 2)
    return [chance.randrange(3, generator.tokenizer.vocab_size) for _ in range(chance.randrange(1, most))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--allow", type=float, default=8.0, help="MiB that the second half may add")
    args = parser.parse_args()
    generator = Generator.from_bundle(args.bundle, threads=args.threads, batch_size=8)
    chance, begin, sizes = random.Random(0), time.perf_counter(), []
    for i in range(1, args.calls + 1):
        call(generator, chance)
        if i % max(1, args.calls // 10) == 0:
            gc.collect()
            sizes.append(memory().resident)
            seconds = time.perf_counter() - begin
            print(f"{i} calls, {seconds:.0f} s: {sizes[-1]:.1f} MiB, {threading.active_count()} threads", flush=True)
    grown = sizes[-1] - sizes[len(sizes) // 2 - 1]
    print(f"the second half added {grown:.1f} MiB")
    if grown > args.allow:
        sys.exit(1)


if __name__ == "__main__":
    main()
