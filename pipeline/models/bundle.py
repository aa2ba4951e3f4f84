"""The model bundle: a folder with weights and one JSON that says all that prediction needs.

    bundle.json           architecture, classes, normalisation, method with its thresholds
    weights.safetensors   tensors and nothing else: loading it can't execute anything

What a bundle does not hold: optimiser state, data, code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from pipeline import storage
from pipeline.config import MethodSettings, NetworkSettings, NormalizeSettings, fingerprint
from pipeline.errors import BundleError, StorageError
from pipeline.methods import build_method
from pipeline.models.unet import UNet
from pipeline.records import ClassSpec

SPEC_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"


class BundleSpec(BaseModel):
    """The JSON of a model bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["tessera-bundle"] = "tessera-bundle"
    format_version: Literal[1] = 1
    network: NetworkSettings
    channels: int = Field(ge=1, description="input channels")
    classes: tuple[ClassSpec, ...] = Field(min_length=1)
    method: MethodSettings
    normalize: NormalizeSettings
    metrics: dict[str, float] = Field(default_factory=dict, description="on validation images")
    weights_hash: str = Field("", description="content hash of the weights")

    @model_validator(mode="after")
    def _is_decided(self) -> Self:
        if self.method.name == "auto":
            raise ValueError("method.name takes a method, not auto")
        return self

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes predictions; the metrics do not."""
        return fingerprint(self.model_dump(mode="json", exclude={"metrics"}))


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
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    data = safetensors.torch.save(tensors)
    complete = spec.model_copy(update={"weights_hash": storage.content_hash(data)})
    storage.write_bytes(storage.join(uri, WEIGHTS_NAME), data)
    text = complete.model_dump_json(indent=2) + "\n"
    storage.write_bytes(storage.join(uri, SPEC_NAME), text.encode())
    return complete


def load_spec(uri: str) -> BundleSpec:
    """The JSON of a bundle, without its weights.

    Raises:
        BundleError: it is missing, isn't a bundle, or is of another version.
    """
    try:
        data = storage.read_bytes(storage.join(uri, SPEC_NAME))
    except StorageError as error:
        raise BundleError(f"{uri} is not a model bundle: {error}") from error
    try:
        return BundleSpec.model_validate(json.loads(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{uri}/{SPEC_NAME}: {where or 'bundle'}: {first['msg']}") from error
    except ValueError as error:
        raise BundleError(f"{uri}/{SPEC_NAME} is not valid JSON") from error


def load_bundle(uri: str) -> ModelBundle:
    """A bundle ready to predict, on the CPU.

    Raises:
        BundleError: missing, damaged, or with weights in any form but safetensors.
    """
    spec = load_spec(uri)
    try:
        data = storage.read_bytes(storage.join(uri, WEIGHTS_NAME))
    except StorageError as error:
        raise BundleError(f"{uri} has no weights: {error}") from error
    if storage.content_hash(data) != spec.weights_hash:
        raise BundleError(
            f"{uri}/{WEIGHTS_NAME} is not the file that {SPEC_NAME} was written with; "
            "copy the whole bundle again"
        )
    network = build_network(spec)
    _load_weights(network, data, uri)
    return ModelBundle(spec, network.eval())


def _load_weights(network: nn.Module, data: bytes, uri: str) -> None:
    try:
        tensors: Mapping[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{uri}/{WEIGHTS_NAME} is not a safetensors file") from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise BundleError(f"{uri}/{WEIGHTS_NAME} does not fit the network it names") from error
    if not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
        raise BundleError(f"{uri}/{WEIGHTS_NAME} holds values that are not numbers")
