"""The loss of classes of pixels, the same for any number of workers that share a batch.

Libraries of losses average over one process's crops and know no void; what is divided here is
summed over all workers first.

Legend: B batch, H height, W width, K classes.
"""

import torch
from torch import Tensor

from pipeline.collective import sum_over_workers
from pipeline.config import MethodSettings
from pipeline.records import VOID


def semantic_loss(logits: Tensor, target: Tensor, settings: MethodSettings) -> Tensor:
    """Cross-entropy plus one minus the overlap, both without the void pixels.

    The cross-entropy is weighted by class and focal (Lin et al. 2017, arXiv:1708.02002). The
    overlap is the Tversky index (Salehi et al. 2017, arXiv:1706.05721), at a `miss_weight` of 0.5
    the soft Dice of Milletari et al. 2016 (arXiv:1606.04797): a class at a time over the batch of
    all workers, averaged over the classes that the batch's labels hold.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) channel of the class, VOID where nobody labelled.
        settings: class_weights, focal, miss_weight.
    """
    classes = logits.shape[1]
    weights = torch.tensor(settings.class_weights or [1.0] * classes, device=logits.device)
    valid = target != VOID
    truth = target.long().masked_fill(~valid, 0)
    # Of each pixel's true class alone, instead of planes of zeros and ones for every class.
    likelihoods = logits.float().log_softmax(1)
    likelihood = likelihoods.gather(1, truth.unsqueeze(1)).squeeze(1)
    right = likelihood.exp() * valid
    entropy = -likelihood * weights[truth] * valid
    if settings.focal > 0:
        # At 0 a power under 1 has no slope: one pixel that is quite sure would end a training.
        entropy = entropy * (1 - right).clamp_min(1e-6) ** settings.focal
    said = (likelihoods.exp() * valid.unsqueeze(1)).sum((0, 2, 3))
    hit, areas = _sums_by_class(torch.stack([right, valid.float()]), truth, classes)
    sums = sum_over_workers(torch.cat([entropy.sum()[None], areas, hit, said]))
    total, (areas, hit, said) = sums[0], sums[1:].view(3, classes)
    missed, false = areas - hit, said - hit
    share = settings.miss_weight
    overlap = hit / (hit + share * missed + (1 - share) * false).clamp_min(1e-6)
    present = (areas > 0).float()
    mean_overlap = (overlap * present).sum() / present.sum().clamp_min(1)
    # Without a labelled pixel anywhere all of this is zero, and so are the gradients.
    loss: Tensor = total / (areas @ weights).clamp_min(1e-6) + present.max() - mean_overlap
    return loss


def _sums_by_class(values: Tensor, truth: Tensor, classes: int) -> Tensor:
    """(V, B, H, W) values of the pixels of (B, H, W) channels → (V, K) sums over each class.

    A row of pixels at a time: a float32 would stop to notice pixels before a large batch's last,
    and a GPU adds one by one what goes to one place.
    """
    rows = truth.flatten(0, 1).expand(len(values), -1, -1)
    sums = values.new_zeros(*rows.shape[:2], classes)
    return sums.scatter_add(2, rows, values.flatten(1, 2)).sum(1, dtype=torch.double).float()
