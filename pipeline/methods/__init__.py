"""The methods. Adding one is a file here and a line in `METHODS`."""

from pipeline.config import MethodSettings
from pipeline.methods.base import Method
from pipeline.methods.instance import InstanceMethod
from pipeline.methods.proposals import ProposalMethod
from pipeline.methods.semantic import SemanticMethod
from pipeline.records import Classes

METHODS: dict[str, type[Method]] = {
    SemanticMethod.name: SemanticMethod,
    InstanceMethod.name: InstanceMethod,
    ProposalMethod.name: ProposalMethod,
}


def build_method(settings: MethodSettings, classes: Classes) -> Method:
    """The method that the settings name, for these classes."""
    return METHODS[settings.name](settings, classes)
