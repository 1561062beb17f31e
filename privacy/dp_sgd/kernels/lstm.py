"""nn.LSTM forward, keeping its gates, and backward to the gates: per-example gradients are products of these.

Legend: T steps, B examples, I inputs, H hidden units. Gates in PyTorch's order: input, forget, candidate, output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fedsim.privacy.dp_sgd.kernels.param_gradients import BufferPool, Part, Product, Rows


class LstmLayer:
    """One layer of an nn.LSTM in one batch; made by its forward pass, completed by the backward pass.

    A step is a few large operations, since each has an overhead of a microsecond. One sigmoid computes all gates and,
    by `tanh(x) = 2 sigmoid(2x) - 1`, the rest: it is several times faster than PyTorch's tanh. Kept tensors have the
    examples first, so that the final products over time read memory in order.

    Attributes:
        states: `(B, T, H)`, h after each step.
        last_cell: `(B, H)`, c after the last step.
    """

    def __init__(self, lstm: nn.LSTM, index: int, inputs: Tensor, pool: BufferPool) -> None:
        self._pool = pool
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if lstm.bias else [])]
        self._names = [f"{name}_l{index}" for name in names]
        self._weights = [cast(Tensor, getattr(lstm, name)).detach() for name in self._names]
        self._inputs = inputs.detach().contiguous()
        self._size = lstm.hidden_size
        self._gates = self._gate_inputs()
        self.states = inputs.new_empty(*inputs.shape[:2], self._size)  # the model's from here on
        self._cells = pool.empty(*self.states.shape, like=inputs)  # 2c
        self._squashed = pool.empty(*self.states.shape, like=inputs)  # sigmoid(2c)
        self._outputs: Tensor | None = None  # (B, T, 4H), the loss's gradients before the gates
        self._recur()
        self.last_cell = self._cells[:, -1] / 2

    def _doubled(self, weight: Tensor) -> Tensor:
        """Return a copy of `(4H, ...)` in which the candidate's rows are doubled."""
        weight = weight.clone()
        weight[2 * self._size : 3 * self._size].mul_(2)
        return weight

    def _gate_inputs(self) -> Tensor:
        """Return the inputs' contribution to the gates, `(B, T, 4H)`, doubled for the candidate."""
        gates = self._pool.empty(*self._inputs.shape[:2], 4 * self._size, like=self._inputs)
        inputs, weight = self._inputs.flatten(0, 1), self._doubled(self._weights[0]).t()
        if len(self._weights) > 2:
            bias = self._doubled(self._weights[2] + self._weights[3])
            torch.addmm(bias, inputs, weight, out=gates.flatten(0, 1))
        else:
            torch.mm(inputs, weight, out=gates.flatten(0, 1))
        return gates

    @torch.inference_mode()
    def _recur(self) -> None:
        """Run `c_t = f c_{t-1} + i g`, `h_t = o tanh(c_t)`, in terms of 2c, h/2 and `s = sigmoid(2 (g's input))`."""
        recurrent, each = self._doubled(self._weights[1]).mul_(2).t(), self._pool.steps
        steps = zip(
            each(self._gates),
            *map(each, self._gates.chunk(4, 2)),
            each(self._cells),
            each(self._squashed),
            self.states.unbind(1),
            strict=True,
        )
        before: tuple[Tensor, Tensor] | None = None
        for gates, i, f, s, o, cell, squashed, state in steps:
            if before is None:
                gates.sigmoid_()
                torch.mul(i, s, out=cell).mul_(4)
            else:
                gates.addmm_(before[0], recurrent).sigmoid_()
                torch.mul(f, before[1], out=cell).addcmul_(i, s, value=4)
            cell.sub_(i, alpha=2)
            torch.sigmoid(cell, out=squashed)
            torch.mul(o, squashed, out=state).sub_(o, alpha=0.5)
            before = state, cell
        self.states.mul_(2)

    def backward(self, states: Tensor | None, last_cell: Tensor | None) -> Tensor:
        """Go back to the gates; return the loss's gradient at the inputs, `(B, T, I)`.

        Args:
            states: The loss's gradient at the states, `(B, T, H)`, without the recurrent part; None: zeros.
            last_cell: The same at the last cell, `(B, H)`.
        """
        derivatives, to_cell = self._derivatives()
        of_states = self._pool.empty(*self.states.shape, like=self.states)
        if states is None:
            of_states.zero_()
        else:
            of_states.copy_(states)
        cell = torch.zeros_like(self.last_cell) if last_cell is None else last_cell.clone()
        self._recur_back(of_states, cell, derivatives, to_cell)
        self._outputs = outputs = derivatives.flatten(2)[:, :, self._size :]
        return outputs.flatten(0, 1).mm(self._weights[0]).view_as(self._inputs)

    @torch.inference_mode()
    def _recur_back(self, of_states: Tensor, cell: Tensor, derivatives: Tensor, to_cell: Tensor) -> None:
        """Multiply the derivatives in place by the gradients of their outputs (chain rule)."""
        size, recurrent, each = self._size, self._weights[1], self._pool.steps
        steps = zip(
            each(of_states),
            each(to_cell),
            each(derivatives[:, :, 0]),
            each(derivatives[:, :, :1]),
            each(derivatives[:, :, :4]),
            each(derivatives[:, :, 4]),
            each(derivatives.flatten(2)[:, :, size:]),
            strict=True,
        )
        later: Tensor | None = None
        as_gate = cell.unsqueeze(1)  # `(B, 1, H)`, the same numbers
        for state, slope, carry, carry_as_gate, products, output, gates in reversed(list(steps)):
            if later is not None:
                state.addmm_(later, recurrent)
            cell.addcmul_(state, slope)
            products.mul_(as_gate)
            output.mul_(state)
            cell, as_gate, later = carry, carry_as_gate, gates

    def _derivatives(self) -> tuple[Tensor, Tensor]:
        """Return the local derivatives.

        Returns:
            `(B, T, 5, H)`: of c_t with respect to c_{t-1} and to the inputs of the gates i, f, g; of h_t with respect
            to the input of o. And `(B, T, H)`: of h_t with respect to c_t.
        """
        back_of_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
        back_of_tanh = torch.ops.aten.tanh_backward.grad_input
        i, f, s, o = self._gates.chunk(4, 2)
        made = self._pool.empty(*self.states.shape[:2], 5, self._size, like=self.states)
        to_cell = self._pool.empty(*self.states.shape, like=self.states)
        made[:, :, 0] = f
        made[:, 0, 2] = 0.0
        g, tanh = s.mul_(2).sub_(1), self._squashed.mul_(2).sub_(1)
        back_of_sigmoid(g, i, grad_input=made[:, :, 1])
        back_of_sigmoid(self._cells[:, :-1].mul_(0.5), f[:, 1:], grad_input=made[:, 1:, 2])
        back_of_tanh(i, g, grad_input=made[:, :, 3])
        back_of_sigmoid(tanh, o, grad_input=made[:, :, 4])
        back_of_tanh(o, tanh, grad_input=to_cell)
        return made, to_cell

    def parts(self, trained: Collection[str]) -> Iterator[tuple[str, Part]]:
        """Yield the name in the nn.LSTM and the part of each trained parameter; none before `backward`."""
        if (outputs := self._outputs) is None:
            return
        inputs, recurrent, *biases = self._names
        if inputs in trained:
            yield inputs, Product(self._inputs, outputs, self._pool)
        if recurrent in trained:  # the state before the first step is zero
            before = self.states[:, :-1]
            yield recurrent, Product(before, outputs[:, 1:], self._pool)
        if names := [name for name in biases if name in trained]:
            summed = outputs.sum(1)
            for name in names:
                yield name, Rows(summed)


