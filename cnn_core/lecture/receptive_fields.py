"""How much of the input an output sees, and how far apart two outputs see: for any network, by watching it run.

Each convolution and pool widens the field by (kernel - 1) dilation of its input's steps, and multiplies the step by its
stride (Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill 2019). Where
paths join, as around a residual block, the widest field counts. The operations are observed as torch runs them, so it
makes no difference which modules contain them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclasses.dataclass(frozen=True)
class Field:
    """The receptive field of a layer's outputs.

    Attributes:
        size: pixels of the input's side that one output sees, beyond the image's border too, where the padding is.
        step: pixels from one output to the next.
        is_global: each output sees all positions, as behind a global pool or attention, or in front of a fully
            connected layer. The size is then that of the kernels before.
    """

    size: int
    step: int
    is_global: bool = False

    def through(self, kernel: int, stride: int, dilation: int = 1) -> Field:
        return Field(self.size + dilation * (kernel - 1) * self.step, self.step * stride, self.is_global)


class ReceptiveFields(TorchDispatchMode):
    """A context that follows the field of each tensor computed from ``inputs``, (N, C, H, W) or (N, C, T).

    ``fields[id(tensor)]`` holds as long as this object lives. Only the last axis is followed, as most kernels are
    square.
    """

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.fields = {id(inputs): Field(1, 1)}
        self._alive: list[Tensor] = [inputs]  # keeps the tensors, as a freed tensor's id may be used again

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        followed = [each for each in _tensors(args) if id(each) in self.fields]
        if followed:
            widest = max((self.fields[id(each)] for each in followed), key=lambda field: (field.size, field.is_global))
            field = _through(func.name().removeprefix("aten::").partition(".")[0], widest, followed[0], args)
            for output in _tensors(outputs):
                self.fields[id(output)] = field
                self._alive.append(output)
        return outputs


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _through(name: str, field: Field, seen: Tensor, args: Sequence[Any]) -> Field:
    if name in _MOVING:
        return field.through(*_MOVING[name](args))
    if name in _ADAPTIVE and (parts := args[1][-1]) > 1:
        return field.through(-(-seen.shape[-1] // parts), max(1, seen.shape[-1] // parts))
    flattens = name == "flatten" or (name in _RESHAPING and seen.ndim > 2 and len(args[1]) == 2)
    return dataclasses.replace(field, is_global=True) if flattens or name in _GLOBAL else field


def _convolution(args: Sequence[Any]) -> tuple[int, int, int]:
    weight, stride, dilation, transposed = args[1], args[3], args[5], args[6]
    if transposed:  # inputs a stride apart stamp each output: the field grows no wider, and its step no coarser
        return 1, 1, 1
    return weight.shape[-1], stride[-1], dilation[-1]


def _pool(args: Sequence[Any]) -> tuple[int, int]:
    kernel = args[1][-1]
    return kernel, args[2][-1] if len(args) > 2 and args[2] else kernel


_MOVING: dict[str, Callable[[Sequence[Any]], tuple[int, ...]]] = {
    "convolution": _convolution,
    "mkldnn_convolution": lambda args: (args[1].shape[-1], args[4][-1], args[5][-1]),
    "max_pool2d_with_indices": _pool,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "max_pool1d": _pool,
}
# Each output sees all positions: by a pool over all of them, or by attention.
_ADAPTIVE = {"_adaptive_avg_pool2d", "adaptive_avg_pool2d"}
_GLOBAL = {*_ADAPTIVE, "mean", "bmm", "_softmax"}
_GLOBAL |= {"_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention"}
_GLOBAL |= {"_native_multi_head_attention", "_transformer_encoder_layer_fwd"}
# These join positions and channels in one axis, before a fully connected layer.
_RESHAPING = {"view", "_unsafe_view", "reshape"}


def output_fields(network: torch.nn.Module, inputs: Tensor) -> dict[str, Field]:
    """Return the field of the last output of each module, by its name; the network is run in evaluation mode."""
    fields: dict[str, Field] = {}
    follower = ReceptiveFields(inputs)

    def note(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and id(output) in follower.fields:
                fields[name] = follower.fields[id(output)]

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad(), follower:
            network.eval()(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return fields
