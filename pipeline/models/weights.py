"""A bundle's weights ⇄ a network. Only safetensors is read: nothing in it can execute."""

from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch import nn

from pipeline import storage
from pipeline.errors import BundleError
from pipeline.methods import build_method
from pipeline.models.bundle import SPEC_NAME, WEIGHTS_NAME, BundleSpec, load_spec, read_weights
from pipeline.models.unet import UNet


@dataclass(frozen=True)
class ModelBundle:
    """A network with what it takes to use it."""

    spec: BundleSpec
    network: UNet


def build_network(spec: BundleSpec) -> UNet:
    """A new U-Net, with random weights, of the shape that a spec tells."""
    heads = build_method(spec.method, spec.classes).heads
    return UNet(spec.network, spec.channels, heads)


def save_bundle(spec: BundleSpec, network: nn.Module, uri: str) -> BundleSpec:
    """Write a bundle; the spec comes back with the weights' hash in it."""
    tensors = {name: _as_stored(tensor) for name, tensor in network.state_dict().items()}
    data = safetensors.torch.save(tensors)
    complete = spec.model_copy(update={"weights_hash": storage.content_hash(data)})
    storage.write_bytes(storage.join(uri, WEIGHTS_NAME), data)
    text = complete.model_dump_json(indent=2) + "\n"
    storage.write_bytes(storage.join(uri, SPEC_NAME), text.encode())
    return complete


def round_weights(network: nn.Module) -> None:
    """Round the convolutions' weights to bfloat16, in place; `save_bundle` stores them as such.

    Normalisation keeps float32: it is small, and its statistics don't take rounding well.
    """
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.to(torch.bfloat16))


def _as_stored(tensor: torch.Tensor) -> torch.Tensor:
    """In half the bytes, where that loses nothing."""
    kept = tensor.contiguous()
    short = kept.to(torch.bfloat16) if kept.dim() > 1 else kept
    return short if torch.equal(short.to(kept.dtype), kept) else kept


def load_bundle(uri: str) -> ModelBundle:
    """A bundle ready to predict, on the CPU.

    Raises:
        BundleError: missing, damaged, or with weights in any form but safetensors.
    """
    spec = load_spec(uri)
    data = read_weights(uri, spec)
    network = build_network(spec)
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{uri}/{WEIGHTS_NAME} is not a safetensors file") from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise BundleError(f"{uri}/{WEIGHTS_NAME} does not fit the network it names") from error
    if not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
        raise BundleError(f"{uri}/{WEIGHTS_NAME} holds values that are not numbers")
    return ModelBundle(spec, network.eval())
