"""`TextMetrics`: what a model generates in validation, scored against the references."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor
from torchmetrics import Metric

from litseq.callbacks.order import come_before
from litseq.errors import UsageError
from litseq.models import SequenceModule
from litseq.models.predict import generate_ids
from litseq.nn.batch import IGNORE_INDEX
from litseq.text.corpus_sums import score_of_sums, text_sums

Pair = tuple[list[int], list[int]]


class CorpusScore(Metric):
    """A score of sacrebleu's over the texts of all ranks.

    torchmetrics' BLEU is 0 where no four words in a row are right, and its chrF forgets the references of outputs that
    have nothing in common with them: with a tenth of the outputs empty, 75 became 85.
    """

    full_state_update = False
    higher_is_better = True
    sums: Tensor

    def __init__(self, scorer: Any) -> None:
        super().__init__()
        self.scorer = scorer
        (row,) = text_sums(scorer, ["a"], ["a"])
        self.add_state("sums", torch.zeros(len(row), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, texts: list[str], references: list[str]) -> None:
        """Add texts, each with the one it should be."""
        if texts:
            self.sums += torch.tensor(text_sums(self.scorer, texts, references), device=self.sums.device).sum(dim=0)

    def compute(self) -> Tensor:
        """The score as a percentage."""
        return torch.tensor(score_of_sums(self.scorer, self.sums.tolist()), device=self.sums.device)


class TextMetrics(Callback):
    """Generate from some validation examples, and log BLEU and chrF of the texts, as percentages like sacrebleu.

    Generation goes through the loop that serves as well (`litseq.generation`), greedily unless the options say more; it
    reads each row again at every step, so `limit` decides what it costs. Of a conversation every answer is an example.
    `val/bleu` is sacreBLEU's (`13a` tokens, https://aclanthology.org/W18-6319), `val/chrf` is chrF2
    (https://aclanthology.org/W15-3049). Where an averaging callback is there, the average generates.

    Args:
        limit: Examples to generate from, spread over the whole validation set; they are the same every time.
        every_n_validations: Generate at every n-th validation only.
        max_new_tokens: Tokens of an output at most. None: as many as the longest reference of the chosen examples has,
            and half as many more.
        options: More options of generation, such as `{"repetition_penalty": 1.2}`.
    """

    def __init__(
        self,
        limit: int = 200,
        every_n_validations: int = 1,
        max_new_tokens: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        if limit < 1 or every_n_validations < 1:
            raise ValueError(
                f"TextMetrics: limit is {limit} and every_n_validations {every_n_validations}, expected at least 1 each"
            )
        self.limit = limit
        self.every_n_validations = every_n_validations
        self.max_new_tokens = max_new_tokens
        self.options = dict(options or {})
        self.bleu, self.chrf = CorpusScore(BLEU(force=True)), CorpusScore(CHRF())
        self._validations = 0
        self._pairs: list[Pair] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come before an averaging callback, which takes the average out again at the end of a validation."""
        come_before(trainer, self, WeightAveraging)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self._pairs = []
        self._validations += not trainer.sanity_checking

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Mapping[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep prompts and references."""
        if not self._is_due(trainer) or dataloader_idx != 0:
            return
        assert isinstance(pl_module, SequenceModule)
        self._pairs += examples(pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generate and log."""
        if not self._is_due(trainer):
            return
        assert isinstance(pl_module, SequenceModule)
        self._score(trainer, pl_module)
        for name, metric in (("val/bleu", self.bleu), ("val/chrf", self.chrf)):
            pl_module.log(name, metric.compute())  # over all ranks: a metric gathers
            metric.reset()

    def _is_due(self, trainer: Trainer) -> bool:
        return not trainer.sanity_checking and self._validations % self.every_n_validations == 0

    def _score(self, trainer: Trainer, module: SequenceModule) -> None:
        tokenizer = module.record.load_tokenizer()
        if tokenizer is None:
            raise UsageError("TextMetrics needs texts, and no tokenizer is known: use a data module with one")
        # Evenly spread: a bucketed loader hands out the shortest first.
        share = min(len(self._pairs), -(-self.limit // trainer.world_size))
        places = np.linspace(0, max(len(self._pairs) - 1, 0), share).round().astype(int)
        chosen = [self._pairs[place] for place in places.tolist()]
        own = torch.tensor(max((len(reference) for _, reference in chosen), default=1), device=module.device)
        longest = int(trainer.strategy.reduce(own, reduce_op="max"))  # of all ranks, whoever has it
        limit = self.max_new_tokens or longest + longest // 2 + 1
        options = module.generation_options() | {"max_new_tokens": limit} | self.options
        outputs = generate_ids(module, [prompt for prompt, _ in chosen], options)
        texts = [tokenizer.decode(ids) for ids in outputs]
        references = [tokenizer.decode(reference) for _, reference in chosen]
        for metric in (self.bleu, self.chrf):
            metric.to(module.device)
            metric.update(texts, references)


def examples(module: SequenceModule, batch: Mapping[str, Tensor]) -> list[Pair]:
    """The prompts and the references of a batch: one a row, or one for every answer in a conversation.

    Raises:
        UsageError: The rows are packed documents, in which nothing is a prompt.
    """
    if "segment_ids" in batch:
        raise UsageError(
            "TextMetrics needs prompts and references, and packed blocks have none: use objective='prefix'"
        )
    labels = batch["labels"].tolist()
    if module.architecture == "decoder-only" and "prefix_lengths" not in batch:
        return [pair for row in zip(batch["input_ids"].tolist(), labels, strict=True) for pair in _answers(*row)]
    prompts = module.prompts(batch)
    if module.architecture == "decoder-only":  # with the loss on everything, the prompt has labels too
        labels = [row[len(prompt) - 1 :] for row, prompt in zip(labels, prompts, strict=True)]
    return [
        (prompt, [label for label in row if label != IGNORE_INDEX])
        for prompt, row in zip(prompts, labels, strict=True)
    ]  # fmt: skip


def _answers(ids: list[int], labels: list[int]) -> Iterator[Pair]:
    """Every stretch of labels, behind all that comes before it."""
    for labelled, places in groupby(range(len(labels)), lambda place: labels[place] != IGNORE_INDEX):
        if labelled:
            stretch = list(places)
            yield ids[: stretch[0] + 1], [labels[place] for place in stretch]
