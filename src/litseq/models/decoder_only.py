"""A decoder that continues a sequence; the input is the beginning of the output."""

from collections.abc import Mapping

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from litseq.models.base import SequenceModule
from litseq.models.optim import ScheduleName
from litseq.nn import TransformerConfig, TransformerDecoder
from litseq.nn.batch import IGNORE_INDEX
from litseq.nn.config import ActivationName, NormName, NormPosition, PositionName


class DecoderOnly(SequenceModule):
    """The decoder-only Transformer, for plain sequences and for pairs written one behind the other.

    Args:
        vocab_size: Number of tokens; a data module of litseq knows it.
        embed_dim: Width of the residual stream.
        num_layers: Layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, fewer than num_heads for grouped-query attention. None: num_heads.
        head_dim: Width of a head. None: embed_dim / num_heads.
        ffn_dim: Inner width of the feed-forward. None: 4 embed_dim, two thirds of it for swiglu.
        max_seq_len: The longest sequence, prompt and continuation together, in tokens.
        prefix_lm: Let the tokens of the prompt all see each other (https://arxiv.org/abs/1910.10683); the data must
            say where the prompt ends.
        dropout: Dropout on embeddings and on what sub-layers add to the residual stream.
        norm: RMSNorm or LayerNorm.
        norm_eps: Added to the variance before its root is taken.
        norm_position: Normalise before each sub-layer or behind it.
        activation: Activation of the feed-forward; swiglu has a gate beside it.
        position: How positions are told apart.
        rope_base: Base of the rotary frequencies.
        tie_embeddings: Use the token table as output projection as well.
        bias: Give the linear layers a bias.
        scale_embeddings: Multiply embeddings by the root of embed_dim.
        label_smoothing: Share of probability spread over the whole vocabulary in training.
        learning_rate: The highest learning rate of the default optimiser.
        weight_decay: Weight decay of matrices; norms, biases and embeddings have none.
        warmup_steps: Optimizer steps until the learning rate is reached.
        schedule: What the learning rate does behind the warm-up.
        optimizer: Makes another optimiser from parameter groups; learning_rate and weight_decay are without effect.
        scheduler: Makes another schedule from the optimiser; warmup_steps and schedule are without effect.
    """

    architecture = "decoder-only"

    def __init__(
        self,
        vocab_size: int = 8000,
        embed_dim: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        ffn_dim: int | None = None,
        max_seq_len: int = 512,
        prefix_lm: bool = False,
        dropout: float = 0.1,
        norm: NormName = "rms",
        norm_eps: float = 1e-6,
        norm_position: NormPosition = "pre",
        activation: ActivationName = "swiglu",
        position: PositionName = "rotary",
        rope_base: float = 10000.0,
        tie_embeddings: bool = True,
        bias: bool = False,
        scale_embeddings: bool = False,
        label_smoothing: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 400,
        schedule: ScheduleName = "inverse_sqrt",
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            max_seq_len=max_seq_len,
            label_smoothing=label_smoothing,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            schedule=schedule,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.prefix_lm = prefix_lm
        config = TransformerConfig(
            vocab_size=vocab_size,
            embed_dim=embed_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            ffn_dim=ffn_dim,
            max_seq_len=max_seq_len,
            dropout=dropout,
            norm=norm,
            norm_eps=norm_eps,
            norm_position=norm_position,
            activation=activation,
            position=position,
            rope_base=rope_base,
            tie_embeddings=tie_embeddings,
            bias=bias,
            scale_embeddings=scale_embeddings,
        )
        self.decoder = self.build_decoder(config)

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        """The decoder (seam)."""
        return TransformerDecoder(config)

    def forward(
        self, input_ids: Tensor, segment_ids: Tensor | None = None, prefix_lengths: Tensor | None = None
    ) -> Tensor:
        """Logits of every position.

        Args:
            input_ids: Tokens, [B, T], right padded; padding is never seen, so it needs no mask.
            segment_ids: Packed rows: the document of each token, [B, T].
            prefix_lengths: Tokens at the beginning of each row that all see each other, [B].

        Returns:
            [B, T, V].
        """
        return self.decoder.logits(self.decoder(input_ids, segment_ids=segment_ids, prefix_lengths=prefix_lengths))

    def hidden_states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Run the stack on a batch up to what the output projection reads, [B, T, D]."""
        prefix_lengths = batch.get("prefix_lengths") if self.prefix_lm else None
        if self.prefix_lm and prefix_lengths is None:
            raise ValueError(
                f"prefix_lm is set and the batch has no prefix_lengths (it has {', '.join(batch)}): use data with"
                " prompts, such as pairs, or prefix_lm=False"
            )
        return self.decoder(
            batch["input_ids"],
            attention_mask=batch.get("attention_mask"),
            segment_ids=batch.get("segment_ids"),
            prefix_lengths=prefix_lengths,
        )

    def prompts(self, batch: Mapping[str, Tensor]) -> list[list[int]]:
        """Each row up to its first label: that is predicted by the last token of the prompt."""
        lengths = batch.get("prefix_lengths")
        if lengths is None:
            # argmax of a boolean row is its first True; the token at that place is still part of the prompt.
            lengths = (batch["labels"] != IGNORE_INDEX).int().argmax(dim=1) + 1
        return [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths.tolist(), strict=True)]
