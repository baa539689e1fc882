"""Lines of research beside the core, one package each."""
