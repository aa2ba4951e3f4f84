"""U-Net segmentation at object-storage scale, on Ray."""

__version__ = "0.1.0"
