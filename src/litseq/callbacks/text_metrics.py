"""`TextMetrics`: what a model generates in validation, scored against the references."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.text import CHRFScore, SacreBLEUScore

from litseq.errors import UsageError
from litseq.models import SequenceModule
from litseq.models.predict import generate_ids
from litseq.nn.batch import IGNORE_INDEX

Pair = tuple[list[int], list[int]]


class TextMetrics(Callback):
    """Generate from some validation examples, and log BLEU and chrF of the texts, as percentages like sacrebleu.

    Generation goes through the loop that serves as well (`litseq.generation`), greedily unless the options say more; it
    reads each row again at every step, so `limit` decides what it costs. `val/bleu` is sacreBLEU's (`13a` tokens,
    https://aclanthology.org/W18-6319), `val/chrf` is chrF2 (https://aclanthology.org/W15-3049). Where an averaging callback
    is there, the average generates.

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
        self.bleu = SacreBLEUScore()
        self.chrf = CHRFScore(n_word_order=0)
        self._validations = 0
        self._pairs: list[Pair] = []
        self._scored = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self._pairs, self._scored = [], False
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
        """Keep prompts and references; generate behind the last batch, while averaged weights are still in place."""
        if not self._is_due(trainer) or dataloader_idx != 0:
            return
        assert isinstance(pl_module, SequenceModule)
        self._pairs += examples(pl_module, batch)
        if batch_idx + 1 == trainer.num_val_batches[0]:
            self._score(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        if not self._is_due(trainer):
            return
        assert isinstance(pl_module, SequenceModule)
        if not self._scored:  # a loader of unknown length
            self._score(trainer, pl_module)
        for name, metric in (("val/bleu", self.bleu), ("val/chrf", self.chrf)):
            share = metric.compute()  # over all ranks: a metric gathers
            assert isinstance(share, Tensor)
            pl_module.log(name, 100 * share.to(pl_module.device))
            metric.reset()

    def _is_due(self, trainer: Trainer) -> bool:
        return not trainer.sanity_checking and self._validations % self.every_n_validations == 0

    def _score(self, trainer: Trainer, module: SequenceModule) -> None:
        self._scored = True
        tokenizer = module.record.load_tokenizer()
        if tokenizer is None:
            raise UsageError("TextMetrics needs texts, and no tokenizer is known: use a data module with one")
        # Evenly spread: a bucketed loader hands out the shortest first.
        share = min(len(self._pairs), -(-self.limit // trainer.world_size))
        places = np.linspace(0, max(len(self._pairs) - 1, 0), share).round().astype(int)
        chosen = [self._pairs[place] for place in places.tolist()]
        longest = max((len(reference) for _, reference in chosen), default=1)
        limit = self.max_new_tokens or longest + longest // 2 + 1
        options = module.generation_options() | {"max_new_tokens": limit} | self.options
        outputs = generate_ids(module, [prompt for prompt, _ in chosen], options)
        texts = [tokenizer.decode(ids) for ids in outputs]
        references = [[tokenizer.decode(reference)] for _, reference in chosen]
        for metric in (self.bleu, self.chrf):
            metric.to(module.device)
            metric.update(texts, references)


def examples(module: SequenceModule, batch: Mapping[str, Tensor]) -> list[Pair]:
    """The prompt and the reference of every row of a batch.

    Raises:
        UsageError: The rows are packed documents, in which nothing is a prompt.
    """
    if "segment_ids" in batch:
        raise UsageError(
            "TextMetrics needs prompts and references, and packed blocks have none: use objective='prefix'"
        )
    prompts = module.prompts(batch)
    labels = batch["labels"].tolist()
    if module.architecture == "decoder-only":  # with the loss on everything, the prompt has labels too
        labels = [row[len(prompt) - 1 :] for row, prompt in zip(labels, prompts, strict=True)]
    return [
        (prompt, [label for label in row if label != IGNORE_INDEX])
        for prompt, row in zip(prompts, labels, strict=True)
    ]  # fmt: skip
