"""Small classifiers on frozen vectors of prompts, trained in seconds on a CPU."""
