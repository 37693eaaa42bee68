"""A bundle is a directory with everything needed to run a model: manifest, tokenizer, graphs, weights."""

from litseq.bundle.manifest import ARCHITECTURES as ARCHITECTURES
from litseq.bundle.manifest import FORMAT_VERSION as FORMAT_VERSION
from litseq.bundle.manifest import MANIFEST_NAME as MANIFEST_NAME
from litseq.bundle.manifest import CacheTensor as CacheTensor
from litseq.bundle.manifest import CrossTensor as CrossTensor
from litseq.bundle.manifest import DecoderGraph as DecoderGraph
from litseq.bundle.manifest import EncoderGraph as EncoderGraph
from litseq.bundle.manifest import FileEntry as FileEntry
from litseq.bundle.manifest import Golden as Golden
from litseq.bundle.manifest import Manifest as Manifest
from litseq.bundle.manifest import ModelInfo as ModelInfo
from litseq.bundle.manifest import TokenizerInfo as TokenizerInfo
from litseq.bundle.reading import Bundle as Bundle
from litseq.bundle.reading import open_bundle as open_bundle
from litseq.bundle.reading import read_manifest as read_manifest
from litseq.bundle.writing import BundleDraft as BundleDraft
from litseq.bundle.writing import check_target as check_target
from litseq.bundle.writing import create_bundle as create_bundle

__all__ = [
    "ARCHITECTURES",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Bundle",
    "BundleDraft",
    "CacheTensor",
    "CrossTensor",
    "DecoderGraph",
    "EncoderGraph",
    "FileEntry",
    "Golden",
    "Manifest",
    "ModelInfo",
    "TokenizerInfo",
    "check_target",
    "create_bundle",
    "open_bundle",
    "read_manifest",
]
