"""Arithmetic about a point, without torch."""
