"""How much more often images of a rare look are shown in a training."""

from collections import Counter
from collections.abc import Sequence

from pipeline.survey.facts import ImageFacts

_POWER = 1 / 3  # between no balance, 0, and as often as the commonest look, 1
_MOST = 4.0


def crop_weights(facts: Sequence[ImageFacts]) -> list[float]:
    """Of each image: 1 for the commonest look, and more the rarer a look is."""
    looks = [(one.colour, one.polarity) for one in facts]
    counts = Counter(looks)
    most = max(counts.values(), default=1)
    return [min(_MOST, (most / counts[look]) ** _POWER) for look in looks]
