"""The files in which the formulas were read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Code:
    """A file from which a formula was transcribed.

    Attributes:
        repository: Owner and name.
        path: Path of the file.
        commit: Commit at which it was read.
    """

    repository: str
    path: str
    commit: str

    @property
    def label(self) -> str:
        """Label of links to the file."""
        names = Path(self.path).with_suffix("").parts[-2:]
        return "-".join([self.repository.split("/")[1], *names])

    @property
    def definition(self) -> str:
        """Markdown definition of the label."""
        url = f"https://github.com/{self.repository}/blob/{self.commit}/{self.path}"
        return f"[{self.label}]: {url}"

    def link(self, text: str) -> str:
        """Return a Markdown link to the file."""
        return f"[{text}][{self.label}]"


COMMITS = {
    "tensorpack/tensorpack": "1547a54e8546494614ca31c984a1bfd1d0e24b77",
    "IntelLabs/distiller": "d859fc85a3c9c3048442a4ccd9b98ac45f1e0dc4",
    "666DZY666/micronet": "c31cdd28ed72376e861704addf718ac485919621",
    "KwangHoonAn/PACT": "342414c29444e0ce0a5d13456c8a09226d04c67b",
    "ModelTC/MQBench": "00f477d58ef67c1c1bbe71d14312731fd3a4960d",
    "zhutmost/lsq-net": "1f644e9b45925354503f2e2d070c56ae8b552202",
    "hustzxd/LSQuantization": "86cf51193ec197ec607d271acaa488fd9a8ff60e",
    "zhaoweicai/hwgq": "ebc706bee3e2d145de1da4be446ce8de8740738f",
    "zhaoweicai/EdMIPS": "690a7c650ea468f8e9273aceb833f1849f980ff9",
    "allenai/XNOR-Net": "4006d594fe0349a5ed4a5ba6795641d9eecb3aac",
    "jiecaoyu/XNOR-Net-PyTorch": "ebccb503b2f9ebc96187a75b6daa63d95b61d110",
    "fengfu-chris/caffe-twns": "51916a4b661ab4153287ca15f677f96dd11b3374",
    "microsoft/LQ-Nets": "86b9b75240aa530782fad63c76f79684a07015d7",
    "aliyun/alibabacloud-quantization-networks": "05522aabebf5188df5a92b26f96f5ebded806ca9",
}


def _at(repository: str, *paths: str) -> list[Code]:
    return [Code(repository, path, COMMITS[repository]) for path in paths]


TENSORPACK, TENSORPACK_NETWORK = _at(
    "tensorpack/tensorpack",
    "examples/DoReFa-Net/dorefa.py",
    "examples/DoReFa-Net/alexnet-dorefa.py",
)
DISTILLER, DISTILLER_PARAMETERS, DISTILLER_DOCUMENTS = _at(
    "IntelLabs/distiller",
    "distiller/quantization/clipped_linear.py",
    "distiller/quantization/q_utils.py",
    "docs-src/docs/algo_quantization.md",
)
MICRONET, MICRONET_BINARY = _at(
    "666DZY666/micronet",
    "micronet/compression/quantization/wqaq/dorefa/quantize.py",
    "micronet/compression/quantization/wbwtab/quantize.py",
)
(KWANGHOONAN,) = _at("KwangHoonAn/PACT", "module.py")
MQBENCH, MQBENCH_LSQ, MQBENCH_OBSERVER, MQBENCH_SCHEME, MQBENCH_GUIDE = _at(
    "ModelTC/MQBench",
    "mqbench/fake_quantize/dorefa.py",
    "mqbench/fake_quantize/lsq.py",
    "mqbench/observer.py",
    "mqbench/scheme.py",
    "docs/source/user_guide/algorithm/algorithm.rst",
)
LSQ_NET, LSQ_NET_FUNCTION, LSQ_NET_DEFAULT, LSQ_NET_EXAMPLE, LSQ_NET_README = _at(
    "zhutmost/lsq-net",
    "quan/quantizer/lsq.py",
    "quan/func.py",
    "config.yaml",
    "examples/lsq/resnet18_a2w3_imagenet.yaml",
    "README.md",
)
(LSQUANTIZATION,) = _at("hustzxd/LSQuantization", "lsq.py")
HWGQ, HWGQ_WEIGHTS, HWGQ_NETWORK = _at(
    "zhaoweicai/hwgq",
    "src/caffe/layers/quant_layer.cpp",
    "src/caffe/layers/binary_conv_layer.cpp",
    "examples/imagenet/res18-hwgq-3ne-clip-poly-320k/train_val.prototxt",
)
(EDMIPS,) = _at("zhaoweicai/EdMIPS", "models/quant_module.py")
XNOR_NET, XNOR_NET_TRAIN, XNOR_NET_INPUT, XNOR_NET_MODEL = _at(
    "allenai/XNOR-Net",
    "util.lua",
    "train.lua",
    "newLayers/BinActiveZ.lua",
    "models/alexnetxnor.lua",
)
(XNOR_PYTORCH,) = _at("jiecaoyu/XNOR-Net-PyTorch", "ImageNet/networks/util.py")
(CAFFE_TWN,) = _at("fengfu-chris/caffe-twns", "src/caffe/blob.cpp")
(LQ_NETS,) = _at("microsoft/LQ-Nets", "learned_quantization.py")
(QUANTIZATION_NETWORKS,) = _at("aliyun/alibabacloud-quantization-networks", "anybit.py")
READ = [value for value in list(globals().values()) if isinstance(value, Code)]
