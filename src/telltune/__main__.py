"""Entry point of `python -m telltune` and `accelerate launch -m telltune`."""

from telltune.cli import main

if __name__ == "__main__":
    main()
