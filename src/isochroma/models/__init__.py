"""Trained models: a typed config and weights in a folder; the shipped ones lie beside this file."""
