"""Crops and the training loop. No Ray in here."""
