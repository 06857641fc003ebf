"""The strategies that spread one model over the ranks."""
