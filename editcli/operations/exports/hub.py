"""Uploading to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from editors import EditorError


def upload(folder: Path, repository: str, message: str, *, private: bool) -> str:
    """Upload the files of ``folder`` as one commit to ``repository``, which is made if it does not
    exist. Returns the address of the commit.

    Raises:
        EditorError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, ignore_patterns=[]
        )
    except errors.HFValidationError as error:
        raise EditorError(
            f"{repository!r} is no name of a repository", "name it OWNER/NAME"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = "`hf auth login`, with a token that may write" if status in (401, 403) else ""
        raise EditorError(f"the Hub refused {repository}: {_first_line(error)}", hint) from error
    # Releases of the client use different HTTP libraries, each with errors of its own.
    except Exception as error:
        raise EditorError(f"the Hub cannot be reached: {_first_line(error)}") from error
    return str(commit.commit_url)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
