"""Training throughput beside a plain PyTorch loop with torch.nn.Transformer and beside the Hugging Face Trainer.

    python benchmarks/training.py [--cases pairs text] [--rounds 5] [--steps 20] [--threads 2] [--out docs]

Models of one size (width 256, 3 + 3 or 6 layers, 4 heads, inner width 1024, vocabulary 8000), fp32, AdamW, gradients
clipped, dropout 0.1. What counts are useful tokens a second: source, target and text, no padding.

- `litseq`: our module under Lightning's Trainer, with our batches (buckets, packing).
- `plain`: the loop one writes, with torch.nn.Transformer (a causal torch.nn.TransformerEncoder for text), over the very
  same batches.
- `hf`: the Hugging Face Trainer with its own way of batching: sentences grouped by length and padded, as many a batch as
  give the same number of tokens; text joined and cut into blocks. MarianMTModel, and GPT2LMHeadModel.

Each system lives in a process of its own; they take turns, so that what else the machine does hits all of them. The
first steps are not timed. Reported are medians over the rounds.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, INNER, VOCAB, DROPOUT, BLOCK = 256, 4, 1024, 8000, 0.1, 256
SAME = {"norm": "layer", "activation": "relu", "bias": True, "position": "sinusoidal", "scale_embeddings": True}
"""Our modules in the flavour of torch.nn.Transformer and the peers; without it they have their own defaults."""
SHAPE = {"vocab_size": VOCAB, "embed_dim": WIDTH, "num_heads": HEADS, "dropout": DROPOUT, "learning_rate": 1e-3}
WARM_UP = 5


class Gate:
    """Lets a training loop run `steps` steps at a time and reports how long they took."""

    def __init__(self, pipe: Connection, steps: int) -> None:
        self.pipe, self.steps = pipe, steps
        self.left, self.tokens, self.begin = WARM_UP, 0, 0.0
        self.warm = False

    def __call__(self, tokens: int) -> bool:
        """Before every step, with its useful tokens; False ends the training."""
        if self.left == 0:
            self.pipe.send((time.perf_counter() - self.begin, self.tokens) if self.warm else "ready")
            self.warm = True
            if self.pipe.recv() == "stop":
                return False
            self.left, self.tokens, self.begin = self.steps, 0, time.perf_counter()
        self.left -= 1
        self.tokens += tokens
        return True


def useful(batch: dict[str, Tensor]) -> int:
    """Tokens that are no padding, of both sides."""
    if "decoder_input_ids" in batch:
        return int(batch["attention_mask"].sum() + (batch["labels"] != -100).sum())
    return int(batch["attention_mask"].sum())


def data_of(case: str, files: dict[str, str], max_tokens: int) -> Any:
    from litseq.data import PairDataModule, TextDataModule

    if case == "pairs":
        return PairDataModule(train=files["pairs"], tokenizer=files["pairs_tokenizer"], max_tokens=max_tokens)
    return TextDataModule(
        train=files["text"],
        tokenizer=files["text_tokenizer"],
        block_size=BLOCK,
        objective="blocks",
        max_tokens=max_tokens,
    )


def batches(data: Any) -> Iterator[dict[str, Tensor]]:
    """Epoch after epoch."""
    data.setup("fit")
    loader = data.train_dataloader()
    epoch = 0
    while True:
        loader.batch_sampler.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


# ---------------------------------------------------------------------------------------------------------------- litseq


def litseq(case: str, files: dict[str, str], max_tokens: int, gate: Gate, **flavour: Any) -> None:
    """`Trainer.fit`."""
    import lightning

    from litseq.models import DecoderOnly, EncoderDecoder

    class Turns(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> int | None:
            if gate(useful(batch)):
                return None
            trainer.should_stop = True
            return -1

    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=-1, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Turns()],
    )  # fmt: skip
    shape: dict[str, Any] = SHAPE | {"max_seq_len": 256} | flavour
    module = EncoderDecoder(num_layers=3, **shape) if case == "pairs" else DecoderOnly(num_layers=6, **shape)
    trainer.fit(module, data_of(case, files, max_tokens))


def litseq_same(case: str, files: dict[str, str], max_tokens: int, gate: Gate) -> None:
    """In the flavour of the peers."""
    litseq(case, files, max_tokens, gate, **SAME)


# ----------------------------------------------------------------------------------------------------------------- plain


class PlainPairs(nn.Module):
    """torch.nn.Transformer with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)
        self.register_buffer("positions", sinusoids(512), persistent=False)
        self.stack = nn.Transformer(WIDTH, HEADS, 3, 3, INNER, DROPOUT, batch_first=True, norm_first=True)
        self.dropout = nn.Dropout(DROPOUT)

    def embed(self, ids: Tensor) -> Tensor:
        return self.dropout(self.embedding(ids) * math.sqrt(WIDTH) + self.positions[: ids.shape[1]])

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        target = batch["decoder_input_ids"]
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.bool)
        padding = ~batch["attention_mask"]
        hidden = self.stack(
            self.embed(batch["input_ids"]), self.embed(target), tgt_mask=causal, tgt_is_causal=True,
            src_key_padding_mask=padding, memory_key_padding_mask=padding,
        )  # fmt: skip
        return functional.linear(hidden, self.embedding.weight)


