"""Levers: ways to make training examples from abundant data, such as unlabeled inputs."""
