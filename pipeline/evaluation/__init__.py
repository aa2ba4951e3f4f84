"""An output dataset held against annotated images.

pairing.py    which prediction is of which image
comparing.py  what of it is right, and how far its counts are off
"""

from pipeline.evaluation.comparing import evaluate

__all__ = ["evaluate"]
