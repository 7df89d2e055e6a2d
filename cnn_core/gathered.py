"""Data-parallel training of large linear layers: their inputs are exchanged instead of their gradients.

A linear layer's gradient is a product of two thin matrices: what came in, (images, in), and what came back, (images,
out). AlexNet's two largest have 54.5 million weights, 218 MB that `DistributedDataParallel` would sum over the ranks at
each step; the matrices of a global batch of 128 have 11 MB. So every rank gathers them and multiplies for all images
what it would else have multiplied for its own. Ranks on processors of one kind compute the same to the last bit.

Xie et al., "Lighter-Communication Distributed Machine Learning via Sufficient Factor Broadcasting" (UAI 2016); Zhang et
al., "Poseidon" (USENIX ATC 2017), which chooses layer by layer as here.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_core.sharded_step import Held

WORTH = 4  # times as many numbers in the weights as in the matrices: below that, the product for all images costs more


@dataclasses.dataclass
class Share:
    """``rows``: the most images that a rank has of the present global batch; ranks with fewer send zeros behind.

    ``held``: of weights that the ranks hold together, what this rank needs of the gradient (`cnn_core.sharded_step`).
    ``under_way``: what is being exchanged. Nobody waits for it while the layers below go backward: `finish` does.
    """

    rows: int = 0
    held: Mapping[nn.Parameter, Held] = dataclasses.field(default_factory=dict)
    under_way: list[_Exchange] = dataclasses.field(default_factory=list)

    def finish(self) -> None:
        """After each backward pass: give the layers their gradients."""
        for exchange in self.under_way:
            exchange.finish()
        self.under_way.clear()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Exchange:
    layer: nn.Linear
    held: Held | None
    work: dist.Work
    own: Tensor  # (rows, in + out), kept until it is sent
    every: Tensor  # (ranks * rows, in + out)

    def finish(self) -> None:
        self.work.wait()
        seen, returned = self.every.split([self.layer.in_features, self.layer.out_features], 1)
        returned = returned / dist.get_world_size()
        if self.held is None:
            _add_gradient(self.layer.weight, returned.T @ seen)
        else:
            _add_gradient(self.held.own, returned[:, self.held.part].T @ seen)
        if self.layer.bias is not None and self.layer.bias.requires_grad:
            _add_gradient(self.layer.bias, returned.sum(0))


def _add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    gradient = gradient.to(parameter.dtype)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def large_layers(network: nn.Module, image: Tensor, *, batch_size: int) -> list[str]:
    """The names of the linear layers whose gradients are better gathered: those with many weights that see one row an
    image. What a layer sees is tried on ``image``, (1, C, H, W): the layers of transformers have many rows an image,
    and the weights of some are used without the layer being called, so that nobody would exchange their gradients.
    """
    worth = {
        name: module
        for name, module in network.named_modules()
        if name
        and type(module) is nn.Linear
        and module.weight.numel() >= WORTH * batch_size * (module.in_features + module.out_features)
    }
    seen: dict[str, list[int]] = {name: [] for name in worth}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0].ndim))
        for name, module in worth.items()
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(image)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return [name for name, ranks in seen.items() if ranks == [2]]  # called once


def gather_factors(network: nn.Module, layers: Sequence[str], share: Share) -> list[str]:
    """Change these layers so that their gradients are the means over the ranks: ``share.rows`` is to be set before each
    backward pass, and ``share.finish()`` called after it.

    Returns:
        The names of the parameters that nobody else needs to sum.
    """
    names: list[str] = []
    for name in layers:
        module = network.get_submodule(name)
        module.forward = types.MethodType(_forward(share), module)
        names += [f"{name}.{own}" for own, _ in module.named_parameters()]
    return names


def broadcast_parameters(network: nn.Module, names: Sequence[str]) -> None:
    """Give every rank the first one's parameters of these names."""
    for name in names:
        dist.broadcast(network.get_parameter(name).data, src=0)


def _forward(share: Share) -> Any:
    def forward(self: nn.Linear, inputs: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return F.linear(inputs, self.weight, self.bias)
        assert inputs.ndim == 2, "as when it was tried"
        weight, bias, kind = self.weight, self.bias, inputs.device.type
        if torch.is_autocast_enabled(kind):  # as autocast would cast them: their gradients are cast back by autograd
            dtype, held = torch.get_autocast_dtype(kind), share.held.get(self.weight)
            ready = None if held is None else held.cast
            weight = weight.to(dtype) if ready is None else ready
            inputs, bias = inputs.to(dtype), None if bias is None else bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            return _Gathered.apply(inputs, weight, bias, self.weight, self, share)

    return forward


class _Gathered(torch.autograd.Function):
    """A linear layer whose backward pass begins the exchange, and leaves the weights' gradient to `Share.finish`."""

    @staticmethod
    def forward(
        context: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        _learns: nn.Parameter,  # for autograd: ``weight`` may be a cast of it that autograd has not seen made
        layer: nn.Linear,
        share: Share,
    ) -> Tensor:
        context.save_for_backward(inputs, weight)
        context.layer, context.share = layer, share
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(context: Any, given: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        inputs, weight = context.saved_tensors
        layer, share = context.layer, context.share
        own = torch.cat([inputs, given], 1)
        assert len(own) <= share.rows, "the ranks' parts of a batch differ by one image at most"
        if len(own) < share.rows:
            own = F.pad(own, (0, 0, 0, share.rows - len(own)))
        world = dist.get_world_size()
        every = own.new_empty(world * len(own), own.shape[1])
        work = dist.all_gather(list(every.chunk(world)), own, async_op=True)
        share.under_way.append(
            _Exchange(layer=layer, held=share.held.get(layer.weight), work=work, own=own, every=every)
        )
        return given @ weight if context.needs_input_grad[0] else None, None, None, None, None, None
