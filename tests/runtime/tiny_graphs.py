"""Hand-laid ONNX graphs of a tiny Transformer, and the same network in plain numpy.

The graphs follow the bundle's decoder contract (in-place caches, per-row lengths, chosen logit rows); the numpy network
knows no cache and no batch, so that it is an independent reference. Needs `onnx` to lay the graphs, and nothing to run
the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class TinyNet:
    """Weights and sizes; D embed, H heads, K kv heads, Dh head size, L layers."""

    vocab_size: int = 37
    embed_dim: int = 32
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    num_layers: int = 2
    max_seq_len: int = 64
    encoder_decoder: bool = False
    prefix_lm: bool = False
    top_k: bool = True
    state: bool = False
    seed: int = 0
    scale: float = 1.0
    end_boost: float = 1.0
    weights: dict[str, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        d, dh = self.embed_dim, self.head_dim

        def matrix(rows: int, columns: int) -> FloatArray:
            return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

        w = self.weights
        w["embed"] = rng.standard_normal((self.vocab_size, d)).astype(np.float32)
        w["flag"] = rng.standard_normal((1, d)).astype(np.float32)
        w["head"] = (matrix(d, self.vocab_size) * self.scale).astype(np.float32)
        w["head"][:, 2] *= self.end_boost
        w["source_embed"] = rng.standard_normal((self.vocab_size, d)).astype(np.float32)
        for layer in range(self.num_layers):
            w[f"qkv{layer}"] = matrix(d, (self.num_heads + 2 * self.num_kv_heads) * dh)
            w[f"out{layer}"] = matrix(self.num_heads * dh, d)
            w[f"cross_q{layer}"] = matrix(d, self.num_heads * dh)
            w[f"cross_k{layer}"] = matrix(d, self.num_heads * dh)
            w[f"cross_v{layer}"] = matrix(d, self.num_heads * dh)
            w[f"cross_out{layer}"] = matrix(self.num_heads * dh, d)
        angles = np.outer(np.arange(self.max_seq_len), 1.0 / 10000.0 ** (np.arange(dh // 2) / (dh // 2)))
        w["cos"], w["sin"] = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    # ------------------------------------------------------------------ numpy reference
    def logits(self, ids: list[int], source: list[int] | None = None, prefix_length: int = 0) -> FloatArray:
        """Logits [T, V] of one sequence, computed from nothing."""
        w, t = self.weights, len(ids)
        x = w["embed"][ids]
        if self.prefix_lm:
            x = x + (np.arange(t) < prefix_length)[:, None] * w["flag"]
        if self.state:
            x = x + np.cumsum(w["embed"][ids], 0) / 8
        for layer in range(self.num_layers):
            x = np.tanh(x + self._self_attention(x, layer))
            if self.encoder_decoder:
                assert source is not None
                x = np.tanh(x + self._cross_attention(x, source, layer))
        return np.asarray(x @ w["head"], np.float32)

    def greedy(self, ids: list[int], steps: int, eos: int = -1, source: list[int] | None = None) -> list[int]:
        prefix, out = len(ids), list(ids)
        for _ in range(steps):
            token = int(self.logits(out, source, prefix)[-1].argmax())
            out.append(token)
            if token == eos:
                break
        return out[prefix:]

    def _rotate(self, x: FloatArray) -> FloatArray:  # x [T, H, Dh]
        half = self.head_dim // 2
        cos, sin = self.weights["cos"][: len(x), None], self.weights["sin"][: len(x), None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def _self_attention(self, x: FloatArray, layer: int) -> FloatArray:
        t, h, k, dh = len(x), self.num_heads, self.num_kv_heads, self.head_dim
        qkv = (x @ self.weights[f"qkv{layer}"]).reshape(t, h + 2 * k, dh)
        query, key, value = self._rotate(qkv[:, :h]), self._rotate(qkv[:, h : h + k]), qkv[:, h + k :]
        key, value = np.repeat(key, h // k, 1), np.repeat(value, h // k, 1)
        scores = np.einsum("thd,shd->hts", query, key) / np.sqrt(dh)
        scores = np.where(np.tri(t, dtype=bool), scores, -np.inf)
        return self._weighted(scores, value) @ self.weights[f"out{layer}"]

    def _cross_attention(self, x: FloatArray, source: list[int], layer: int) -> FloatArray:
        w, h, dh = self.weights, self.num_heads, self.head_dim
        memory = w["source_embed"][source]
        query = (x @ w[f"cross_q{layer}"]).reshape(len(x), h, dh)
        key = (memory @ w[f"cross_k{layer}"]).reshape(-1, h, dh)
        value = (memory @ w[f"cross_v{layer}"]).reshape(-1, h, dh)
        scores = np.einsum("thd,shd->hts", query, key) / np.sqrt(dh)
        return self._weighted(scores, value) @ w[f"cross_out{layer}"]

    def _weighted(self, scores: FloatArray, value: FloatArray) -> FloatArray:
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hts,shd->thd", weights, value).reshape(scores.shape[1], -1)

    # ------------------------------------------------------------------ graphs
    def save(self, directory: Path) -> None:
        """Write decoder.onnx (and encoder.onnx) into `directory`."""
        import onnx

        onnx.save(self.decoder_graph(), directory / "decoder.onnx")
        if self.encoder_decoder:
            onnx.save(self.encoder_graph(), directory / "encoder.onnx")

    def decoder_graph(self) -> Any:
        from onnx import TensorProto as T
        from onnx import helper as oh

        h, k, dh = self.num_heads, self.num_kv_heads, self.head_dim
        lay = _Layer(self.weights)
        inputs = [
            oh.make_tensor_value_info("input_ids", T.INT64, ["batch", "new"]),
            oh.make_tensor_value_info("last_positions", T.INT32, ["batch"]),
            oh.make_tensor_value_info("new_lengths", T.INT32, ["batch"]),
            oh.make_tensor_value_info("total_length", T.INT32, []),
            oh.make_tensor_value_info("logit_rows", T.INT64, ["rows"]),
        ]
        outputs = [oh.make_tensor_value_info("logits", T.FLOAT, ["rows", self.vocab_size])]
        x = lay.node("Gather", ["embed", "input_ids"])
        if self.prefix_lm:
            inputs.append(oh.make_tensor_value_info("prefix_lengths", T.INT32, ["batch"]))
            x = lay.node("Add", [x, self._flags(lay)])
        if self.state:
            inputs.append(oh.make_tensor_value_info("past_state", T.FLOAT, ["batch", self.embed_dim]))
            outputs.append(oh.make_tensor_value_info("present_state", T.FLOAT, ["batch", self.embed_dim]))
            x = lay.node("Add", [x, self._running_sum(lay)])
        for layer in range(self.num_layers):
            for kind in ("key", "value"):
                shape = ["batch", k, "capacity", dh]
                inputs.append(oh.make_tensor_value_info(f"past_{kind}.{layer}", T.FLOAT, shape))
                outputs.append(oh.make_tensor_value_info(f"present_{kind}.{layer}", T.FLOAT, shape))
            y = lay.attention(x, layer, h, k)
            x = lay.node("Tanh", [lay.node("Add", [x, y])])
            if self.encoder_decoder:
                for kind in ("key", "value"):
                    name, shape = f"cross_{kind}.{layer}", ["batch", h, "source", dh]
                    inputs.append(oh.make_tensor_value_info(name, T.FLOAT, shape))
                x = lay.node("Tanh", [lay.node("Add", [x, lay.cross(x, layer, h)])])
        if self.encoder_decoder:
            inputs.append(oh.make_tensor_value_info("source_lengths", T.INT32, ["batch"]))
        flat = lay.node("Reshape", [x, lay.const("flat", np.array([-1, self.embed_dim]))])
        lay.node("MatMul", [lay.node("Gather", [flat, "logit_rows"]), "head"], "logits")
        if self.top_k:
            inputs.append(oh.make_tensor_value_info("top_k", T.INT64, []))
            outputs += [
                oh.make_tensor_value_info("top_log_probs", T.FLOAT, ["rows", "k"]),
                oh.make_tensor_value_info("top_ids", T.INT64, ["rows", "k"]),
            ]
            # Under an If: LogSoftmax and TopK over the vocabulary cost 10-30 % of a tiny step that does not want them.
            lay.constants["one"] = np.array([1])
            wanted = lay.node("Greater", ["top_k", lay.const("none", np.array(0))])
            best, nothing = _Layer({}), _Layer({})
            count = best.node("Reshape", ["top_k", "one"])
            best.node("TopK", [best.node("LogSoftmax", ["logits"], axis=-1), count], "best_log_probs", "best_ids")
            rows = nothing.node("Concat", [nothing.node("Shape", ["logit_rows"]), "empty"], axis=0)
            lay.constants["empty"] = np.array([0])
            nothing.node("ConstantOfShape", [rows], "no_log_probs")
            nothing.node("Cast", ["no_log_probs"], "no_ids", to=T.INT64)
            lay.node(
                "If", [wanted], "top_log_probs", "top_ids",
                then_branch=best.subgraph(("best_log_probs", T.FLOAT), ("best_ids", T.INT64)),
                else_branch=nothing.subgraph(("no_log_probs", T.FLOAT), ("no_ids", T.INT64)),
            )  # fmt: skip
        return lay.model(inputs, outputs)

    def encoder_graph(self) -> Any:
        from onnx import TensorProto as T
        from onnx import helper as oh

        lay = _Layer(self.weights)
        inputs = [
            oh.make_tensor_value_info("input_ids", T.INT64, ["batch", "source"]),
            oh.make_tensor_value_info("lengths", T.INT32, ["batch"]),
        ]
        outputs = []
        memory = lay.node("Gather", ["source_embed", "input_ids"])
        split = lay.const("split", np.array([0, 0, self.num_heads, self.head_dim]))
        for layer in range(self.num_layers):
            for kind, weight in (("key", f"cross_k{layer}"), ("value", f"cross_v{layer}")):
                projected = lay.node("Reshape", [lay.node("MatMul", [memory, weight]), split])
                lay.node("Transpose", [projected], f"cross_{kind}.{layer}", perm=[0, 2, 1, 3])
                shape = ["batch", self.num_heads, "source", self.head_dim]
                outputs.append(oh.make_tensor_value_info(f"cross_{kind}.{layer}", T.FLOAT, shape))
        return lay.model(inputs, outputs)

    def _running_sum(self, lay: _Layer) -> str:
        """[B, T, D]: an eighth of the sum of all tokens so far; the sum itself is a state of fixed size."""
        from onnx import TensorProto as T

        steps = lay.node("Squeeze", [lay.node("Shape", ["input_ids"], start=1, end=2)])
        offsets = lay.node("Range", [lay.const("from", np.array(0)), steps, lay.const("by", np.array(1))])
        limit = lay.node("Unsqueeze", [lay.node("Cast", ["new_lengths"], to=T.INT64), lay.const("on1", np.array([1]))])
        real = lay.node("Cast", [lay.node("Less", [offsets, limit])], to=T.FLOAT)
        mask = lay.node("Unsqueeze", [real, lay.const("on2", np.array([2]))])
        tokens = lay.node("Mul", [lay.node("Gather", ["embed", "input_ids"]), mask])
        total = lay.node("ReduceSum", [tokens, lay.const("over", np.array([1]))], keepdims=0)
        # The old state is read again after the new one is written: what a graph in place would get wrong.
        lay.node("Add", ["past_state", total], "present_state")
        before = lay.node("Unsqueeze", ["past_state", lay.const("on", np.array([1]))])
        ahead = lay.node("Sub", [lay.node("Unsqueeze", ["present_state", "on"]), lay.node("Unsqueeze", [total, "on"])])
        mean = lay.node("Mul", [lay.node("Add", [before, ahead]), lay.const("half", np.array(0.5, np.float32))])
        running = lay.node("Add", [mean, lay.node("CumSum", [tokens, lay.const("axis", np.array(1))])])
        return lay.node("Mul", [running, lay.const("eighth", np.array(0.125, np.float32))])

    def _flags(self, lay: _Layer) -> str:
        """[B, T, D]: the flag vector where a position lies inside the row's prefix."""
        from onnx import TensorProto as T

        steps = lay.node("Squeeze", [lay.node("Shape", ["input_ids"], start=1, end=2)])
        offsets = lay.node("Range", [lay.const("zero", np.array(0)), steps, lay.const("step", np.array(1))])
        past = lay.node("Sub", ["last_positions", "new_lengths"])
        start = lay.node("Unsqueeze", [lay.node("Cast", [past], to=T.INT64), lay.const("last", np.array([1]))])
        positions = lay.node("Add", [lay.node("Add", [start, offsets]), lay.const("plus", np.array(1))])
        limit = lay.node(
            "Unsqueeze", [lay.node("Cast", ["prefix_lengths"], to=T.INT64), lay.const("ax", np.array([1]))]
        )
        inside = lay.node("Cast", [lay.node("Less", [positions, limit])], to=T.FLOAT)
        return lay.node("Mul", [lay.node("Unsqueeze", [inside, lay.const("ax2", np.array([2]))]), "flag"])


