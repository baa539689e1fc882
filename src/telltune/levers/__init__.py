"""Levers: more training examples from what is abundant, such as unlabeled inputs."""
