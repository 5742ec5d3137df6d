"""Show pretrained weights before any training, with the quantizers that training starts with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qbench.quant.attach import attach
from qbench.quant.layers import quantizable_layers
from qbench.quant.parametrizations import originals
from qbench.report.figures.weights import weight_distributions
from qbench.spec.weights import identify, is_torchvision, weights_file
from qbench.train import weights
from qbench.train.recorder import WeightRecorder

_METHOD, _BITS = "quantization_networks", "3(±4)/32"  # as in Fig. 4 of the paper


def look_up(model: str, choice: str, figures: Path | None = None) -> dict[str, Any]:
    """Return what there is to say of pretrained weights, and draw them.

    The figure shows the distribution of the weights of each layer, with the levels and thresholds
    that Quantization Networks starts with, after its paper (arXiv:1911.09464), Fig. 3.

    Args:
        model: Name of the model.
        choice: ``torchvision``, ``torchvision:NAME``, or the path of a file of weights.
        figures: Folder to write the figure to; it is made if needed. None draws nothing.

    Returns:
        Plain values by name: model, weights, method and bit-widths, how many layers and parameters
        there are and how many of them are quantized, and the files written.

    Raises:
        QbenchError: The model or the weights are unknown, cannot be read, or do not fit.
        OSError: The folder cannot be written.
    """
    network = weights.pretrained(model, choice)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    handle = attach(network, _METHOD, bits=_BITS, alpha="reciprocal")  # as in the paper
    chosen = {originals(layer.module)[0] for layer in handle.layers}  # layers may share one
    path = weights_file(choice)
    record: dict[str, Any] = {
        "model": model,
        "weights": identify(model, choice) if is_torchvision(choice) else str(path),
        "method": _METHOD,
        "bits": _BITS,
        "layers": len(quantizable_layers(handle.model)),
        "quantized_layers": len(handle.layers),
        "parameters": parameters,
        "quantized_parameters": sum(weight.numel() for weight in chosen),
    }
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        found = WeightRecorder(handle.layers, epochs=0, soft=False).weights()
        source = record["weights"] if is_torchvision(choice) else path.name
        title = f"{model}, {source}, {handle.method.title} {_BITS}"
        written = weight_distributions(found, title, figures, trained=False)
        record["figures"] = [str(each) for each in written]
    return record


def show(record: dict[str, Any]) -> None:
    """Print what there is to say of pretrained weights.

    Args:
        record: What `look_up` returns.
    """
    count, every = record["quantized_parameters"], record["parameters"]
    share = f"{100 * count / every:.1f} %"
    print(f"{record['model']} with the weights {record['weights']}, before training")
    print(
        f"{record['method']} at {record['bits']} quantizes {record['quantized_layers']} of "
        f"{record['layers']} layers, {count:,} of {every:,} parameters ({share})"
    )
    for path in record.get("figures", ()):
        print(f"Wrote {path}")
    if "figures" not in record:
        print("`--figures DIR` draws the weights of each layer, with levels and thresholds.")
