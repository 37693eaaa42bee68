import torch
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import Perplexity

from litseq.models.loss import token_cross_entropy
from litseq.models.metrics import StageMetrics, TokenMean, TokenPerplexity, text_bytes
from litseq.text import Tokenizer


def batches():
    torch.manual_seed(0)
    for rows, length in ((3, 5), (1, 2), (4, 7)):
        labels = torch.randint(0, 11, (rows, length))
        labels[torch.rand(rows, length) < 0.4] = -100
        yield torch.randn(rows, length, 11), labels


def test_against_torchmetrics_over_batches_of_uneven_token_counts():
    stage = StageMetrics()
    perplexity = Perplexity(ignore_index=-100)
    accuracy = MulticlassAccuracy(num_classes=11, average="micro", ignore_index=-100)
    mean = MeanMetric()
    for logits, labels in batches():
        loss = token_cross_entropy(logits, labels, lambda x: x, count_correct=True)
        stage.update(loss)
        perplexity.update(logits, labels)
        accuracy.update(logits.flatten(0, 1), labels.flatten())
        mean.update(loss.loss_sum / loss.token_count, weight=loss.token_count)
    torch.testing.assert_close(stage.perplexity.compute(), perplexity.compute())
    torch.testing.assert_close(stage.accuracy.compute(), accuracy.compute())
    torch.testing.assert_close(stage.loss.compute(), mean.compute())
    torch.testing.assert_close(stage.loss.compute().exp(), stage.perplexity.compute())


def test_bits_per_byte_of_a_uniform_model():
    """Every one of 16 tokens equally likely: 4 bits a token, whatever the text; the end token is paid for as well."""
    tokenizer = Tokenizer.train(["aäb"], vocab_size=8, kind="char")
    rows = [tokenizer.encode("aä"), tokenizer.encode("bba")]
    labels = torch.tensor([[*rows[0], tokenizer.eos_id, -100], [*rows[1], tokenizer.eos_id]])
    loss = token_cross_entropy(torch.zeros(2, 4, 16), labels, lambda x: x)
    stage = StageMetrics()
    known = stage.update(loss, text_bytes(tokenizer, labels))
    assert text_bytes(tokenizer, labels) == 3 + 3
    torch.testing.assert_close(known["bits_per_byte"].compute(), torch.tensor(7 * 4 / 6))
    assert "bits_per_byte" not in stage.update(loss)


def test_a_character_that_is_cut_in_two_counts_once():
    tokenizer = Tokenizer.train(["abc"], vocab_size=261, kind="byte")
    ids = tokenizer.encode("a日本b\ufffd")
    for place in range(len(ids) + 1):
        rows = torch.full((2, len(ids) + 1), -100)
        rows[0, :place] = torch.tensor(ids[:place])
        rows[1, : len(ids) - place] = torch.tensor(ids[place:])
        rows[1, len(ids) - place] = tokenizer.eos_id
        assert text_bytes(tokenizer, rows) == len("a日本b\ufffd".encode()) == 11


def test_no_tokens():
    mean, perplexity = TokenMean(), TokenPerplexity()
    for metric in (mean, perplexity):
        metric.update(torch.tensor(0.0), torch.tensor(0))
    assert mean.compute() == 0
    assert perplexity.compute() == 1


def test_counts_past_the_integers_of_float32():
    mean = TokenMean()
    mean.update(torch.tensor(0.0), torch.tensor(2**24))
    mean.update(torch.tensor(0.0), torch.tensor(1))
    assert mean.count == 2**24 + 1


def test_counts_on_in_a_module_of_half_precision():
    stage = StageMetrics().to(torch.bfloat16)  # what Lightning's `bf16-true` does: 256 + 1 is 256 there
    for _ in range(2):
        for _ in range(1000):
            stage.loss.update(torch.tensor(1.0), torch.tensor(2))
        assert stage.loss.compute() == 0.5
        stage.loss.reset()
