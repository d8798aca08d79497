"""A file for ONNX Runtime and others: normalised images in, features out, and the tokens of vision transformers."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glocal.errors import GlocalError, one_line
from glocal.exports.preprocessing import Preprocessing
from glocal.exports.subject import Subject
from glocal.exports.target import Loaded, Target, quoted

OPSET = 18
"""The operators' version: what torch's exporter writes first, and ONNX Runtime reads since 1.14."""

TOLERANCE = {"fp32": 1e-4, "fp16": 4e-2}
"""Of other kernels with the same numbers, or with every layer's numbers rounded to 11 bits, which differs by 0.015 in
trained EfficientNets and by less than 0.002 in ResNets and vision transformers."""

_LARGEST = 2**31 - 2**20  # bytes of a protobuf file, less room for the graph
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class _Graph(nn.Module):
    """What the file computes: float32 in and out, whatever is between."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, tokens: bool) -> None:
        super().__init__()
        self.network, self.dtype, self.tokens = network, dtype, tokens

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = images.to(self.dtype)
        if not self.tokens:
            return (self.network(images).float(),)
        tokens = self.network.forward_features(images)  # type: ignore[operator]
        return self.network.forward_head(tokens).float(), tokens.float()  # type: ignore[operator]


def need_packages() -> None:
    """Raises GlocalError where a package that ONNX files need is missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise GlocalError(f"ONNX files need {' and '.join(missing)}: pip install 'glocal[export]'")


def write(subject: Subject, place: Path) -> None:
    """Writes the graph with its weights in one file.

    Raises:
        GlocalError: a package is missing, the network is too large for one file, or torch cannot export it.
    """
    need_packages()
    subject.weights()  # weights that float16 does not hold are named
    dtype = torch.float16 if subject.precision == "fp16" else torch.float32
    size = sum(weight.numel() for weight in subject.network.parameters()) * dtype.itemsize
    if size > _LARGEST:
        raise GlocalError(
            f"--to onnx: the weights take {size / 1e9:.1f} GB, and one ONNX file holds 2 GB at most; use --precision "
            "fp16 or --to timm"
        )
    outputs = _outputs(subject)
    graph = _Graph(copy.deepcopy(subject.network).to(dtype), dtype, tokens="tokens" in outputs).eval()
    side = subject.preprocessing.size
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                (torch.zeros(2, len(subject.preprocessing.mean), side, side),),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
            )
    except Exception as error:  # what the exporter cannot trace fails in many ways
        raise GlocalError(f"--to onnx: torch cannot export {subject.backbone.label}: {one_line(error)}") from error
    assert program is not None
    _forget_traces(program.model)
    program.model.metadata_props.update(subject.metadata())
    program.model.metadata_props["outputs"] = json.dumps(outputs)
    program.save(place, external_data=False)


def _forget_traces(model: Any) -> None:
    """Takes out what torch notes of every operation: source lines with the paths of this machine, and much text."""
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def _outputs(subject: Subject) -> tuple[str, ...]:
    return ("features", "tokens") if subject.has_tokens else ("features",)


def read_metadata(path: Path) -> Mapping[str, str]:
    """What a file says of itself; empty where it is no ONNX file."""
    need_packages()
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's errors, whose module has no types
        return {}
    return {one.key: one.value for one in model.metadata_props}


def load(path: Path) -> list[Loaded]:
    """Checks the file by ONNX's own checker, and opens it in ONNX Runtime on the CPU.

    Raises:
        GlocalError: one of them refuses it.
    """
    import onnx
    import onnxruntime

    try:
        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common parent
        raise GlocalError(f"--to onnx: what was written is no valid file: {one_line(error)}") from error
    metadata = session.get_modelmeta().custom_metadata_map
    outputs: tuple[str, ...] = tuple(json.loads(metadata["outputs"]))

    def run(images: Tensor) -> Mapping[str, Tensor]:
        given: list[Any] = session.run(list(outputs), {"images": images.numpy()})
        return {name: torch.from_numpy(output) for name, output in zip(outputs, given, strict=True)}

    its = Preprocessing.from_metadata(metadata)
    return [Loaded("onnx", its, run, outputs, TOLERANCE[metadata["precision"]])]


def lines(subject: Subject) -> str:
    """Opens the file in ONNX Runtime."""
    outputs = _outputs(subject)
    names = ", ".join(outputs)
    shape = f"(B, {len(subject.preprocessing.mean)}, H, W)"
    taken = names if len(outputs) > 1 else f"[{names}]"
    return (
        "import onnxruntime\n\n"
        f"session = onnxruntime.InferenceSession({quoted(subject.out)})\n"
        "settings = session.get_modelmeta().custom_metadata_map  # input_size, crop_pct, mean, std, interpolation\n"
        f'{taken} = session.run({list(outputs)}, {{"images": images}})  # normalised, {shape} float32\n'
    )


TARGET = Target(
    name="onnx",
    summary="one file for ONNX Runtime: any number of images in; features, and the tokens of vision transformers",
    endings=(".onnx",),
    write=write,
    load=load,
    metadata=read_metadata,
    lines=lines,
)
