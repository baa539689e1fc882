"""Small classifiers on frozen vectors of prompts, learned in seconds on a CPU."""
