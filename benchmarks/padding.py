"""How much of the batches is padding, and how full packed blocks are, on real corpora.

    python benchmarks/padding.py [--data ../shared/data] [--vocab-size 8000]

Counts positions, so it needs no quiet machine: it is the same everywhere.
"""

import argparse
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from litseq.data import ConversationDataModule, PairDataModule, SequenceDataModule, TextDataModule
from litseq.data.samplers import padding_share

# Lightning advises loader workers; only the batches count here.
warnings.filterwarnings("ignore", message=".*does not have many workers")
BUDGETS = (2048, 4096, 8192, 16384)


def shares(data: SequenceDataModule, budget: int) -> tuple[float, float]:
    """Padding by the plan of an epoch, and by the tensors of its first 100 batches."""
    data.hparams["max_tokens"] = budget
    data.setup("fit")
    loader = data.train_dataloader()
    planned = padding_share(loader.batch_sampler, loader.dataset.lengths)
    real = positions = 0
    for batch, _ in zip(loader, range(100), strict=False):
        ids = [batch["attention_mask"]]
        if "decoder_input_ids" in batch:  # each target has one input for each label
            ids.append(batch["labels"] != -100)
        real += sum(int(mask.sum()) for mask in ids)
        positions += sum(mask.numel() for mask in ids)
    return planned, 1 - real / positions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--vocab-size", type=int, default=8000)
    args = parser.parse_args()
    pairs = {
        "Tatoeba en-de": str(args.data / "tatoeba.eng-deu.train.tsv.gz"),
        "Multi30k en-de": [str(args.data / f"multi30k.train.{language}.gz") for language in ("en", "de")],
    }
    print("| corpus | batches for | " + " | ".join(f"{budget:,} tokens" for budget in BUDGETS) + " |")
    print("|---|---|" + "---:|" * len(BUDGETS))
    for name, files in pairs.items():
        for architecture in ("encoder-decoder", "decoder-only"):
            data = PairDataModule(train=files, vocab_size=args.vocab_size, architecture=architecture)
            cells = []
            for budget in BUDGETS:
                planned, seen = shares(data, budget)
                data._dataset_keys.clear()
                cells.append(f"{planned:.1%}")
                assert abs(planned - seen) < 0.02, (planned, seen)
            print(f"| {name} | {architecture} | " + " | ".join(cells) + " |", flush=True)
    print("\n| corpus | block | positions used |\n|---|---:|---:|")
    for block in (128, 256, 512):
        file = str(args.data / "stories-pd.train.txt.gz")
        blocks = TextDataModule(train=file, block_size=block, vocab_size=args.vocab_size, max_tokens=4096)
        blocks.setup("fit")
        dataset = blocks.train_dataloader().dataset
        print(f"| stories | {block} | {dataset.tokens / int(dataset.lengths.sum()):.2%} |", flush=True)
    print("\n| corpus | longest conversation | row | positions used |\n|---|---:|---:|---:|")
    file = str(args.data / "sgd.train.jsonl.gz")
    tokenizer = ConversationDataModule(train=file, vocab_size=args.vocab_size).tokenizer
    for longest, row in ((512, 512), (512, 1024), (1024, 1024)):
        talks = ConversationDataModule(train=file, packing=True, packed_length=row, max_tokens=4096)
        talks._tokenizer = tokenizer
        talks.trainer = model_of(longest)
        talks.setup("fit")
        dataset = talks.train_dataloader().dataset
        print(f"| SGD | {longest} | {row} | {dataset.tokens / int(dataset.lengths.sum()):.2%} |", flush=True)


def model_of(max_seq_len: int) -> Any:
    """What the data module reads of a trainer and its model."""
    module = SimpleNamespace(architecture="decoder-only", hparams=SimpleNamespace(max_seq_len=max_seq_len))
    return SimpleNamespace(lightning_module=module, world_size=1, global_rank=0)


if __name__ == "__main__":
    main()
