"""An embedding of one's own, which need not be a table of one token a line."""

import pytest
import torch
from torch import nn

from export.small import small_module, small_tokenizer
from litseq.errors import ExportError
from litseq.export import export_bundle
from litseq.models import DecoderOnly
from litseq.nn import DecoderLayer, TransformerDecoder
from litseq.runtime import Generator


class FactorisedEmbedding(nn.Module):
    """A narrow table and a projection, as ALBERT has them."""

    def __init__(self, config):
        super().__init__()
        self.table, self.wide = nn.Embedding(config.vocab_size, 16), nn.Linear(16, config.embed_dim, bias=False)

    def forward(self, ids):
        return self.wide(self.table(ids))


class FactorisedDecoder(TransformerDecoder):
    def __init__(self, config):
        super().__init__(config, embedding=FactorisedEmbedding(config))

    def logits(self, hidden):
        return hidden @ self.embedding.wide.weight @ self.embedding.table.weight.T


class FactorisedModel(DecoderOnly):
    def build_decoder(self, config):
        return FactorisedDecoder(config)


class ShiftedLayer(DecoderLayer):
    def _feed_forward(self, x):
        return super()._feed_forward(x + nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


class ShiftedDecoder(FactorisedDecoder):
    def build_layer(self, config, index):
        return ShiftedLayer(config)


class ShiftedModel(DecoderOnly):
    def build_decoder(self, config):
        return ShiftedDecoder(config)


def test_a_factorised_embedding_is_exported(tmp_path):
    module = small_module(FactorisedModel)
    assert export_bundle(module, small_tokenizer(), tmp_path / "b").passed
    ids = [5, 6, 7]
    for _ in range(5):
        ids.append(int(module(torch.tensor([ids]))[0, -1].argmax()))
    (found,) = Generator.from_bundle(tmp_path / "b", threads=1).generate([ids[:3]], max_new_tokens=5, min_new_tokens=5)
    assert list(found.token_ids) == ids[3:]
    cache = module.decoder.new_cache(2, 7)
    assert cache[0][0].shape[0] == 2
    assert cache[0][0].dtype == torch.float32


def test_one_whose_layers_look_at_their_neighbours_is_refused_in_one_line(tmp_path):
    with pytest.raises(
        ExportError, match="what joins neighbouring tokens outside of an attention needs a cache"
    ) as caught:
        export_bundle(small_module(ShiftedModel), small_tokenizer(), tmp_path / "b")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
