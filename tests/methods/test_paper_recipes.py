"""The recipes of ``recipe: paper`` are those of the papers or of their authors' code.

Sources are named beside the values, and in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from qbench.method import BitWidths, Recipe, Teacher
from qbench.quant.attach import attach
from qbench.quant.options import build_method, build_paper_method
from qbench.registry import method_class
from qbench.suite.bundled import bundled_folder
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from qbench.train.optimizer import Schedule, build_optimizer

STEP = {"schedule": "step", "gamma": 0.1}
# tensorpack, examples/DoReFa-Net/alexnet-dorefa.py, which TTQ's released code is derived from
DOREFA = {
    **{"optimizer": "adam", "lr": 1e-4, "epsilon": 1e-5, "schedule": "step", "gamma": 0.2},
    **{"milestones": (56, 64), "epochs": 100, "batch_size": 128, "initialization": "scratch"},
    **{"weight_decay": 5e-6, "weight_decay_on": "classifier"},
}
# yhhhli/APoT_Quantization, README.md ("Results and Checkpoints") and ImageNet/main.py
APOT = {
    **{"optimizer": "sgd", "momentum": 0.9, **STEP, "milestones": (30, 60, 90), "epochs": 100},
    **{"batch_size": 1024, "weight_decay_on": "all", "initialization": "pretrained"},
}
LSQ = {
    **{"optimizer": "sgd", "momentum": 0.9, "schedule": "cosine", "final_lr": 0},
    "initialization": "pretrained",
}
SMALL = {"lr": 0.01, "epochs": 90}

RECIPES: list[tuple[str, str, dict[str, Any]]] = [
    # MatthieuCourbariaux/BinaryConnect, cifar10.py
    (
        "binary_connect",
        "1/32",
        {
            **{"optimizer": "adam", "lr": 3e-3, "schedule": "exponential", "final_lr": 2e-6},
            **{"epochs": 500, "batch_size": 50, "weight_decay": 0},
        },
    ),
    # itayhubara/BinaryNet.pytorch, models/alexnet_binary.py and main_binary.py
    ("bnn", "1/1", {"optimizer": "adam", "lr": 5e-3, "batch_size": 256, "weight_decay": 0}),
    # allenai/XNOR-Net, train.lua, opts.lua and README.md: 55 epochs of 2500 batches of 128
    (
        "bwn",
        "1/32",
        {
            **{"optimizer": "sgd", "momentum": 0.9, "lr": 1e-2, "epochs": 55, "steps": 2500},
            **{"batch_size": 128, "initialization": "scratch"},
        },
    ),
    # The same; a tenth of the rate for Adam, whose gradient is multiplied by 1e9 (train.lua, 186)
    (
        "xnor",
        "1/1",
        {
            **{"optimizer": "adam", "lr": 1e-3, "epochs": 55, "steps": 1500, "batch_size": 800},
            **{"weight_decay": 0, "epsilon": 1e-17, "initialization": "scratch"},
        },
    ),
    # tensorpack, examples/DoReFa-Net/alexnet-dorefa.py
    *(("dorefa", bits, DOREFA) for bits in ("1/32", "1/1", "1/2")),
    # czhu95/ternarynet, examples/Ternary-Net/tw-imagenet-alexnet.py: 4 GPUs with 32 images each
    ("ttq", "2/32", DOREFA),
    # zhaoweicai/hwgq, res18-hwgq-3ne-clip-poly-320k: 320,000 steps of 4 · 64 images
    (
        "hwgq",
        "1/2",
        {
            **{"optimizer": "sgd", "lr": 0.1, "schedule": "linear", "final_lr": 0, "epochs": 64},
            **{"batch_size": 256, "weight_decay": 5e-5},
        },
    ),
    # microsoft/LQ-Nets, imagenet.py with --data_aug, imagenet_utils.py (weight_decay_pattern)
    (
        "lq_nets",
        "2/2",
        {
            **{"optimizer": "sgd", "nesterov": True, "lr": 0.1, **STEP, "epochs": 110},
            **{"milestones": (30, 60, 85, 95, 105), "batch_size": 256},
            **{"weight_decay": 5e-5, "weight_decay_on": "weights", "initialization": "scratch"},
        },
    ),
    # PACT, Appendix B
    (
        "pact",
        "2/2",
        {
            **{"optimizer": "sgd", "lr": 0.1, **STEP, "milestones": (30, 60, 85, 95)},
            **{"epochs": 110, "batch_size": 256, "weight_decay": 1e-4},
        },
    ),
    # afriesen/ftprop, README.md ("ResNet-18, ImageNet")
    *(
        (
            "friesen_domingos",
            bits,
            {
                **{"optimizer": "sgd", "lr": 0.1, **STEP, "milestones": (30, 60), "epochs": 90},
                **{"batch_size": 256, "weight_decay": decay, "weight_decay_on": "network"},
            },
        )
        for bits, decay in (("32/1", 5e-7), ("32/2", 1e-5))
    ),
    # dnvtmf/TBN, imagenet.py
    (
        "tbn",
        "1/2",
        {
            **{"optimizer": "sgd", "lr": 0.1, **STEP, "milestones": (30, 60, 90), "epochs": 100},
            **{"batch_size": 256, "weight_decay": 1e-4},
        },
    ),
    # liuzechun/Bi-Real-net, pytorch_implementation/BiReal18_34/train.py
    (
        "bireal",
        "1/1",
        {
            **{"optimizer": "adam", "lr": 1e-3, "schedule": "linear", "final_lr": 0, "epochs": 256},
            **{"batch_size": 512, "weight_decay": 0, "label_smoothing": 0.1},
        },
    ),
    # liuzechun/ReActNet, resnet/2_step2/run.sh
    (
        "react_net",
        "1/1",
        {
            **{"optimizer": "adam", "lr": 2.5e-3, "schedule": "linear", "final_lr": 0},
            **{"epochs": 128, "batch_size": 512, "weight_decay": 0, "teacher": Teacher()},
        },
    ),
    # Xilinx/graffitist, scripts/train_imagenet_tf.py: a factor of 0.94 every 3,000 of 266,910 steps
    (
        "tqt",
        "4/8",
        {
            **{"optimizer": "adam", "lr": 1e-6, "schedule": "exponential", "final_lr": 4.1e-9},
            **{"epochs": 5, "batch_size": 24, "weight_decay": 0, "initialization": "pretrained"},
        },
    ),
    # htqin/IR-Net, ImageNet/ResNet18, config.yaml: 62,500 steps of 32 · 64 images
    *(
        (
            "ir_net",
            bits,
            {
                **{"optimizer": "sgd", "nesterov": True, "lr": 0.8, **STEP, "epochs": 100},
                **{"milestones": (30, 60, 90), "batch_size": 2048, "warmup_epochs": 4},
                **{"weight_decay": decay, "initialization": "scratch"},
            },
        )
        for bits, decay in (("1/1", 1e-5), ("1/32", 1e-4))
    ),
    # z-hXu/ReCU, imagenet/run.sh
    (
        "recu",
        "1/1",
        {
            **{"optimizer": "sgd", "lr": 0.1, "schedule": "cosine", "final_lr": 0, "epochs": 200},
            **{"batch_size": 512, "warmup_epochs": 5, "weight_decay": 1e-4},
            **{"weight_decay_on": "weights", "initialization": "scratch"},
        },
    ),
    # huawei-noah/Efficient-Computing, BinaryNetworks/AdaBin/imagenet/main.py
    (
        "adabin",
        "1/1",
        {
            **{"optimizer": "sgd", "lr": 0.1, "schedule": "cosine", "final_lr": 0, "epochs": 120},
            **{"batch_size": 256, "weight_decay": 1e-5, "weight_decay_on": "all"},
            **{"initialization": "scratch"},
        },
    ),
    # liuzechun/Nonuniform-to-Uniform-Quantization, resnet/run.sh
    (
        "n2uq",
        "2/2",
        {
            **{"optimizer": "adam", "lr": 1.25e-3, "schedule": "linear", "final_lr": 0},
            **{"epochs": 128, "batch_size": 256, "weight_decay": 0, "initialization": "pretrained"},
            "teacher": Teacher(),
        },
    ),
    # nbasyl/OFQ, train_scripts/deit_t/w2a2_deit_t.sh: 4 GPUs with 140 images each
    (
        "stats_q",
        "2/2",
        {
            **{"optimizer": "adamw", "lr": 5.47e-4, "schedule": "cosine", "epochs": 300},
            **{"batch_size": 560, "warmup_epochs": 5, "weight_decay": 0.05},
            **{"weight_decay_on": "weights", "initialization": "pretrained", "final_lr": 1e-5},
            "teacher": Teacher(),
        },
    ),
    # Qualcomm-AI-research/oscillations-qat, README.md and utils/click_options.py
    *(
        (
            "oscillation",
            bits,
            {
                **{"optimizer": "sgd", "lr": lr, "schedule": "cosine", "final_lr": 0, "epochs": 90},
                **{"batch_size": 128, "weight_decay": decay, "initialization": "pretrained"},
                "reestimate_batches": 50,
            },
        )
        for bits, lr, decay in (("4/4", 0.0033, 5e-5), ("3/3", 0.01, 2.5e-5))
    ),
    # Jacob et al., Appendix D.1
    (
        "jacob",
        "8/8",
        {
            **{"optimizer": "sgd", "momentum": 0.9, "lr": 1e-5, **STEP, "epochs": 100},
            **{"milestones": (30, 60, 90), "batch_size": 32, "weight_decay": 0},
        },
    ),
    # jsk1107/pytorch_QIL, train.py ("The same environment as the setting in the paper")
    (
        "qil",
        "2/2",
        {
            **{"optimizer": "sgd", "lr": 0.04, **STEP, "milestones": (20, 40, 60, 80)},
            **{"epochs": 90, "weight_decay": 1e-4, "weight_decay_on": "all"},
            "initialization": "pretrained",
        },
    ),
    # LSQ, Section 3 and Table 2
    ("lsq", "2/2", {**LSQ, **SMALL, "weight_decay": 0.25e-4}),
    ("lsq", "3/3", {**LSQ, **SMALL, "weight_decay": 0.5e-4}),
    ("lsq", "3(±4)/8", {**LSQ, **SMALL, "weight_decay": 0.5e-4}),
    ("lsq", "4/4", {**LSQ, **SMALL, "weight_decay": 1e-4}),
    ("lsq", "8/8", {**LSQ, "lr": 1e-3, "epochs": 1, "weight_decay": 1e-4}),
    ("lsq", "32/2", {**LSQ, **SMALL, "weight_decay": 0.25e-4}),
    *(("apot", f"{k}/{k}", {**APOT, "lr": 0.01, "weight_decay": 1e-4}) for k in (3, 4, 5)),
    ("apot", "2/2", {**APOT, "lr": 0.04, "weight_decay": 2e-5}),
    # cvlab-yonsei/EWGS, ImageNet/ImageNet_train_quant.py
    (
        "ewgs",
        "1/1",
        {
            **{"optimizer": "sgd", "lr": 0.01, "schedule": "cosine", "epochs": 100},
            **{"batch_size": 256, "weight_decay": 1e-4, "initialization": "pretrained"},
        },
    ),
    # facebookresearch/parq, examples/qat_resnet_imagenet.py and scripts/qat_resnet_imagenet.sh
    (
        "parq",
        "2/32",
        {
            **{"optimizer": "sgd", "lr": 0.1, **STEP, "milestones": (30, 60), "epochs": 90},
            **{"batch_size": 256, "weight_decay": 1e-4, "initialization": "scratch"},
        },
    ),
    # INQ, Sections 3.1 and 3.3: ResNet-18
    *(
        (
            "inq",
            f"{bits}/32",
            {
                **{"optimizer": "sgd", "momentum": 0.9, "epochs": epochs, "batch_size": 80},
                **{"weight_decay": 5e-4, "initialization": "pretrained"},
            },
        )
        for bits, epochs in ((5, 8), (2, 30))
    ),
]


@pytest.mark.parametrize(("method", "bits", "fields"), RECIPES)
def test_a_recipe_is_that_of_its_source(method: str, bits: str, fields: dict[str, Any]) -> None:
    found = build_method(method, {}).paper_recipe_for(BitWidths.parse(bits))
    assert found is not None
    assert {name: getattr(found, name) for name in fields} == fields


# The cells of imagenet_lowbit whose network has another recipe than the method's own.
ROWS: list[tuple[str, str, str, dict[str, Any]]] = [
    # XNOR-Net, Section 4.2, which trains BinaryConnect too
    (
        "binary_connect",
        "alexnet_bn",
        "1/32",
        {
            **{"optimizer": "sgd", "momentum": 0.9, "lr": 0.1, "epochs": 16, "batch_size": 512},
            **{"milestones": (4, 8, 12), "gamma": 0.01, "weight_decay": 0},
        },
    ),
    # XNOR-Net, Section 4.2 ("Residual Net")
    (
        "bwn",
        "resnet18",
        "1/32",
        {
            **{"optimizer": "sgd", "momentum": 0.9, "lr": 0.1, "epochs": 58, "batch_size": 256},
            **{"milestones": (30, 40), "gamma": 0.01, "milestone_lrs": (), "steps": None},
            "milestone_weight_decays": (),
        },
    ),
    ("bwn", "alexnet_bn", "1/32", {"steps": 2500, "batch_size": 128, "epochs": 55}),
    # czhu95/ternarynet, README.md: ResNets are fine-tuned
    ("ttq", "resnet18", "2/32", {"initialization": "pretrained"}),
    ("ttq", "alexnet_bn", "2/32", {"initialization": "scratch", "epochs": 100}),
    # INQ, Section 3.1
    ("inq", "resnet18", "5/32", {"batch_size": 80}),
    ("inq", "resnet50", "5/32", {"batch_size": 32}),
    # zhaoweicai/hwgq, alex-hwgq-3ne-clip-poly-320k: 320,000 steps of 2 · 128 images
    (
        "hwgq",
        "alexnet_bn",
        "1/2",
        {"lr": 0.02, "weight_decay": 5e-4, "epochs": 64, "batch_size": 256},
    ),
    # Quantization Networks, Section 4.1
    (
        "quantization_networks",
        "alexnet_bn",
        "2/32",
        {"lr": 1e-3, "milestones": (25, 40), "gamma": 0.1, "epochs": 55, "weight_decay": 5e-4},
    ),
    (
        "quantization_networks",
        "resnet18",
        "2/32",
        {"lr": 1e-3, "milestones": (30, 45), "gamma": 0.1, "epochs": 55, "weight_decay": 1e-4},
    ),
]


@pytest.fixture(scope="module")
def lowbit() -> dict[tuple[str, str, str], Recipe]:
    """The recipes of imagenet_lowbit, by method, model and bit-widths."""
    suite = load_suite(bundled_folder() / "imagenet_lowbit.yaml", ["data={root: nowhere}"])
    return {(p.trial.method, p.trial.model, p.trial.bits): p.trial.recipe for p in expand(suite)}


@pytest.mark.parametrize(("method", "model", "bits", "fields"), ROWS)
def test_a_cell_has_the_recipe_of_its_network(
    lowbit: dict[tuple[str, str, str], Recipe],
    method: str,
    model: str,
    bits: str,
    fields: dict[str, Any],
) -> None:
    found = lowbit[method, model, bits]
    assert {name: getattr(found, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("method", "layers"),
    [
        # every layer has binary=binary; a real-valued image
        ("binary_connect", "all_but_image"),
        ("bnn", "all_but_image"),
        ("inq", "all"),  # Section 3.1
        ("jacob", "all"),
        ("parq", "all"),  # utils/train.py leaves out norms, and a module called head alone
        ("lsq", "first_last_8bit"),  # Section 3
        ("lsq_plus", "first_last_8bit"),
        ("apot", "first_last_8bit_weights"),  # first_conv and last_fc, models/quant_layer.py
        ("bwn", "skip_first_last"),  # convNodes 2 … n − 1, util.lua
        ("dorefa", "skip_first_last"),  # conv0 and fct
    ],
)
def test_the_layers_are_those_of_the_source(method: str, layers: str) -> None:
    assert method_class(method).paper_layers == layers


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("jacob", {"delay_steps": 500_000, "momentum": 0.999}),  # Appendix D.1, Section 3.1
        # scripts/qat_resnet_imagenet.sh; the period and the warm-up of examples/…imagenet.py
        ("parq", {"period": 50, "steepness": 75.0, "warmup_steps": 2500, "scope": "filter"}),
    ],
)
def test_the_options_are_those_of_the_source(method: str, options: dict[str, Any]) -> None:
    built = build_paper_method(method, {})
    values = {name: getattr(built, name, None) for name in options}
    scope = {"scope": "filter"} if "scope" in options else {}
    assert {**values, **scope} == options
    if scope:
        assert built.granularity == build_method(method, scope).granularity


def regimes(*parts: tuple[int, float, float]) -> Iterator[tuple[float, float]]:
    """Yield the rate and the weight decay of every epoch, from last epoch, rate and decay."""
    begin = 0
    for end, lr, decay in parts:
        yield from [(lr, decay)] * (end - begin)
        begin = end


# INQ's rate in the epochs of a portion of three epochs, and of two: 0.003, times 0.2 after each
# 15,000 of 63,000 steps (AojunZhou/Incremental-Network-Quantization, alexnet/solver.prototxt)
THREE = [(0.003, 5e-4), (0.0006, 5e-4), (0.00012, 5e-4)]
TWO = [(0.003, 5e-4), (0.00012, 5e-4)]
FOUR = [(0.003, 5e-4), (0.0006, 5e-4), (0.00012, 5e-4), (0.000024, 5e-4)]


@pytest.mark.parametrize(
    ("method", "bits", "expected"),
    [
        (
            "bwn",
            "1/32",
            regimes(
                (18, 1e-2, 5e-4), (29, 5e-3, 5e-4), (43, 1e-3, 0), (52, 5e-4, 0), (55, 1e-4, 0)
            ),
        ),
        (
            "xnor",
            "1/1",
            regimes((18, 1e-3, 0), (29, 5e-4, 0), (43, 1e-4, 0), (52, 5e-5, 0), (55, 1e-5, 0)),
        ),
        (
            "bnn",
            "1/1",
            regimes((20, 5e-3, 0), (30, 1e-3, 0), (35, 5e-4, 0), (40, 1e-4, 0), (50, 1e-5, 0)),
        ),
        ("dorefa", "1/2", regimes((56, 1e-4, 5e-6), (64, 2e-5, 5e-6), (100, 4e-6, 5e-6))),
        ("ttq", "2/32", regimes((56, 1e-4, 5e-6), (64, 2e-5, 5e-6), (100, 4e-6, 5e-6))),
        (
            "qil",
            "2/2",
            regimes(
                *((20, 0.04, 1e-4), (40, 4e-3, 1e-4), (60, 4e-4, 1e-4), (80, 4e-5, 1e-4)),
                (90, 4e-6, 1e-4),
            ),
        ),
        ("jacob", "8/8", regimes((30, 1e-5, 0), (60, 1e-6, 0), (90, 1e-7, 0), (100, 1e-8, 0))),
        (
            "lq_nets",
            "2/2",
            regimes(
                *((30, 0.1, 5e-5), (60, 1e-2, 5e-5), (85, 1e-3, 5e-5), (95, 1e-4, 5e-5)),
                *((105, 1e-5, 5e-5), (110, 1e-6, 5e-5)),
            ),
        ),
        (
            "apot",
            "2/2",
            regimes((30, 0.04, 2e-5), (60, 4e-3, 2e-5), (90, 4e-4, 2e-5), (100, 4e-5, 2e-5)),
        ),
        ("binary_connect", "1/32", [(3e-3 * (2e-6 / 3e-3) ** (e / 500), 0) for e in range(500)]),
        ("bireal", "1/1", [(1e-3 * (1 - e / 256), 0) for e in range(256)]),
        ("inq", "5/32", [*THREE, *THREE, *TWO]),
        ("inq", "4/32", [*THREE] * 5),
        ("inq", "3/32", [*THREE] * 7),
        ("inq", "2/32", [*FOUR, *THREE, *THREE] * 3),
    ],
)  # fmt: skip
def test_the_rate_and_the_decay_of_every_epoch(
    method: str, bits: str, expected: Iterator[tuple[float, float]]
) -> None:
    recipe = build_method(method, {}).paper_recipe_for(BitWidths.parse(bits))
    assert recipe is not None
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    handle = attach(network, build_method("ste", {}), bits="2/32", layers="all")
    optimizer = build_optimizer(handle, recipe)
    schedule, found = Schedule(optimizer, recipe), []
    for _ in range(recipe.epochs):
        schedule.start_step(1, 1)
        optimizer.step()
        group = optimizer.param_groups[0]  # that of the weights of linear layers
        found.append((group["lr"], group["weight_decay"]))
        schedule.step()
    wanted = list(expected)
    assert [lr for lr, _ in found] == pytest.approx([lr for lr, _ in wanted], rel=1e-6)
    assert [decay for _, decay in found] == pytest.approx([decay for _, decay in wanted])


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_inq_restarts_where_it_freezes_more(bits: int) -> None:
    inq = build_method("inq", {})
    recipe = inq.paper_recipe_for(BitWidths.parse(f"{bits}/32"))
    assert recipe is not None
    network = torch.nn.Linear(40, 50)
    handle = attach(network, inq, bits=f"{bits}/32", layers="all")
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    optimizer = build_optimizer(handle, recipe)
    schedule, frozen = Schedule(optimizer, recipe), [0]
    for epoch in range(1, recipe.epochs + 1):
        handle.on_epoch_start(epoch, recipe.epochs, steps=1)
        frozen.append(int(quantizer.get_buffer("frozen").sum()))
        starts = optimizer.param_groups[0]["lr"] == 0.003
        assert starts == (frozen[-1] > frozen[-2]), epoch
        optimizer.step()
        schedule.step()
