"""A harness that measures how training scales."""
