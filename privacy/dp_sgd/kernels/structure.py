"""Which of a model's modules the fast kernel can take, and whether parameters are used in their layers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from fedsim.privacy.dp_sgd.calls import Call, Calls

OWN = (nn.Linear, nn.Conv2d, nn.Embedding, nn.GroupNorm, nn.LayerNorm, nn.LSTM)
"""The fast kernel's layers; exactly these types, since a subclass may compute something else."""


def opacus_knows(kind: type[nn.Module]) -> bool:
    """Return whether Opacus has a grad sampler for this layer with one input tensor."""
    from opacus.grad_sample import GradSampleModule
    from opacus.layers.dp_rnn import RNNLinear

    # RNNLinear gets single time steps, EmbeddingBag offsets: neither has the batch as its first dimension.
    return kind in GradSampleModule.GRAD_SAMPLERS and kind not in (RNNLinear, nn.EmbeddingBag)


def examplewise_paths(model: nn.Module, calls: Calls) -> set[str]:
    """Return the paths of the modules that the fast kernel can't take, but must run example by example.

    A module whose calls don't show its batch is run within the one that has it.
    """
    owners = Counter(p for _, module in model.named_modules() for p in set(module.parameters(recurse=False)))
    chosen: set[str] = set()
    for path, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own or not calls[path] or not any(p.requires_grad for p in module.parameters()):
            continue
        if _taken(module, calls[path]) and all(owners[p] == 1 for p in own):
            continue
        while path and not _has_batch(calls[path]):
            path = path.rpartition(".")[0]
        if not _has_batch(calls[path]):
            raise ValueError(f"{type(module).__name__}: its calls don't show which dimension is the batch")
        chosen.add(path)
    return {path for path in chosen if not any(within(path, other) for other in chosen - {path})}


def within(path: str, outer: str) -> bool:
    """Return whether a module is another one or inside of it."""
    return not outer or path == outer or path.startswith(f"{outer}.")


def _has_batch(calls: Sequence[Call | None]) -> bool:
    return bool(calls) and all(
        call is not None and set(call.given) != {None} and set(call.made) - {None} for call in calls
    )


def _taken(module: nn.Module, calls: Sequence[Call | None]) -> bool:
    """Return whether a layer is one that the fast kernel knows, called once, with one batch."""
    kind = type(module)
    if len(calls) != 1 or (call := calls[0]) is None or len(call.given) != 1:
        return False
    if kind is nn.LSTM and isinstance(module, nn.LSTM):
        plain = not (module.bidirectional or module.proj_size or (module.dropout and module.num_layers > 1))
        return plain and call.given == (0 if module.batch_first else 1,)
    names = {name for name, _ in module.named_parameters(recurse=False)}
    if isinstance(module, _ConvNd) and module.padding_mode != "zeros":
        return False
    known = kind in OWN or opacus_knows(kind)
    return known and call.given == call.made == (0,) and (kind not in OWN or names <= {"weight", "bias"})


@contextmanager
def outputs_of_layers(model: nn.Module) -> Iterator[list[GradientEdge]]:
    """Note, inside the block, where outputs of modules with parameters of their own are in autograd's graph."""
    edges: list[GradientEdge] = []

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
        edges.extend(get_gradient_edge(t) for t in tensors)

    handles = [
        module.register_forward_hook(hook)
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        yield edges
    finally:
        for handle in handles:
            handle.remove()


def check_inside(model: nn.Module, losses: Tensor, edges: Sequence[GradientEdge]) -> None:
    """Refuse losses whose gradient reaches a parameter other than through these outputs of layers.

    Raises:
        ValueError: Names the parameter, as the weight of an embedding that is also the head's.
    """
    closed = {edge.node for edge in edges}
    names = {p: name for name, p in model.named_parameters()}
    waiting = [get_gradient_edge(losses).node] if losses.requires_grad else []
    while waiting:
        node = waiting.pop()
        if node in closed:
            continue
        closed.add(node)
        if (name := names.get(getattr(node, "variable", None))) is not None:  # type: ignore[arg-type]
            raise ValueError(f"{name} is used outside of its layer")
        waiting.extend(following for following, _ in node.next_functions if following is not None)
