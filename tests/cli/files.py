"""What the tests of `litseq generate` over files share: a bundle, prompts, and a look at a directory."""

from runtime.fixtures import fixture_path

BUNDLE = str(fixture_path("tiny-encoder-decoder"))
FAST = ("--threads", "1", "--max-new-tokens", "5", "--batch-size", "8")
WORDS = ["the fox", "größe", "", "a dog", "one two three", "你好", "x"]
PROMPTS = [f"{WORDS[i % 7]} {i}" if i % 7 != 2 else "" for i in range(90)]


def names(directory):
    return sorted(path.name for path in directory.iterdir())
