"""An encoder that reads the whole source, a decoder that generates from what it made of it."""

from collections.abc import Mapping

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from litseq.models.base import SequenceModule
from litseq.models.optim import ScheduleName
from litseq.nn import TransformerConfig, TransformerDecoder, TransformerEncoder
from litseq.nn.config import ActivationName, NormName, NormPosition, PositionName


class EncoderDecoder(SequenceModule):
    """The encoder-decoder Transformer, for pairs of sequences.

    Args:
        vocab_size: Number of tokens; a data module of litseq knows it.
        embed_dim: Width of the residual stream.
        num_layers: Layers of the encoder.
        num_decoder_layers: Layers of the decoder. None: as many as the encoder has.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, fewer than num_heads for grouped-query attention. None: num_heads.
        head_dim: Width of a head. None: embed_dim / num_heads.
        ffn_dim: Inner width of the feed-forward. None: 4 embed_dim, two thirds of it for swiglu.
        max_seq_len: The longest source and the longest target, in tokens.
        dropout: Dropout on embeddings and on what sub-layers add to the residual stream.
        norm: RMSNorm or LayerNorm.
        norm_eps: Added to the variance before its root is taken.
        norm_position: Normalise before each sub-layer or behind it.
        activation: Activation of the feed-forward; swiglu has a gate beside it.
        position: How positions are told apart.
        rope_base: Base of the rotary frequencies.
        share_embeddings: One token table for source and target.
        tie_embeddings: Use the decoder's token table as output projection as well.
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

    architecture = "encoder-decoder"

    def __init__(
        self,
        vocab_size: int = 8000,
        embed_dim: int = 256,
        num_layers: int = 4,
        num_decoder_layers: int | None = None,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        ffn_dim: int | None = None,
        max_seq_len: int = 512,
        dropout: float = 0.1,
        norm: NormName = "rms",
        norm_eps: float = 1e-6,
        norm_position: NormPosition = "pre",
        activation: ActivationName = "swiglu",
        position: PositionName = "rotary",
        rope_base: float = 10000.0,
        share_embeddings: bool = True,
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
        self.encoder = self.build_encoder(config)
        self.decoder = self.build_decoder(
            config.replace(num_layers=num_decoder_layers or num_layers),
            self.encoder.embedding if share_embeddings else None,
        )

    def build_encoder(self, config: TransformerConfig) -> TransformerEncoder:
        """The encoder (seam); anything with its `forward` and its `embedding`."""
        return TransformerEncoder(config)

    def build_decoder(self, config: TransformerConfig, embedding: nn.Embedding | None) -> TransformerDecoder:
        """The decoder (seam), around the encoder's token table where that is shared."""
        return TransformerDecoder(config, cross_attention=True, embedding=embedding)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of every target position.

        Args:
            input_ids: Source tokens, [B, S], right padded.
            decoder_input_ids: The target behind its start token, [B, T].
            attention_mask: True where the source is no padding, [B, S]. None: nowhere padded.

        Returns:
            [B, T, V].
        """
        memory = self.encoder(input_ids, attention_mask)
        hidden = self.decoder(decoder_input_ids, memory=memory, memory_mask=attention_mask)
        return self.decoder.logits(hidden)

    def hidden_states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Run both stacks on a batch up to what the output projection reads, [B, T, D]."""
        source_mask = batch["attention_mask"]
        memory = self.encoder(batch["input_ids"], source_mask)
        return self.decoder(batch["decoder_input_ids"], memory=memory, memory_mask=source_mask)

    def prompts(self, batch: Mapping[str, Tensor]) -> list[list[int]]:
        """The sources, without padding."""
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        return [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]
