"""Annotations → (semantic map, instances): a module a format."""
