"""Generation over token ids: options, processors and the one loop. It knows no text, no files and no onnxruntime."""

from litseq.generation.engine import Engine as Engine
from litseq.generation.engine import checked as checked
from litseq.generation.engine import run as run
from litseq.generation.options import GenerationOptions as GenerationOptions
from litseq.generation.reuse import PrefixStore as PrefixStore
from litseq.generation.row import FinishReason as FinishReason
from litseq.generation.row import Request as Request
from litseq.generation.row import Result as Result
from litseq.generation.step_model import FloatArray as FloatArray
from litseq.generation.step_model import IntArray as IntArray
from litseq.generation.step_model import Prompt as Prompt
from litseq.generation.step_model import Saved as Saved
from litseq.generation.step_model import Scores as Scores
from litseq.generation.step_model import StepModel as StepModel

__all__ = [
    "Engine",
    "FinishReason",
    "FloatArray",
    "GenerationOptions",
    "IntArray",
    "PrefixStore",
    "Prompt",
    "Request",
    "Result",
    "Saved",
    "Scores",
    "StepModel",
    "checked",
    "run",
]
