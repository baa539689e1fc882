"""Upload of a folder to the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telltune.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["push"]


def push(folder: Path, repo: str, *, private: bool = True) -> str:
    """Upload a folder to a model repository, which is created if it does not exist.

    The token is the one that huggingface_hub finds: `HF_TOKEN`, or the one of `hf auth login`.

    Returns:
        Address of the repository.

    Raises:
        StorageError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            ignore_patterns=[".*"],
            commit_message="Upload by telltune",
        )
    # The hub client raises many types of exceptions, its own and those of HTTP libraries.
    except Exception as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            reason = "set HF_TOKEN to a token that may write there"
        elif status == 404:
            reason = "check the owner and the name"
        else:
            lines = str(error).strip().splitlines()
            reason = (lines[0] if lines else type(error).__name__).rstrip(".")
        told = f" (HTTP {status})" if status else ""
        raise StorageError(f"{folder} cannot be pushed to {repo}{told}: {reason}.") from None
    return str(address)
