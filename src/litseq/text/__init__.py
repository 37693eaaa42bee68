"""Text and token ids: tokenizers, and how a text or a conversation becomes a model's prompt. A light room."""

from litseq.text.chat_format import ChatFormat
from litseq.text.chat_template import ChatTemplate
from litseq.text.chatml import CHATML
from litseq.text.messages import Message
from litseq.text.prompt_format import PromptFormat
from litseq.text.streaming import StreamDecoder
from litseq.text.tokenizer import Tokenizer

__all__ = ["CHATML", "ChatFormat", "ChatTemplate", "Message", "PromptFormat", "StreamDecoder", "Tokenizer"]
