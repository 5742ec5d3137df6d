"""The table of all methods: what each was checked against, and where it departs."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from qbench import registry

from .markdown import Rows, table

AUTHORS, PORT, FORMULA = "authors' code", "a port", "paper's formula"

CHECKED = {
    "abc_net": (FORMULA, "no code of the authors is public"),
    "adabin": (AUTHORS, "huawei-noah/Efficient-Computing"),
    "adaround": (AUTHORS, "quic/aimet"),
    "admm": (FORMULA, "no code is public"),
    "apot": (AUTHORS, "yhhhli/APoT_Quantization"),
    "binary_connect": (AUTHORS, "MatthieuCourbariaux/BinaryConnect"),
    "bireal": (AUTHORS, "liuzechun/Bi-Real-net"),
    "bnn": (AUTHORS, "itayhubara/BinaryNet, BinaryNet.pytorch"),
    "brecq": (AUTHORS, "yhhhli/BRECQ"),
    "brevitas": ("the library", "Xilinx/brevitas"),
    "bwn": (AUTHORS, "allenai/XNOR-Net"),
    "dorefa": (AUTHORS, "tensorpack/tensorpack"),
    "dsq": (PORT, "ricky40403/DSQ"),
    "ewgs": (AUTHORS, "cvlab-yonsei/EWGS"),
    "friesen_domingos": (AUTHORS, "afriesen/ftprop"),
    "gptq": (AUTHORS, "IST-DASLab/gptq"),
    "hwgq": (AUTHORS, "zhaoweicai/hwgq"),
    "inq": (AUTHORS, "AojunZhou/Incremental-Network-Quantization"),
    "ir_net": (AUTHORS, "htqin/IR-Net"),
    "jacob": (FORMULA, "Eq. 12 and Appendix A"),
    "lq_nets": (AUTHORS, "microsoft/LQ-Nets"),
    "lsq": (PORT, "zhutmost/lsq-net, hustzxd/LSQuantization"),
    "lsq_plus": (FORMULA, "from secondary sources; the paper could not be read"),
    "n2uq": (AUTHORS, "liuzechun/Nonuniform-to-Uniform-Quantization"),
    "obq": (AUTHORS, "IST-DASLab/OBC"),
    "oscillation": (AUTHORS, "Qualcomm-AI-research/oscillations-qat"),
    "pact": (FORMULA, "Eq. 1–3; a port, KwangHoonAn/PACT"),
    "parq": (AUTHORS, "facebookresearch/parq, and torchao's copy of it"),
    "ptq_minmax": (FORMULA, "of uniform quantization"),
    "ptq_mse": (AUTHORS, "yhhhli/BRECQ"),
    "ptq_percentile": (FORMULA, "a percentile by its definition"),
    "qdrop": (AUTHORS, "wimh966/QDrop"),
    "qil": (PORT, "jsk1107/pytorch_QIL"),
    "quant_noise": (AUTHORS, "facebookresearch/fairseq"),
    "quantization_networks": (AUTHORS, "aliyun/alibabacloud-quantization-networks"),
    "quest": (AUTHORS, "IST-DASLab/QuEST"),
    "react_net": (AUTHORS, "liuzechun/ReActNet"),
    "recu": (AUTHORS, "z-hXu/ReCU"),
    "rep_q_vit": (AUTHORS, "zkkli/RepQ-ViT"),
    "stable_qat": (AUTHORS, "microsoft/StableQAT"),
    "stats_q": (AUTHORS, "nbasyl/OFQ"),
    "ste": ("nothing", "the baseline of this project, by its own definition"),
    "tbn": (AUTHORS, "dnvtmf/TBN"),
    "torchao": ("the library", "pytorch/ao"),
    "tqt": (AUTHORS, "Xilinx/Vitis-AI (quantizer), Xilinx/graffitist (training)"),
    "ttq": (AUTHORS, "czhu95/ternarynet"),
    "twn": (AUTHORS, "fengfu-chris/caffe-twns"),
    "wrpn": (FORMULA, "as IntelLabs/distiller documents it"),
    "xnor": (AUTHORS, "allenai/XNOR-Net"),
}
"""What each method was checked against, and where that is."""

OTHERS = {
    "abc_net": "The paper gives no initial v and β: thresholds start at evenly spaced quantiles, "
    "and β at its least-squares fit.",
    "admm": "The paper gives neither ρ nor the number of updates; see above.",
    "friesen_domingos": "sign(0) is +1, where the code has −1.",
    "lsq": "An input with negative values has the codes of a weight. N of an activation is the "
    "number of features of a sample; ports count the batch (`activation_count: numel`).",
    "lsq_plus": "The gradient of β has the factor of that of s, which could not be confirmed.",
    "parq": "torchao's `hard` and `binary_relax` use the rounding of the quantizer in the steps "
    "that choose levels, and the nearest level in all others; here it is always the nearest. "
    "Shrinkage and annealed weight decay, off by default there, are left out.",
    "ptq_mse": "Factors around the best of the 80 are tried too: at 8 bits the error of the 80 is "
    "up to a third larger. Weights are symmetric, where those of BRECQ have a zero point.",
    "ptq_percentile": "The percentile of the paper could not be confirmed; it is an option.",
    "quantization_networks": "α starts at the least error, not at 1/β. α and β have a tenth of the "
    "learning rate. k-means is solved to the optimum. The threshold of 1-bit activations is a "
    "midpoint of k-means, 0.05 in the release. An input with negative values has the levels of a "
    "weight, where the paper has inputs behind a ReLU only. See above.",
    "stable_qat": "The code quantizes weights of language models; no recipe for images is public.",
    "wrpn": "At 1 bit the scale is that of a filter, which could not be confirmed.",
}
"""Departures of methods whose docstring has no paragraph of them."""

BAR = "\u2223"  # in place of the one that separates columns
_MARK = re.compile(
    r"(?:^|\s)(?:Departures?(?:, as options)?|Differences(?: from the library's defaults)?)\.\s"
)


def section(folder: Path) -> str:
    """List all methods."""
    rows: Rows = []
    for name, (against, where) in CHECKED.items():
        rows.append([f"`{name}`", against, where, departures(name).replace("|", BAR)])
    return "\n\n".join(
        [
            "## All methods",
            "What the quantizer of each method was checked against by a test or above, and every "
            "departure that is known. *a port* is public code by others, where the authors "
            "released none. *paper's formula* is an independent statement of the equations. "
            "[methods.md](methods.md#sources-of-the-published-recipes) compares recipes.",
            table(["method", "checked against", "source", "departures"], rows),
        ]
    )


def departures(name: str) -> str:
    """Return the departures of a method, from its docstring or from `OTHERS`.

    Args:
        name: Name of the method.
    """
    module = sys.modules[registry.method_class(name).__module__]
    found = _MARK.split(inspect.getdoc(module) or "", maxsplit=1)
    if len(found) == 1:
        return OTHERS.get(name, "none known")
    return " ".join(found[1].split()).replace("``", "`")
