"""The layers of a module, and how they are spread over devices."""

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn

from litseq.nn import TransformerDecoder, TransformerEncoder


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of every stack, in order: what is compiled, wrapped or sharded one by one."""
    stacks = (part for part in module.modules() if isinstance(part, (TransformerEncoder, TransformerDecoder)))
    return [layer for stack in stacks for layer in stack.layers]


def shard_layers(module: nn.Module, strategy: Strategy) -> None:
    """Shard each layer, and then the rest, over the data-parallel devices of a `ModelParallelStrategy` (FSDP2).

    Under every other strategy nothing happens; nor does it when the module is sharded already.
    """
    if not isinstance(strategy, ModelParallelStrategy) or strategy._device_mesh is None:
        return
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = strategy.device_mesh["data_parallel"]
    for layer in layers_of(module):
        if not isinstance(layer, FSDPModule):
            fully_shard(layer, mesh=mesh)
    if not isinstance(module, FSDPModule):
        fully_shard(module, mesh=mesh)
