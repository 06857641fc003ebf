"""Run directories in, numbers out."""
