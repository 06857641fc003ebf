"""What measures a point: clocks, step statistics, collective times, phases, records."""