class PlainText(nn.Module):
    """torch.nn.TransformerEncoder with a causal mask; unlike ours it lets packed documents see each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)
        self.register_buffer("positions", sinusoids(512), persistent=False)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, DROPOUT, batch_first=True, norm_first=True)
        self.stack = nn.TransformerEncoder(layer, 6, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        ids = batch["input_ids"]
        x = self.dropout(self.embedding(ids) * math.sqrt(WIDTH) + self.positions[: ids.shape[1]])
        causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return functional.linear(self.stack(x, mask=causal, is_causal=True), self.embedding.weight)


def sinusoids(length: int) -> Tensor:
    angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def plain(case: str, files: dict[str, str], max_tokens: int, gate: Gate) -> None:
    """The loop one writes."""
    from torch.optim.lr_scheduler import LambdaLR

    model = PlainPairs() if case == "pairs" else PlainText()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True)
    schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 400))
    for batch in batches(data_of(case, files, max_tokens)):
        if not gate(useful(batch)):
            return
        optimizer.zero_grad()
        logits = model(batch)
        functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


# -------------------------------------------------------------------------------------------------------------------- hf


def hf(case: str, files: dict[str, str], max_tokens: int, gate: Gate) -> None:
    """Trainer with its own batching."""
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model, rows, collate, size = _hf_pairs(files, max_tokens) if case == "pairs" else _hf_text(files, max_tokens)

    class Stop(Exception):
        pass

    def gated(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = collate(examples)
        if not gate(useful(batch)):
            raise Stop
        return batch

    # The loader makes a batch just before its step; the time of a turn so holds whole steps.
    arguments = transformers.TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=size, max_steps=10**6, learning_rate=1e-3, warmup_steps=400,
        max_grad_norm=1.0, adam_beta2=0.98, group_by_length=case == "pairs",
        save_strategy="no", logging_strategy="no", report_to=[], use_cpu=True, remove_unused_columns=False,
        disable_tqdm=True, optim="adamw_torch_fused", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=gated)
    try:
        trainer.train()
    except Stop:
        return


def _hf_pairs(files: dict[str, str], max_tokens: int) -> tuple[nn.Module, Any, Callable[..., Any], int]:
    import transformers

    data = data_of("pairs", files, max_tokens)
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    config = transformers.MarianConfig(
        vocab_size=VOCAB, d_model=WIDTH, encoder_layers=3, decoder_layers=3, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER, max_position_embeddings=512,
        activation_function="relu", scale_embedding=True, dropout=DROPOUT, pad_token_id=0, eos_token_id=2,
        decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    collate = data.make_collate(dataset)

    def pad(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        return dict(collate([example["pair"] for example in examples]))

    # Trainer groups by the length of `input_ids`, and by a column of lengths only where the rows are a `datasets.Dataset`.
    rows = [{"pair": dataset[i], "input_ids": range(int(dataset.lengths[i].sum()))} for i in range(len(dataset))]
    per_row = sum(len(row["input_ids"]) for row in rows) / len(rows)
    return transformers.MarianMTModel(config), _Rows(rows), pad, max(1, round(max_tokens / per_row))


def _hf_text(files: dict[str, str], max_tokens: int) -> tuple[nn.Module, Any, Callable[..., Any], int]:
    """As transformers' run_clm.py: all documents joined, cut into blocks."""
    import transformers

    data = data_of("text", files, max_tokens)
    data.setup("fit")
    flat = torch.from_numpy(data.train_dataloader().dataset.flat).long()
    blocks = flat[: len(flat) // BLOCK * BLOCK].view(-1, BLOCK)
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=BLOCK, n_embd=WIDTH, n_layer=6, n_head=HEADS, n_inner=INNER, resid_pdrop=DROPOUT,
        embd_pdrop=DROPOUT, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip

    def stack(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = torch.stack([example["input_ids"] for example in examples])
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}

    rows = [{"input_ids": block} for block in blocks]
    return transformers.GPT2LMHeadModel(config), _Rows(rows), stack, max_tokens // BLOCK


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A list, as a dataset."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


# ------------------------------------------------------------------------------------------------------------------- all

SYSTEMS: dict[str, Callable[..., None]] = {"litseq": litseq, "litseq-same": litseq_same, "plain": plain, "hf": hf}


def serve(name: str, case: str, files: dict[str, str], options: dict[str, int], pipe: Connection) -> None:
    """A system's process."""
    warnings.filterwarnings("ignore")  # advice of Lightning and transformers, which all systems get
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    SYSTEMS[name](case, files, options["max_tokens"], Gate(pipe, options["steps"]))


def prepare(args: argparse.Namespace) -> dict[str, str]:
    """Data files, and a tokenizer for each, so that all systems read the same ids."""
    from litseq.data import PairDataModule, TextDataModule

    files = {"pairs": str(args.pairs), "text": str(args.text)}
    for name, kind in (("pairs", PairDataModule), ("text", TextDataModule)):
        path = Path(args.work) / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            kind(train=files[name], vocab_size=VOCAB).tokenizer.save(path)
        files[f"{name}_tokenizer"] = str(path)
    return files


def measure(case: str, names: list[str], files: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    """Useful tokens a second of every system, turn by turn."""
    context = multiprocessing.get_context("spawn")
    options = {"threads": args.threads, "max_tokens": args.max_tokens, "steps": args.steps}
    pipes, processes = {}, []
    for name in names:  # one after the other, so that none warms up beside another
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, case, files, options, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        assert pipes[name].recv() == "ready"
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            pipes[name].send("go")
            seconds, tokens = pipes[name].recv()
            speeds[name].append(tokens / seconds)
    for name in names:
        pipes[name].send("stop")
    for process in processes:
        process.join(timeout=60)
    return {
        name: {"tokens_per_second": statistics.median(found), "slowest_and_fastest": [min(found), max(found)]}
        for name, found in speeds.items()
    }


def table(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    titles = {"pairs": "Tatoeba en-de, encoder-decoder", "text": "stories, decoder-only, blocks of 256"}
    lines = [
        "# Training speed", "",
        f"Useful tokens a second (no padding), fp32, {results['threads']} threads, batches of {results['max_tokens']} tokens, "
        f"medians of {results['rounds']} interleaved rounds of {results['steps']} steps. {results['cpu']}. "
        + ", ".join(f"{name} {number}" for name, number in results["versions"].items()) + f". {results['date']}.", "",
        f"Made by `{results['command']}`; what the systems are is said at the top of that file. `litseq-same` is our module "
        "in the flavour of the others (LayerNorm, ReLU, biases), `litseq` has its own defaults (RMSNorm, SwiGLU, rotary "
        "positions).", "",
        "| | " + " | ".join(results["systems"]) + " | best litseq / best other |",
        "|---|" + "---:|" * (len(results["systems"]) + 1),
    ]  # fmt: skip
    for case, systems in results["cases"].items():
        speed = {name: found["tokens_per_second"] for name, found in systems.items()}
        ours = [value for name, value in speed.items() if name.startswith("litseq")]
        others = [value for name, value in speed.items() if not name.startswith("litseq")]
        ratio = f"{max(ours) / max(others):.2f}x" if ours and others else "-"
        lines.append(f"| {titles[case]} | " + " | ".join(f"{speed[n]:,.0f}" for n in speed) + f" | {ratio} |")
    return "\n".join([*lines, ""])


def main() -> None:
    from litseq.runtime.processor import this_processor

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["pairs", "text"], choices=["pairs", "text"])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--pairs", type=Path, default=Path("../shared/data/tatoeba.eng-deu.train.tsv.gz"))
    parser.add_argument("--text", type=Path, default=Path("../shared/data/stories-pd.train.txt.gz"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "litseq-training-benchmark")
    parser.add_argument("--out", type=Path, help="directory for benchmark-training.md and benchmark-training.json")
    args = parser.parse_args()
    names = [name for name in args.systems if name != "hf" or (find_spec("transformers") and find_spec("accelerate"))]
    files = prepare(args)
    cases = {}
    for case in args.cases:
        cases[case] = measure(case, names, files, args)
        print(case, {name: round(found["tokens_per_second"]) for name, found in cases[case].items()}, flush=True)
    packages = ["torch", "lightning", *(["transformers", "accelerate"] if "hf" in names else [])]
    results = {
        "systems": names, "threads": args.threads, "rounds": args.rounds, "steps": args.steps, "cpu": f"{os.cpu_count()} x {this_processor().name}",
        "max_tokens": args.max_tokens, "versions": {name: version(name) for name in packages},
        "command": " ".join(["python benchmarks/training.py", *sys.argv[1:]]), "date": time.strftime("%Y-%m-%d"),
        "cases": cases,
    }  # fmt: skip
    print(table(results))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "benchmark-training.json").write_text(json.dumps(results, indent=1) + "\n")
        (args.out / "benchmark-training.md").write_text(table(results))


if __name__ == "__main__":
    main()
