"""Whole studies: a BIDS data set in, a BIDS derivative out, on one machine or a cluster."""
