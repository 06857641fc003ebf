"""The collective benchmark."""
