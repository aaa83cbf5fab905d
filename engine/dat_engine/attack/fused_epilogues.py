"""Convolutions of an attack model that take bias, residual and ReLU along: cuDNN does all of it in one launch.

A folded convolution of a ResNet is followed by nothing else. In the backward pass the ReLU's mask comes from the result, and
the weights, constants of an attack, get no gradient.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dat_engine.model.copying import acts_as_its_type

_TAKEN_BY_CUDNN = (torch.float32, torch.float16, torch.bfloat16)

_RELUS: tuple[Callable[..., Any] | str, ...] = (
    functional.relu,
    functional.relu_,
    torch.relu,
    torch.relu_,
    "relu",
    "relu_",
)
_SUMS: tuple[Callable[..., Any] | str, ...] = (operator.add, torch.add, "add")
_SUMS_IN_PLACE: tuple[Callable[..., Any] | str, ...] = (operator.iadd, "add_")


@torch.library.custom_op("dat_engine::convolution_relu", mutates_args=())
def convolution_relu(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """relu(conv2d(images, weight) + bias + residual), with gradients to images and residual alone.

    Args:
        images, weight, bias: [B, C, H, W], [K, C, kernel, kernel], [K], of one floating dtype.
        residual: of the result's shape and dtype, or None.

    One launch on a GPU; not so in float64, and where deterministic algorithms are asked for, which torch's function of
    cuDNN's fused convolution does not listen to.
    """
    if not _by_cudnn(images):
        features = torch.conv2d(images, weight, bias, stride, padding, dilation)
        return (features if residual is None else features.add_(residual)).relu_()
    if residual is None:
        return torch.cudnn_convolution_relu(images, weight, bias, stride, padding, dilation, 1)
    return torch.cudnn_convolution_add_relu(images, weight, residual, 1.0, bias, stride, padding, dilation, 1)


def _by_cudnn(images: Tensor) -> bool:
    cudnn = torch.backends.cudnn
    asked_to_repeat = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    return images.is_cuda and images.dtype in _TAKEN_BY_CUDNN and cudnn.enabled and not asked_to_repeat


@convolution_relu.register_fake
def _(images: Tensor, weight: Tensor, bias: Tensor, residual: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    return torch.conv2d(images, weight, None, stride, padding, dilation)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, weight, _, _, *ctx.geometry = inputs
    ctx.save_for_backward(images, weight, output)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    images, weight, output = ctx.saved_tensors
    gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
    of_images: Tensor | None = None
    if ctx.needs_input_grad[0]:
        of_images = torch.ops.aten.convolution_backward(
            gradient, images, weight, None, *ctx.geometry, False, [0, 0], 1, [True, False, False]
        )[0]
    return of_images, None, None, gradient if ctx.needs_input_grad[3] else None, None, None, None


convolution_relu.register_autograd(_differentiate, setup_context=_keep)


class FusedConvolution(nn.Module):
    """``relu(layer(images))``, or ``relu(layer(images) + residual)``."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor, residual: Tensor | None = None) -> Tensor:
        layer = self.layer
        # a sum may spread or convert one of its terms
        if residual is not None and not self._is_like_the_result(residual, images):
            return functional.relu(layer(images) + residual)
        result: Tensor = convolution_relu(
            images, layer.weight, layer.bias, residual, layer.stride, layer.padding, layer.dilation
        )
        return result

    def _is_like_the_result(self, residual: Tensor, images: Tensor) -> bool:
        return residual.dtype == images.dtype and residual.shape == self._result_shape(images)

    def _result_shape(self, images: Tensor) -> tuple[int, ...]:
        layer = self.layer
        assert not isinstance(layer.padding, str)  # `_fuses`
        sizes = zip(images.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
        edges = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in sizes
        )
        return (images.shape[0], layer.out_channels, *edges)


def fuse_epilogues(module: fx.GraphModule) -> None:
    """Have every convolution of a folded attack model whose result goes into a ReLU, or into a sum and then a ReLU, do both.

    In place. Taken are convolutions with a bias, which folding gives them, one group, and zeros around the image; one that
    is called more than once, or whose result goes elsewhere too, stays as it is.
    """
    graph = module.graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for relu in list(graph.nodes):
        if not _is_relu(relu, module):
            continue
        for convolution, *residual in _ways_into(relu):
            name = str(convolution.target)
            if convolution.op != "call_module" or called.count(name) > 1 or not _fuses(convolution, module):
                continue
            _replace(module, name, FusedConvolution(module.get_submodule(name)))  # type: ignore[arg-type]
            # where the plain ones stand: what is written to in place behind them is still as they find it
            with graph.inserting_before(relu.args[0]):
                fused = graph.call_module(name, (convolution.args[0], *residual))
            relu.replace_all_uses_with(fused)
            for node in (relu, *(relu.args[:1] if residual else ()), convolution):
                graph.erase_node(node)
            break
    module.recompile()


def _ways_into(relu: fx.Node) -> Iterator[tuple[fx.Node, ...]]:
    """What the ReLU is taken of: a node that nothing else reads; or, of a sum of two, each such term and then the other."""
    given = relu.args[0]
    if not isinstance(given, fx.Node) or len(given.users) > 1:
        return
    if not _calls(given, *_SUMS, *_SUMS_IN_PLACE) or given.kwargs:
        yield (given,)
        return
    one, other = given.args
    if isinstance(one, fx.Node) and isinstance(other, fx.Node) and one is not other:
        if len(one.users) == 1:
            yield one, other
        if len(other.users) == 1 and _calls(given, *_SUMS):  # in place, the first one is written to
            yield other, one


def _calls(node: fx.Node, *targets: Callable[..., Any] | str) -> bool:
    return node.op in ("call_function", "call_method") and node.target in targets


def _is_relu(node: fx.Node, module: fx.GraphModule) -> bool:
    if not node.args:
        return False
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return type(layer) is nn.ReLU and acts_as_its_type(layer)
    return _calls(node, *_RELUS)


def _fuses(convolution: fx.Node, module: fx.GraphModule) -> bool:
    layer = module.get_submodule(str(convolution.target))
    return (
        type(layer) is nn.Conv2d
        and acts_as_its_type(layer)
        and layer.bias is not None
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and len(convolution.args) == 1
        and not convolution.kwargs
    )


def _replace(module: fx.GraphModule, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)
    module.folded_into[name] = None  # type: ignore[index, operator, assignment]  # no layer of the model gives what it gives
