"""The released code of Quantization Networks, in its own order of operations.

github.com/aliyun/alibabacloud-quantization-networks: anybit.py, models/quantization.py, and the
loop of quan_all_main.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qbench.spec.bits import BitWidths

VALUES = {"1": [-1, 1], "2": [-1, 0, 1], "3(±4)": [-4, -2, -1, 0, 1, 2, 4]}
MOMENTUM, DECAY, CLIP = 0.9, 1e-4, 0.5


def sigmoid_t(x: Tensor, b: float, t: float) -> Tensor:
    temp = torch.clamp(-1 * t * (x - b), min=-10.0, max=10.0)
    return 1.0 / (1.0 + torch.exp(temp))


class ReleasedWeight:
    """anybit.QuaOp, of one layer."""

    def __init__(self, weight: nn.Parameter, values: list[int], biases: list[float]) -> None:
        self.target, self.biases = weight, biases
        self.n = len(values) - 1
        self.scales = [values[i + 1] - values[i] for i in range(self.n)]
        self.offset = sum(self.scales) / 2.0
        self.beta = nn.Parameter(values[-1] * 5 / 4.0 / weight.data.abs().max())
        self.alpha = nn.Parameter(torch.reciprocal(self.beta.data))

    def forward(self, x: Tensor, t: float) -> Tensor:
        y = sigmoid_t(x, b=self.biases[0], t=t) * self.scales[0]
        for j in range(1, self.n):
            y += sigmoid_t(x, b=self.biases[j], t=t) * self.scales[j]
        return y - self.offset

    def backward(self, x: Tensor, t: float) -> Tensor:
        y_1 = sigmoid_t(x, b=self.biases[0], t=t) * self.scales[0]
        y_grad = (y_1.mul(self.scales[0] - y_1)).div(self.scales[0])
        for j in range(1, self.n):
            y_temp = sigmoid_t(x, b=self.biases[j], t=t) * self.scales[j]
            y_grad += (y_temp.mul(self.scales[j] - y_temp)).div(self.scales[j])
        return y_grad

    def quantize(self, t: float) -> None:
        self.saved = self.target.data.clone()
        t = min(t, 2000)
        x = self.target.data.mul(self.beta.data)
        self.target.data = self.forward(x, t).mul(self.alpha.data)

    def update(self, t: float) -> None:
        self.target.data.copy_(self.saved)
        t = min(t, 2000)
        assert self.target.grad is not None
        x = self.target.data.mul(self.beta.data)
        # "set T = 1 when train binary model", "set T = T when train the other quantization model"
        y_grad = self.backward(x, 1 if self.n == 1 else t).mul(t)
        g = self.target.grad.data
        self.beta.grad = y_grad.mul(self.target.data).mul(self.alpha.data).mul(g).sum()
        self.alpha.grad = self.forward(x, t).mul(g).sum()
        self.target.grad.data = y_grad.mul(self.beta.data).mul(self.alpha.data).mul(g)


class SigmoidT(torch.autograd.Function):
    """models.quantization.SigmoidT."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: list[int], n: int, b: list[float], t: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rest = scales, n, b, t
        output = scales[0] / (1.0 + torch.exp(-torch.clamp(t * (x - b[0]), min=-10.0, max=10.0)))
        for k in range(1, n):
            buf = torch.clamp(t * (x - b[k]), min=-10.0, max=10.0)
            output += scales[k] / (1.0 + torch.exp(-buf))
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        scales, n, b, t = ctx.rest
        temp = torch.zeros_like(x)
        for j in range(n):
            b_buf = torch.clamp(t * (x - b[j]), min=-10.0, max=10.0)
            b_output = scales[j] / (1.0 + torch.exp(-b_buf))
            temp += b_output * (1 - b_output) * t
        return temp * grad_output, None, None, None, None


class ReleasedInput(nn.Module):
    """models.quantization.Quantization, in training."""

    def __init__(self, values: list[int], biases: list[float], beta: float, t: float) -> None:
        super().__init__()
        self.scales = [b - a for a, b in itertools.pairwise(values)]
        self.biases, self.t = biases, t
        self.beta = nn.Parameter(torch.tensor([beta]))
        self.alpha = nn.Parameter(torch.reciprocal(self.beta.data))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul(self.beta)
        y: Tensor = SigmoidT.apply(x, self.scales, len(self.scales), self.biases, self.t)
        return y.mul(self.alpha)


def released_training(
    model: Any,
    batches: Iterable[tuple[Tensor, Tensor]],
    bits: BitWidths,
    biases: list[Any],
    betas: list[float],
    t: float,
    lr: float,
) -> nn.Module:
    """Train a model, whose layers 2 and 5 are quantized, with the released loop.

    Args:
        model: A sequential model. Returned with its trained weights.
        batches: Inputs and classes of each step.
        bits: Bit-widths of weights and activations.
        biases: Biases of the quantizers of both weights, then of both activations.
        betas: Initial β of the quantizers of both activations.
        t: Temperature.
        lr: Learning rate.
    """
    weights = VALUES[str(bits.weights)]
    operators = [
        ReleasedWeight(model[index].weight, weights, biases[i]) for i, index in enumerate((2, 5))
    ]
    if not bits.activations.is_float:
        values = list(range(2**bits.activations.bits))
        quantizers = [ReleasedInput(values, biases[2 + i], betas[i], t) for i in range(2)]
        for index, quantizer in zip((2, 5), quantizers, strict=True):
            model[index] = nn.Sequential(quantizer, model[index])
    # The release gives α and β of activations the network's weight decay; here they have none.
    own: list[Any] = [
        p for name, p in model.named_parameters() if "alpha" in name or "beta" in name
    ]
    network_own = [p for p in model.parameters() if all(p is not q for q in own)]
    groups: list[dict[str, Any]] = [
        {"params": network_own, "weight_decay": DECAY},
        {"params": own},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    optimizer_alpha = torch.optim.SGD([op.alpha for op in operators], lr=lr, momentum=MOMENTUM)
    optimizer_beta = torch.optim.SGD([op.beta for op in operators], lr=lr, momentum=MOMENTUM)
    model.train()
    for x, target in batches:
        for op in operators:
            op.quantize(t)
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        optimizer_alpha.zero_grad()
        optimizer_beta.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for op in operators:
            op.update(t)
        optimizer.step()
        optimizer_alpha.step()
        optimizer_beta.step()
    return model
