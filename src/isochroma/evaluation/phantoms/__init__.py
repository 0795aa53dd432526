"""Simulated scans with a known truth: signal equations, acquisition, lesions, written subjects."""
