"""DataModules: files of text in, batches for either architecture out."""

from litseq.data.base import SequenceDataModule
from litseq.data.conversations import ConversationDataModule
from litseq.data.pairs import PairDataModule
from litseq.data.text import TextDataModule

__all__ = ["ConversationDataModule", "PairDataModule", "SequenceDataModule", "TextDataModule"]
