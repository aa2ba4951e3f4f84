"""Which epochs deserve what would be too much after every one, such as pictures."""

import math

_GROWTH = 1.25


def is_milestone(epoch: int) -> bool:
    """Epoch 1, and then whenever the training is a quarter longer: 2, 3, 4, 5, 6, 8, 10, 12, …

    So a training of any length has a few dozen at most.
    """
    return epoch == 1 or _power(epoch) > _power(epoch - 1)


def _power(epoch: int) -> int:
    return math.floor(math.log(epoch, _GROWTH))
