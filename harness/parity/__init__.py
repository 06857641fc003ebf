"""Whether strategies train as one process does: the same losses and gradient norms, step by step."""
