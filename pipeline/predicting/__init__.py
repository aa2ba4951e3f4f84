"""Pixels → maps → measured objects. No Ray in here."""