class _Layer:
    """Nodes and initialisers of one graph being laid."""

    def __init__(self, weights: dict[str, FloatArray]) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.weights = weights

    def const(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self.constants[name] = value
        return name

    def node(self, kind: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper as oh

        names = list(outputs) or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(oh.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0]

    def attention(self, x: str, layer: int, heads: int, kv_heads: int) -> str:
        qkv = self.node("MatMul", [x, f"qkv{layer}"])
        past = [f"past_key.{layer}", f"past_value.{layer}"]
        # query_seqlens is input 16: the optional inputs between the rotary tables and it stay empty.
        lengths = ["last_positions", "total_length", "cos", "sin", *[""] * 7, "new_lengths"]
        y = self.node(
            "GroupQueryAttention", [qkv, "", "", *past, *lengths],
            f"attention.{layer}", f"present_key.{layer}", f"present_value.{layer}",
            domain="com.microsoft", num_heads=heads, kv_num_heads=kv_heads, do_rotary=1,
        )  # fmt: skip
        return self.node("MatMul", [y, f"out{layer}"])

    def cross(self, x: str, layer: int, heads: int) -> str:
        query = self.node("MatMul", [x, f"cross_q{layer}"])
        inputs = [query, f"cross_key.{layer}", f"cross_value.{layer}", "", "source_lengths"]
        y = self.node("MultiHeadAttention", inputs, domain="com.microsoft", num_heads=heads)
        return self.node("MatMul", [y, f"cross_out{layer}"])

    def subgraph(self, *outputs: tuple[str, int]) -> Any:
        from onnx import helper as oh

        infos = [oh.make_tensor_value_info(name, kind, None) for name, kind in outputs]
        return oh.make_graph(self.nodes, f"branch_{outputs[0][0]}", [], infos)

    def model(self, inputs: list[Any], outputs: list[Any]) -> Any:
        from onnx import helper as oh
        from onnx import numpy_helper as nh

        used = {name for node in self.nodes for name in node.input}
        tensors = {**self.weights, **self.constants}
        initialisers = [nh.from_array(v, name) for name, v in tensors.items() if name in used or name in self.constants]
        graph = oh.make_graph(self.nodes, "tiny", inputs, outputs, initialisers)
        imports = [oh.make_opsetid("", 21), oh.make_opsetid("com.microsoft", 1)]
        return oh.make_model(graph, opset_imports=imports, ir_version=10)
