"""The part of a model's state that training may change: it travels, is averaged, clipped and noised.

The rest is the same for all clients and in all rounds. Server and clients build it from the experiment, and it is never
sent: frozen parameters, and buffers that training does not move, such as masks and positions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.arrays import Values
from fedsim.models.attributes import Attributes

EXTRA_STATE = "_extra_state"  # PyTorch's name for what `get_extra_state` returns, which is not sent


class ModelState:
    """The arrays of a model that training may change, each once.

    A tensor with several names (tied weights) is one array, under the first of its names in the state dict. Values of
    bfloat16 are float32 in arrays, for NumPy has no bfloat16.

    Args:
        model: In the mode in which it is trained.
        forward: Calls the model on a few examples: a buffer that changes in it is a statistic.

    Attributes:
        model: The model.
        parameters: Names of the trained parameters, in the order of the state dict.
        statistics: Names of what training moves without a gradient: the running mean and the counter of batch norm.
        constants: Names of the other arrays of the state dict.
        variances: Names of the statistics that are variances.
        unsaved: Names of buffers and attributes outside of the state dict that training moves.
        padding: The row of padding in a trained embedding, by name: no gradient reaches it.

    Raises:
        ValueError: The model has no trained parameter, or a tensor that is no array: quantised, complex, sparse, or not on
            the CPU. What `forward` raises is raised too.
    """

    def __init__(self, model: nn.Module, forward: Callable[[], object]) -> None:
        self.model = model
        state = {n: t for n, t in model.state_dict(keep_vars=True).items() if not n.endswith(EXTRA_STATE)}
        for name, tensor in state.items():
            if why := _why_no_array(tensor):
                raise ValueError(f"{name} {why}")
        first: dict[Hashable, str] = {}
        self._name_of = {name: first.setdefault(_place(tensor), name) for name, tensor in state.items()}
        once = {name: tensor for name, tensor in state.items() if self._name_of[name] == name}
        trained = {_place(parameter) for parameter in model.parameters() if parameter.requires_grad}
        self.parameters = tuple(name for name, tensor in once.items() if _place(tensor) in trained)
        if not self.parameters:
            raise ValueError("it has no parameter that is trained")
        self._buffers = _buffers(model)
        self._modes = [(module, module.training) for module in model.modules()]
        self._attributes = Attributes.of(model)
        moved = self._moved_by(forward)
        attributes = [name for each in self._attributes for name in each.reset()]
        buffers = [buffer.name for buffer in self._buffers if _place(buffer.tensor) in moved]
        self.unsaved = (*attributes, *(name for name in buffers if name not in state))
        self.statistics = tuple(
            name for name, tensor in once.items() if _place(tensor) in moved and name not in self.parameters
        )
        changing = {*self.parameters, *self.statistics}
        self.constants = tuple(name for name in once if name not in changing)
        self.variances = tuple(
            name
            for prefix, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            and (name := f"{prefix}.running_var".lstrip(".")) in self.statistics
        )
        self.padding = _padding_rows(model, self._name_of)
        self._padding_values = {
            n: _to_numpy(state[n].detach())[row].copy() for n, row in self.padding.items()
        }
        self._changing = {name: tensor.detach() for name, tensor in once.items() if name in changing}
        self._once = {name: tensor.detach() for name, tensor in once.items()}
        moving = {_place(self._once[name]) for name in self.statistics}
        self._moving = [buffer for buffer in self._buffers if _place(buffer.tensor) in moving]
        self._fixed = [buffer for buffer in self._buffers if _place(buffer.tensor) not in moving]

    @torch.no_grad()
    def _moved_by(self, forward: Callable[[], object]) -> set[Hashable]:
        """Return the places of what is not trained and changes in a forward pass, and undo the change."""
        frozen = [(p, p.clone()) for p in self.model.parameters() if not p.requires_grad]
        with torch.enable_grad():
            forward()
        moved = {_place(buffer.tensor) for buffer in self._buffers if buffer.reset()}
        for parameter, value in frozen:
            if not _same(parameter, value):
                moved.add(_place(parameter))
                parameter.copy_(value)
        return moved

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays that training may change, in the order of the state dict."""
        return tuple(self._changing)

    def values(self) -> dict[str, Values]:
        """Return the current values, by name; they share the model's memory, but for bfloat16."""
        for buffer in self._moving:
            buffer.put_back()
        return {name: _to_numpy(tensor) for name, tensor in self._changing.items()}

    def load(self, values: Mapping[str, Values]) -> list[str]:
        """Load values of all changing arrays, and undo what a training has changed outside of them.

        Returns:
            Names of other buffers that had been changed.

        Raises:
            ValueError: Names or shapes are not the model's.
        """
        if values.keys() != self._changing.keys():
            odd = sorted(values.keys() ^ self._changing.keys())
            raise ValueError(f"the message's arrays are not this model's: {', '.join(odd[:3])}")
        for module, training in self._modes:
            module.training = training
        for attributes in self._attributes:
            attributes.reset()
        for buffer in self._moving:
            buffer.put_back()
        for name, tensor in self._changing.items():
            if values[name].shape != tuple(tensor.shape):
                raise ValueError(
                    f"the message's {name} has shape {values[name].shape}, the model's {tuple(tensor.shape)}"
                )
            if tensor.dtype is torch.bfloat16:
                tensor.copy_(torch.from_numpy(values[name].astype(np.float32)))
            else:
                np.copyto(tensor.numpy(), values[name])
        return [buffer.name for buffer in self._fixed if buffer.reset()]

    def complete(self, values: Mapping[str, Values]) -> dict[str, Values]:
        """Return arrays for all names of the state dict: given values, constants, and both names of what is tied."""
        constants = {name: _to_numpy(self._once[name]) for name in self.constants}
        return {name: (constants | dict(values))[first] for name, first in self._name_of.items()}

    def repaired(self, values: Mapping[str, Values], *, noised: bool) -> dict[str, Values]:
        """Return values that training could have reached: variances of 0 or more, and if noised, first padding rows.

        This is post-processing: it costs no privacy.
        """
        result = dict(values)
        for name in self.variances:
            result[name] = np.maximum(result[name], 0)
        for name, row in self.padding.items() if noised else ():
            result[name] = result[name].copy()
            result[name][row] = self._padding_values[name]
        return result

    @functools.cached_property
    def constants_sha256(self) -> str:
        """A hash of the constants: names, dtypes, shapes and values."""
        digest = hashlib.sha256()
        for name in self.constants:
            array = _to_numpy(self._once[name])
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass
class Buffer:
    """A buffer of a module, with its value when the model was built.

    Attributes:
        name: In the model.
        module: Its owner.
        key: Its name in the owner.
        tensor: The tensor that it was then.
        value: A copy of its value then.
    """

    name: str
    module: nn.Module
    key: str
    tensor: Tensor
    value: Tensor

    def put_back(self) -> None:
        """Write a value that the module holds in another tensor into the first one."""
        now = self.module._buffers[self.key]
        if now is not self.tensor and now is not None:
            self.tensor.copy_(now)
            self.module._buffers[self.key] = self.tensor

    def reset(self) -> bool:
        """Return to the first value; return whether it had been changed."""
        self.put_back()
        if _same(self.tensor, self.value):  # kernels of batch norm don't count the tensor's version
            return False
        self.tensor.copy_(self.value)
        return True


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape have the same values; NaN is the same as NaN."""
    if one.is_floating_point() or one.is_complex():
        return bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())
    return torch.equal(one, other)


def _buffers(model: nn.Module) -> list[Buffer]:
    """Return all buffers, also those that are not in the state dict."""
    return [
        Buffer(f"{prefix}.{key}".lstrip("."), module, key, tensor, tensor.clone())
        for prefix, module in model.named_modules()
        for key, tensor in module._buffers.items()
        if tensor is not None
    ]


def _padding_rows(model: nn.Module, name_of: Mapping[str, str]) -> dict[str, int]:
    """Return the padding rows of trained embeddings whose weights no other module shares."""
    rows = {}
    names = list(name_of.values())
    for prefix, module in model.named_modules():
        name = f"{prefix}.weight".lstrip(".")
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or module.padding_idx is None:
            continue
        if module.weight.requires_grad and names.count(name) == 1:
            rows[name] = module.padding_idx
    return rows


def _why_no_array(tensor: object) -> str:
    """Return why an entry of a state dict is no array of real numbers in this machine's memory; empty if it is."""
    if not isinstance(tensor, Tensor) or tensor.is_quantized:
        return "is quantised or no tensor: real numbers are needed"
    if tensor.device.type != "cpu":
        return f"is on the device {tensor.device.type!r}: allowed: 'cpu'"
    if tensor.is_complex():
        return "is complex: real numbers are needed (of a constant, a buffer with persistent=False)"
    return "" if tensor.layout is torch.strided else "is sparse: a dense tensor is needed"


def _place(tensor: Tensor) -> Hashable:
    """Return what tells a tensor's memory from that of others: two names of one storage have the same place."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _to_numpy(tensor: Tensor) -> Values:
    return tensor.float().numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()
