"""The U-Net and its bundle."""
