"""Run a bundle with onnxruntime: no torch from here on."""

from litseq.runtime.completion import Completion as Completion
from litseq.runtime.completion import TargetScore as TargetScore
from litseq.runtime.generator import Generator as Generator
from litseq.runtime.prompts import PromptLike as PromptLike
from litseq.runtime.scheduler import Pending as Pending
from litseq.runtime.scheduler import Scheduler as Scheduler
from litseq.runtime.sessions import share_threads as share_threads

__all__ = ["Completion", "Generator", "Pending", "PromptLike", "Scheduler", "TargetScore", "share_threads"]
