"""Text and token ids: tokenizers and how a text becomes a model's prompt. A light room."""

from litseq.text.prompt_format import PromptFormat
from litseq.text.streaming import StreamDecoder
from litseq.text.tokenizer import Tokenizer

__all__ = ["PromptFormat", "StreamDecoder", "Tokenizer"]
