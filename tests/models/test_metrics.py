import torch
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import Perplexity

from litseq.models.loss import token_cross_entropy
from litseq.models.metrics import StageMetrics, TokenMean, TokenPerplexity


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
