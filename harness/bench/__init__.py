"""Benchmarks that judge: measured intervals against stated bounds."""
