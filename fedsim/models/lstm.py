"""A character-level LSTM."""

from __future__ import annotations

from torch import Tensor, nn

from fedsim.options import LstmOptions
from fedsim.tasks import Task


class Lstm(nn.Module):
    """Character embedding, a stack of LSTM layers, and a linear head.

    With tokens x of shape `(B, L)` (batch, length) and `e_t` = row `x_t` of the embedding, `(B, E)`, each layer
    of H units computes, from zero states at the start of an example,

    - input, forget and output gates `i, f, o = sigmoid(e_t U^T + h_{t-1} V^T + b)`, each `(B, H)`,
    - candidate `g = tanh(e_t U_g^T + h_{t-1} V_g^T + b_g)`,
    - cell `c_t = f * c_{t-1} + i * g`, state `h_t = o * tanh(c_t)`,

    where U is `(H, E)` (`(H, H)` above the first layer), V `(H, H)`; PyTorch keeps two bias vectors with sum b
    (Hochreiter and Schmidhuber 1997; Gers et al. 2000). The logits are `h_t W^T + w`: at every position
    `(B, L, vocabulary)` for the next character, or at the last position `(B, classes)` for a text's label.
    """

    def __init__(self, task: Task, options: LstmOptions) -> None:
        super().__init__()
        self.per_token = task.outputs.per_token
        self.embedding = nn.Embedding(task.inputs.vocabulary, options.embedding)
        self.layers = nn.LSTM(options.embedding, options.hidden, options.layers, batch_first=True)
        self.output = nn.Linear(options.hidden, task.outputs.size)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of tokens `(B, L)`: `(B, L, vocabulary)` or `(B, classes)`."""
        states, _ = self.layers(self.embedding(x))
        logits: Tensor = self.output(states if self.per_token else states[:, -1])
        return logits
