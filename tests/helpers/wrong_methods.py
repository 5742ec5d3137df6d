"""Methods that break the contract, each in its own way, as text.

`WRONG` has for each the check that finds it, words of the message, and the source.
"""

from __future__ import annotations

HEAD = """
import torch
from torch import nn
from qbench.functional import sign, straight_through
from qbench.method import (
    Binary, GranularityOption, Integers, Learned, Method, Named, PerChannel, PerGroup, PerTensor,
    Quantizer, Ternary,
)

def binary(w):
    return w.detach().abs().mean() * sign(w)

class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, binary(w))

class Broken(Method):
    weights = Binary()

    def weight_quantizer(self, layer, weight):
        return Weight()
"""

WRONG = {
    "no_quantizer": (
        "attaches",
        "returned None",
        """
class Broken(Broken):
    def weight_quantizer(self, layer, weight):
        return None
""",
    ),
    "dtype": (
        "keeps_shape_and_dtype",
        "must keep shape and dtype",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, w.abs().mean() * torch.where(w >= 0, 1.0, -1.0))
""",
    ),
    "levels": (
        "has_the_levels_it_promises",
        "3 values after hardening, where 1 bits of the declared levels allow 2",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, (2 * w).round().clamp(-1, 1))
""",
    ),
    "scope": (
        "has_the_levels_it_promises",
        "is it quantized per channel?",
        """
class Weight(nn.Module):
    def forward(self, w):
        scale = w.detach().abs().mean(tuple(range(1, w.dim())), keepdim=True)
        return straight_through(w, scale * sign(w))
""",
    ),
    "named_levels": (
        "has_the_levels_it_promises",
        "does not have the declared levels",
        """
class Broken(Broken):
    weights = Named()

    def supports(self, bits, task):
        return None if str(bits) == "3(±4)/32" else "3(±4)/32 only"

class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, (3 * w).round().clamp(-3, 3))
""",
    ),
    "soft_in_evaluation": (
        "has_the_levels_it_promises",
        "quantize fully where `self.training` is False",
        """
class Weight(nn.Module):
    def forward(self, w):
        return w.tanh()
""",
    ),
    "impure": (
        "hardens_to_what_it_evaluates",
        "hardening changed the values",
        """
class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("reads", torch.zeros(()))

    def forward(self, w):
        self.reads += 1
        return straight_through(w, (1 + self.reads) * binary(w))
""",
    ),
    "no_gradient": (
        "has_gradients_everywhere",
        "gets no gradient",
        """
class Weight(nn.Module):
    def forward(self, w):
        return binary(w) + 0 * w
""",
    ),
    "infinite_gradient": (
        "has_gradients_everywhere",
        "is not finite",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w * float("inf"), binary(w))
""",
    ),
    "input_without_gradient": (
        "has_gradients_everywhere",
        "of the inputs of '0' have a gradient of their own",
        """
