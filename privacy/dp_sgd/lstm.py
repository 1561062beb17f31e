"""nn.LSTM forward with its gates kept, and back to the gates: per-example gradients are products of what is kept.

Legend: T steps, B examples, I inputs, H hidden units. Gates in PyTorch's order: input, forget, candidate, output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from privacy.dp_sgd.parts import Part, Product, Rows


class LstmLayer:
    """One layer of an nn.LSTM in one batch; made by its forward pass, completed by the backward pass.

    Attributes:
        inputs: `(T, B, I)`.
        states: `(T + 1, B, H)`, h before each step and at the end; zeros first.
        gates: `(T, B, 4H)`, after sigmoid and tanh; after the backward pass the loss's gradients before them.
        cells: `(T + 1, B, H)`, as the states.
    """

    def __init__(self, lstm: nn.LSTM, index: int, inputs: Tensor) -> None:
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if lstm.bias else [])]
        self.names = [f"{name}_l{index}" for name in names]
        self.weights = [cast(Tensor, getattr(lstm, name)).detach() for name in self.names]
        self.inputs = inputs.contiguous()
        steps, batch, _ = inputs.shape
        size = lstm.hidden_size
        self.states = inputs.new_zeros(steps + 1, batch, size)
        self.cells = inputs.new_zeros(steps + 1, batch, size)
        bias = self.weights[2] + self.weights[3] if lstm.bias else None
        self.gates = F.linear(self.inputs, self.weights[0], bias)

    def forward(self) -> None:
        """Run the recurrence: `c_t = f c_{t-1} + i g`, `h_t = o tanh(c_t)`."""
        size = self.states.shape[2]
        recurrent = self.weights[1].t().contiguous()
        for gates, h, c, h_next, c_next in zip(
            self.gates, self.states, self.cells, self.states[1:], self.cells[1:], strict=False
        ):
            gates.addmm_(h, recurrent)
            gates[:, : 2 * size].sigmoid_()
            gates[:, 2 * size : 3 * size].tanh_()
            gates[:, 3 * size :].sigmoid_()
            i, f, g, o = gates.chunk(4, 1)
            torch.mul(f, c, out=c_next)
            c_next.addcmul_(i, g)
            torch.tanh(c_next, out=h_next)
            h_next.mul_(o)

    def backward(self, states: Tensor | None, last_cell: Tensor | None) -> Tensor:
        """Replace the gates by the loss's gradients before them; return its gradient at the inputs, `(T, B, I)`.

        Args:
            states: The loss's gradient at the states `h_1` to `h_T`, `(T, B, H)`, beside what goes through the
                recurrence; None: zeros.
            last_cell: The same at `c_T`, `(B, H)`.
        """
        size = self.states.shape[2]
        i, f, g, o = self.gates.chunk(4, 2)
        squashed = torch.tanh(self.cells[1:])
        of_output = squashed * o * (1 - o)  # d gate / d h
        to_cell = o * (1 - squashed * squashed)  # d c / d h
        of_cell = torch.stack([g * i * (1 - i), self.cells[:-1] * f * (1 - f), i * (1 - g * g), f], 2)
        h_gradients = torch.zeros_like(of_output) if states is None else states.clone()
        c = torch.zeros_like(self.cells[0]) if last_cell is None else last_cell.clone()
        found = torch.empty_like(self.gates)
        for t in range(len(found) - 1, -1, -1):
            h = h_gradients[t]
            if t + 1 < len(found):
                h.addmm_(found[t + 1], self.weights[1])
            c.addcmul_(h, to_cell[t])
            products = of_cell[t] * c.unsqueeze(1)
            found[t, :, : 3 * size] = products[:, :3].flatten(1)
            torch.mul(of_output[t], h, out=found[t, :, 3 * size :])
            c = products[:, 3]
        self.gates = found
        return found @ self.weights[0]

    def parts(self, buffers: Mapping[str, Tensor]) -> Iterator[Part]:
        """Yield a part for each trainable parameter."""
        outputs = self.gates.transpose(0, 1)
        for name, inputs in zip(self.names, [self.inputs, self.states[:-1]], strict=False):
            if name in buffers:
                yield Product(buffers[name], inputs.transpose(0, 1), outputs)
        if biases := [buffers[name] for name in self.names[2:] if name in buffers]:
            summed = outputs.sum(1)
            for bias in biases:
                yield Rows(bias, summed)


class _Recurrence(Function):
    """A layer's pass in autograd's graph.

    The `anchor` requires a gradient and gets a zero: whoever asks for it has the backward pass run, also where
    nothing before the layer needs a gradient, and learns whether it was run.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, anchor: Tensor, lstm: nn.LSTM, index: int, layers: list[LstmLayer]
    ) -> tuple[Tensor, Tensor]:
        layer = LstmLayer(lstm, index, inputs)
        layer.forward()
        layers.append(layer)
        ctx.layer = layer
        states, cell = layer.states[1:], layer.cells[-1]
        ctx.save_for_backward(states, cell)  # so that autograd sees if someone changes them in place
        ctx.set_materialize_grads(False)
        return states, cell

    @staticmethod
    def backward(ctx: Any, states: Tensor | None, last_cell: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        anchor = torch.zeros(())
        return ctx.layer.backward(states, last_cell), anchor, None, None, None


def run(
    lstm: nn.LSTM, anchor: Tensor, x: Tensor, layers: list[LstmLayer]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Compute what `lstm(x)` does, from zero states, and append its layers to a list.

    Args:
        lstm: In one direction, without projections and without dropout between its layers.
        anchor: Requires a gradient; see `_Recurrence`.
        x: `(B, T, I)` if the LSTM has its batch first, else `(T, B, I)`.
        layers: Whose `parts` are right once autograd has been back at them.
    """
    states = x.transpose(0, 1) if lstm.batch_first else x
    hs, cs = [], []
    for index in range(lstm.num_layers):
        states, cell = _Recurrence.apply(states, anchor, lstm, index, layers)  # type: ignore[no-untyped-call]
        hs.append(states[-1])
        cs.append(cell)
    output = states.transpose(0, 1) if lstm.batch_first else states
    return output, (torch.stack(hs), torch.stack(cs))