class _Recurrence(Function):
    """A layer's pass in autograd's graph.

    The `anchor` requires a gradient and gets zero: asking for it makes autograd run the backward pass even if nothing
    before the layer needs a gradient, and shows whether it ran.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, anchor: Tensor, layer: LstmLayer) -> tuple[Tensor, Tensor]:
        ctx.layer = layer
        # Returned tensors become part of autograd's graph; the layer keeps tensors that don't.
        states, last_cell = layer.states.detach(), layer.last_cell.detach()
        ctx.save_for_backward(states)  # so that autograd sees if someone changes them in place
        ctx.set_materialize_grads(False)
        return states, last_cell

    @staticmethod
    def backward(ctx: Any, states: Tensor | None, last_cell: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        return ctx.layer.backward(states, last_cell), torch.zeros(()), None


def run(
    lstm: nn.LSTM, anchor: Tensor, x: Tensor, layers: list[LstmLayer], pool: BufferPool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Compute `lstm(x)` from zero states, and append its layers to a list; their `parts` need the backward pass.

    The LSTM has one direction, no projections, and no dropout between its layers. `x` is `(B, T, I)` if it has its batch
    first, else `(T, B, I)`. For the anchor see `_Recurrence`.
    """
    states = x if lstm.batch_first else x.transpose(0, 1)
    hs, cs = [], []
    for index in range(lstm.num_layers):
        layers.append(LstmLayer(lstm, index, states, pool))
        states, cell = _Recurrence.apply(states, anchor, layers[-1])  # type: ignore[no-untyped-call]
        hs.append(states[:, -1])
        cs.append(cell)
    output = states if lstm.batch_first else states.transpose(0, 1)
    return output, (torch.stack(hs), torch.stack(cs))