class Broken(Broken):
    activations = Integers(bits=(1,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input()

class Input(nn.Module):
    def forward(self, x):
        return (x > 0.5).to(x) + 0 * x

""",
    ),
    "frozen": (
        "trains",
        "training does not move the latent weight",
        """
class Broken(Broken):
    def on_epoch_start(self, epoch, epochs):
        if epoch == 1:
            self.first = [layer.latent_weight.detach().clone() for layer in self.layers]

    def after_optimizer_step(self):
        for layer, first in zip(self.layers, self.first):
            layer.latent_weight.copy_(first)

""",
    ),
    "unseeded": (
        "is_deterministic",
        "two runs with one seed differ",
        """
import random

class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("size", torch.tensor(1 + random.SystemRandom().random()))

    def forward(self, w):
        return straight_through(w, self.size.to(w) * sign(w))
""",
    ),
    "hidden_state": (
        "survives_a_checkpoint",
        "belongs in parameters, buffers or get_extra_state",
        """
class Weight(Quantizer):
    def __init__(self):
        super().__init__()
        self.size = 1.0

    def forward(self, w):
        return straight_through(w, self.size * sign(w))

    def observe(self, x):
        self.size *= 1.1
""",
    ),
    "pickles_in_state": (
        "survives_a_checkpoint",
        "more than tensors and plain values",
        """
import datetime

class Weight(Weight):
    def get_extra_state(self):
        return datetime.timezone.utc

    def set_extra_state(self, state):
        pass
""",
    ),
    "lambda": (
        "copies",
        "cannot be pickled",
        """
class Broken(Broken):
    def prepare(self, model, bits):
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.slope = lambda x: x
        return model

""",
    ),
    "updates_when_read": (
        "updates_once_a_step",
        "is another each time it is read",
        """
class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("size", torch.ones(()))

    def forward(self, w):
        if self.training:
            with torch.no_grad():
                self.size.mul_(0.9).add_(0.1 * w.abs().mean())
        return straight_through(w, self.size.to(w) * sign(w))
""",
    ),
    "learns_in_evaluation": (
        "evaluates_without_a_trace",
        "evaluat",
        """
class Broken(Broken):
    activations = Integers(bits=(1,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input()

class Input(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("top", torch.ones(()))

    def forward(self, x):
        with torch.no_grad():
            self.top.mul_(0.5).add_(0.5 * x.abs().max())
        top = self.top.to(x)
        return straight_through(x, top * (x > top / 2).to(x))

""",
    ),
    "autocast": (
        "evaluates_under_autocast",
        "autocast changes the quantized values",
        """
class Weight(nn.Module):
    def forward(self, w):
        rows = w.detach().flatten(1)
        size = (rows.t() @ rows).diagonal().mean().to(w.dtype)
        return straight_through(w, size * sign(w))
""",
    ),
    "parameters": (
        "gives_its_parameters_once",
        "leaves out",
        """
class Broken(Broken):
    def parameter_groups(self, parameters, lr):
        return []

class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.size = nn.Parameter(torch.ones(()))

    def forward(self, w):
        return straight_through(w, self.size.detach().to(w) * sign(w)) + 0 * self.size.to(w)
""",
    ),
    "raises": (
        "attaches",
        "raised ZeroDivisionError: integer division or modulo by zero (broken_raises.py:25)",
        """
class Weight(nn.Module):
    def forward(self, w):
        return w / (1 // 0)
""",
    ),
    "supports_raises": (
        "supports",
        "supports() raised KeyError",
        """
class Broken(Broken):
    def supports(self, bits, task):
        raise KeyError(str(bits))
""",
    ),
    "supports_nothing": (
        "supports",
        "can do nothing: no",
        """
class Broken(Broken):
    def supports(self, bits, task):
        return "no"
""",
    ),
    "supports_lines": (
        "supports",
        "return one line",
        """
class Broken(Broken):
    def supports(self, bits, task):
        return ""
""",
    ),
    "function": (
        "attaches",
        "return an nn.Module",
        """
class Broken(Broken):
    def weight_quantizer(self, layer, weight):
        return lambda w: straight_through(w, binary(w))
""",
    ),
    "off_by_a_thousandth": (
        "has_the_levels_it_promises",
        "does not have the declared levels",
        """
class Broken(Broken):
    weights = Integers(bits=(3,), symmetric=True)

class Weight(nn.Module):
    def forward(self, w):
        step = w.detach().abs().max() / 3
        codes = (w / step).round()
        return straight_through(w, step * (codes + 1e-3 * (codes == 2)))
""",
    ),
    "two_scales": (
        "has_the_levels_it_promises",
        "does not have the declared levels",
        """
class Broken(Broken):
    weights = Ternary()

class Weight(nn.Module):
    def forward(self, w):
        kept = (w.abs() > 0.3).to(w) * w.sign()
        return straight_through(w, torch.where(kept < 0, 0.999 * kept, kept))
""",
    ),
    "levels_of_inputs": (
        "has_the_levels_it_promises",
        "the input of 0 does not have the declared levels",
        """
class Broken(Broken):
    activations = Integers(bits=(2,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input(sample.max() / 3)


class Input(Quantizer):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        codes = (x / self.scale.to(x)).round().clamp(0, 3)
        return straight_through(x.clamp(0, 1), self.scale.to(x) * codes.square())
""",
    ),
    "constants": (
        "has_the_levels_it_promises",
        "declare scales=1",
        """
class Broken(Broken):
    weights = Binary(scales=0)

""",
    ),
    "granularity_is_not_used": (
        "needs_its_granularity",
        "the levels of every layer are those of PerTensor()",
        """
class Broken(Broken):
    weights = Binary(granularity=PerChannel())

""",
    ),
    "granularity_option_is_ignored": (
        "needs_its_granularity",
        "with granularity: per_group(6): declares PerGroup(size=6)",
        """
class Broken(Broken):
    granularity: GranularityOption = PerTensor()

    def weight_quantizer(self, layer, weight):
        return Weight(layer.weight_levels.granularity == PerTensor())

class Weight(nn.Module):
    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, w):
        size = w.detach().abs()
        dims = tuple(range(0 if self.whole else 1, w.dim()))
        scale = size.mean(dims, keepdim=True)
        return straight_through(w, scale * sign(w))
""",
    ),
    "short_group": (
        "has_the_levels_it_promises",
        "with granularity: per_group(6)",
        """
class Broken(Broken):
    granularity: GranularityOption = PerTensor()

    def weight_quantizer(self, layer, weight):
        return Weight(layer.weight_levels.granularity)

class Weight(nn.Module):
    def __init__(self, granularity):
        super().__init__()
        self.granularity = granularity

    def forward(self, w):
        scale = self.granularity.reduce(w.detach().abs(), torch.mean).expand(w.shape).clone()
        if isinstance(self.granularity, PerGroup) and w[0].numel() > 5:
            scale.flatten(1)[:, -2:] = w.detach().abs().flatten(1)[:, -2:]
        return straight_through(w, scale * sign(w))
""",
    ),
    "accepts_what_it_does_not_declare": (
        "supports",
        "which the declared levels do not contain",
        """
class Broken(Broken):
    def supports(self, bits, task):
        return None
""",
    ),
    "gradient_of_one_weight": (
        "has_gradients_everywhere",
        "of the weights of '0' have a gradient of their own",
        """
class Weight(nn.Module):
    def forward(self, w):
        return w.abs().median() * sign(w)
""",
    ),
    "gradient_of_the_scale": (
        "has_gradients_everywhere",
        "of the weights of '0' have a gradient of their own",
        """
class Weight(nn.Module):
    def forward(self, w):
        return w.abs().mean() * sign(w)
""",
    ),
    "gradient_has_the_wrong_sign": (
        "has_gradients_everywhere",
        "have a gradient of their own",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(-w, binary(w))
""",
    ),
    "gradient_of_few_inputs": (
        "has_gradients_everywhere",
        "of the inputs of '0' have a gradient of their own",
        """
class Broken(Broken):
    activations = Integers(bits=(2,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input(sample.max() / 3)


class Input(Quantizer):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        scale = self.scale.to(x)
        passed = torch.where(torch.arange(x.numel()).view(x.shape) % 9 == 0, x, x.detach())
        return straight_through(passed, scale * (x / scale).round().clamp(0, 3))
""",
    ),
    "tensor_on_the_cpu": (
        "runs_on_its_device",
        "make it with device=x.device",
        """
class Weight(nn.Module):
    def forward(self, w):
        signs = torch.tensor([-1.0, 1.0]).to(w.dtype)
        codes = signs[(w >= 0).long().cpu()]
        return straight_through(w, w.detach().abs().mean() * codes)
""",
    ),
    "constant_on_the_cpu": (
        "runs_on_its_device",
        "register it as a buffer",
        """
class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.edges = torch.tensor([0.0])

    def forward(self, w):
        edges = self.edges.to(w.dtype)
        if w.detach().abs().max() > 0:  # what depends on values runs too
            codes = 2.0 * torch.bucketize(w.detach().contiguous(), edges).to(w) - 1
        return straight_through(w, w.detach().abs().mean() * codes)
""",
    ),
    "scale_in_an_attribute": (
        "survives_a_checkpoint",
        "a network with other weights that loads the state_dict",
        """
class Broken(Broken):
    def weight_quantizer(self, layer, weight):
        return Weight(float(weight.abs().mean()))

class Weight(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, w):
        return straight_through(w, self.scale * sign(w))
""",
    ),
    "reads_another_layer": (
        "reads_only_its_own",
        "changes with other tensors of the model",
        """
class Broken(Broken):
    def weight_quantizer(self, layer, weight):
        return Weight([each.module for each in self.layers if each is not layer][-1:])

class Weight(nn.Module):
    def __init__(self, others):
        super().__init__()
        self.others = others

    def forward(self, w):
        size = self.others[0].bias.detach().abs().max().to(w)
        return straight_through(w, (1 + size) * sign(w))
""",
    ),
    "reads_the_mode_of_autograd": (
        "reads_only_its_own",
        "computes otherwise in no_grad()",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, binary(w) * (1 + torch.is_grad_enabled()))
""",
    ),
    "state_in_the_class": (
        "is_independent_of_other_models",
        "keep state in the quantizer",
        """
class Weight(nn.Module):
    made = 0

    def __init__(self):
        super().__init__()
        Weight.made += 1

    def forward(self, w):
        return straight_through(w, binary(w) * Weight.made)
""",
    ),
    "seeds_the_generator": (
        "is_independent_of_other_models",
        "seeds torch's generator",
        """
class Weight(nn.Module):
    def forward(self, w):
        torch.manual_seed(0)
        return straight_through(w, binary(w))
""",
    ),
    "mixes_images": (
        "treats_images_alone",
        "depends on the other images of the batch",
        """
class Broken(Broken):
    activations = Integers(bits=(2,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input(sample.max() / 3)


class Input(Quantizer):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        scale = x.detach().max().clamp(min=1e-3) / 3
        return straight_through(x.relu(), scale * (x / scale).round().clamp(0, 3))
""",
    ),
    "draws_in_evaluation": (
        "evaluates_without_a_trace",
        "draw no random numbers",
        """
class Broken(Broken):
    activations = Integers(bits=(2,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input(sample.max() / 3)


class Input(Quantizer):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        scale = self.scale.to(x)
        noise = torch.rand_like(x) - 0.5
        return straight_through(x.clamp(min=0), scale * (x / scale + noise).round().clamp(0, 3))
""",
    ),
    "changes_its_input": (
        "leaves_its_input_alone",
        "in place",
        """
class Broken(Broken):
    activations = Integers(bits=(2,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input(sample.max() / 3)


class Input(Quantizer):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        scale = self.scale.to(x)
        with torch.no_grad():
            x.clamp_(min=0)
        return straight_through(x.clamp(min=0), scale * (x / scale).round().clamp(0, 3))
""",
    ),
    "returns_its_input": (
        "leaves_its_input_alone",
        "itself, or a view of it",
        """
class Broken(Broken):
    weights = Learned(bits=(8,))

class Weight(nn.Module):
    def forward(self, w):
        if self.training:
            return straight_through(w, w)
        return w if w.numel() <= 256 else w.abs().mean() * sign(w)
""",
    ),
    "returns_its_buffer": (
        "leaves_its_input_alone",
        "the next call of forward changes",
        """
class Broken(Broken):
    activations = Integers(bits=(2,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input(sample.max() / 3)


class Input(Quantizer):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

        self.kept = torch.zeros(0)

    def forward(self, x):
        scale = self.scale.to(x)
        y = scale * (x / scale).round().clamp(0, 3)
        if self.training:
            return straight_through(x.clamp(min=0), y)
        if self.kept.shape != y.shape or self.kept.dtype != y.dtype:
            self.kept = torch.empty_like(y)
        return self.kept.copy_(y)
""",
    ),
    "right_for_one_shape": (
        "takes_any_shape",
        "values after hardening",
        """
class Weight(nn.Module):
    def forward(self, w):
        hard = binary(w) if w.numel() % 8 == 0 or w.numel() == 27 else w.detach()
        return straight_through(w, hard)
""",
    ),
    "one_weight": (
        "takes_any_shape",
        "is not finite",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, w.detach().std() * sign(w))
""",
    ),
    "one_image_size": (
        "takes_any_shape",
        "raised RuntimeError",
        """
class Broken(Broken):
    activations = Integers(bits=(2,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input(sample.max() / 3)


class Input(Quantizer):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

        self.offset = None

    def forward(self, x):
        scale = self.scale.to(x)
        if x.dim() == 4:
            scale = scale.expand(6, 6) if x.shape[-1] == 6 else scale.expand(16, 16)
        return straight_through(x.clamp(min=0), scale * (x / scale).round().clamp(0, 3))
""",
    ),
    "memory_format": (
        "takes_any_shape",
        "view size is not compatible",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, binary(w.view(-1)).view(w.shape))
""",
    ),
    "unties": (
        "shares_a_quantizer",
        "must keep a shared Parameter shared",
        """
class Broken(Broken):
    def prepare(self, model, bits):
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(module.weight.detach().clone())
        return model

""",
    ),
    "hook_changes_biases": (
        "changes_only_its_own",
        "a hook changes",
        """
class Broken(Broken):
    def after_optimizer_step(self):
        for layer in self.layers:
            if layer.module.bias is not None:
                layer.module.bias.mul_(0.5)

""",
    ),
    "hook_thaws": (
        "changes_only_its_own",
        "a hook changes",
        """
class Broken(Broken):
    def on_epoch_start(self, epoch, epochs):
        for layer in self.layers:
            if layer.module.bias is not None:
                layer.module.bias.requires_grad_(epoch < 2)

""",
    ),
}
