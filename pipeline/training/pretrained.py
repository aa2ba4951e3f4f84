"""A training that begins with another model's network instead of random weights: fine-tuning.

The body of the network comes over whole, and of the heads those channels that mean the same. What
the network is and what it sees is thereby settled; all else is chosen as for any training.
"""

from dataclasses import dataclass, replace

import torch

from pipeline.config import TrainSettings
from pipeline.errors import SettingsError
from pipeline.methods import build_method
from pipeline.methods.base import Method, alike
from pipeline.models.blocks import StandardConv
from pipeline.models.unet import UNet
from pipeline.models.weights import ModelBundle, load_bundle
from pipeline.records import Classes
from pipeline.survey.configure import Choice, Configuration
from pipeline.survey.rules import listed


@dataclass(frozen=True)
class Pretrained:
    """The model that a training begins with."""

    uri: str
    model: ModelBundle

    def fill_in(self, settings: TrainSettings) -> TrainSettings:
        """What the network is, and how it sees images, is as in the model.

        Raises:
            SettingsError: the settings ask for another network.
        """
        spec, asked = self.model.spec, settings.network
        # A bundle that does not say has a full one: left open it would be chosen anew.
        whole = spec.network.full_resolution or "full"
        network = spec.network.model_copy(update={"full_resolution": whole})
        for name in asked.model_fields_set:
            self._check(f"network.{name}", getattr(asked, name), getattr(network, name))
        if settings.channels is not None:
            self._check("channels", settings.channels, spec.channels)
        given = {name: getattr(settings.normalize, name)
                 for name in settings.normalize.model_fields_set}  # fmt: skip
        return settings.model_copy(
            update={
                "network": network,
                "channels": spec.channels,
                "normalize": spec.normalize.model_copy(update=given),
            }
        )

    def explain(self, configuration: Configuration, classes: Classes) -> Configuration:
        """Say of what the model has settled that it did."""
        spec = self.model.spec
        choices = [
            replace(one, reason=f"as {self.uri} has it") if self._settles(one) else one
            for one in configuration.choices
        ]
        known = [classes[here].name for here in alike(classes, spec.classes)]
        what = f"it knows {listed(known)}" if known else "it knows none of the classes"
        first = Choice("pretrained", self.uri, f"the training begins with its weights; {what}")
        return replace(configuration, choices=(first, *choices))

    def _settles(self, choice: Choice) -> bool:
        if choice.setting == "normalize.kind":  # may be given
            return bool(choice.value == self.model.spec.normalize.kind)
        return choice.setting == "channels" or choice.setting.startswith("network.")

    def _check(self, setting: str, asked: object, own: object) -> None:
        if asked != own:
            raise SettingsError(
                f"setting {setting}: {asked}, but the network of {self.uri} has {own}; leave it "
                "out, or train without --pretrained"
            )


def find_pretrained(settings: TrainSettings) -> Pretrained | None:
    """The model that the settings name, if any.

    Raises:
        BundleError: it is missing or damaged.
    """
    uri = settings.pretrained
    return None if uri is None else Pretrained(uri, load_bundle(uri))


@torch.no_grad()
def begin_with(network: UNet, method: Method, model: ModelBundle) -> None:
    """Give a network of the same shape a model's weights, in place; what it has no word for stays.

    Args:
        method: whose heads the network has.
    """
    other = build_method(model.spec.method, model.spec.classes)
    weights = model.network.state_dict()
    own = {name: value for name, value in network.state_dict().items() if _is_of_heads(name)}
    body = {name: value for name, value in weights.items() if not _is_of_heads(name)}
    network.load_state_dict(body | own)
    for module in network.modules():
        if isinstance(module, StandardConv):
            module.shorten()  # or it would hardly learn what is new
    for name, head in network.heads.items():
        for here, there, factor in method.carried_over(name, other):
            for part in ("weight", "bias"):
                getattr(head, part)[here] = weights[f"heads.{name}.{part}"][there] * factor


def _is_of_heads(name: str) -> bool:
    return name.startswith("heads.")
