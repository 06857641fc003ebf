"""Points, run directories, leases, order, statuses, resume."""
