"""The parts of each layer's parameters, from the layer's input and the loss's gradient at its output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.kernels.buffer_pool import BufferPool
from fedsim.privacy.dp_sgd.kernels.convolution import convolution_part
from fedsim.privacy.dp_sgd.kernels.param_gradients import Part, Product, Rows, lookup_part


def layer_parts(
    module: nn.Module, trained: Collection[str], x: Tensor, gradient: Tensor, pool: BufferPool
) -> Iterator[tuple[str, Part]]:
    """Yield the name and the part of each trainable parameter of one module.

    Args:
        module: Of a kind that the validator accepts, except nn.LSTM.
        trained: Names of its own trainable parameters.
        x: Its input `(B, ...)`.
        gradient: Gradient of the summed losses at its output `(B, ...)`.
        pool: Where per-example gradients go.
    """
    kind = _KINDS.get(type(module))
    return (kind or _by_opacus)(module, trained, x, gradient, pool)


def _linear(
    layer: nn.Linear, trained: Collection[str], x: Tensor, gradient: Tensor, pool: BufferPool
) -> Iterator[tuple[str, Part]]:
    inputs, outputs = _positions(x), _positions(gradient)
    if "weight" in trained:
        yield "weight", Product(inputs, outputs, pool)
    if "bias" in trained:
        yield "bias", Rows(outputs.sum(1))


def _positions(x: Tensor) -> Tensor:
    """Return `(B, ..., C)` as `(B, T, C)`."""
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)


def _conv2d(
    layer: nn.Conv2d, trained: Collection[str], x: Tensor, gradient: Tensor, pool: BufferPool
) -> Iterator[tuple[str, Part]]:
    if layer.groups > 1:
        yield from _by_opacus(layer, trained, x, gradient, pool)
        return
    if "weight" in trained:
        yield "weight", convolution_part(layer, x, gradient, pool)
    if "bias" in trained:
        yield "bias", Rows(gradient.sum((2, 3)))


def _embedding(
    layer: nn.Embedding, trained: Collection[str], x: Tensor, gradient: Tensor, pool: BufferPool
) -> Iterator[tuple[str, Part]]:
    tokens, outputs = x.reshape(len(x), -1), gradient.reshape(len(x), -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        outputs = outputs.masked_fill((tokens == layer.padding_idx).unsqueeze(2), 0.0)
    yield "weight", lookup_part(layer.num_embeddings, tokens, outputs)


def _group_norm(
    layer: nn.GroupNorm, trained: Collection[str], x: Tensor, gradient: Tensor, pool: BufferPool
) -> Iterator[tuple[str, Part]]:
    if "weight" in trained:
        normal = F.group_norm(x, layer.num_groups, eps=layer.eps)
        yield "weight", Rows((normal * gradient).flatten(2).sum(2))
    if "bias" in trained:
        yield "bias", Rows(gradient.flatten(2).sum(2))


def _layer_norm(
    layer: nn.LayerNorm, trained: Collection[str], x: Tensor, gradient: Tensor, pool: BufferPool
) -> Iterator[tuple[str, Part]]:
    size = len(layer.normalized_shape)

    def summed(values: Tensor) -> Tensor:
        return values.reshape(len(x), -1, *values.shape[-size:]).sum(1)

    if "weight" in trained:
        yield ("weight", Rows(summed(F.layer_norm(x, layer.normalized_shape, eps=layer.eps) * gradient)))
    if "bias" in trained:
        yield "bias", Rows(summed(gradient))


def _by_opacus(
    layer: nn.Module, trained: Collection[str], x: Tensor, gradient: Tensor, pool: BufferPool
) -> Iterator[tuple[str, Part]]:
    """Yield per-example gradients by Opacus' grad sampler for this kind of layer, or a user's."""
    from opacus.grad_sample import GradSampleModule

    # Opacus' unfolding of images is wrong for channels_last.
    found = GradSampleModule.GRAD_SAMPLERS[type(layer)](layer, [x.contiguous()], gradient.contiguous())
    for name in trained:
        yield name, Rows(found[layer.get_parameter(name)])


_KINDS: dict[type[nn.Module], Callable[..., Iterator[tuple[str, Part]]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
