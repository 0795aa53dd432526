"""Pages about a study: one for each participant, and one for all."""
