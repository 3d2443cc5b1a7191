"""Benchmarks: one file for each question about speed, answered with ratios of alternatives measured side by side."""
