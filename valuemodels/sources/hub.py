"""From a name to a folder: a model or checkpoint that lies on this disk, or one that the model hub holds.

Used by the server before the engine starts, and by training. Only JSON, tokenizer files and safetensors are fetched:
no code, no pickles. No torch, and nothing of `server`, `training` or `client`.
"""

import os
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from valuemodels.contract.errors import HubError, first_line

FETCHED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "tokenizer.txt", "vocab.txt", "merges.txt")
TENSORS = "*.safetensors"


def resolve_folder(name_or_path: str, revision: str | None = None) -> Path:
    """The local folder of a model or checkpoint; one that only the hub has is fetched into the hub's own cache.

    Args:
        name_or_path: an existing folder, which is taken as it is, or the hub's `owner/name`.
        revision: branch, tag or commit on the hub; None is its default branch.

    Raises:
        HubError: neither a folder nor on the hub, no access or no connection, or without safetensors.
    """
    if not name_or_path:
        raise HubError("the name is empty; allowed is a folder or the owner/name of a model on the hub")
    path = Path(os.path.expanduser(name_or_path))  # Path's own raises for a user that does not exist
    if path.is_dir():
        return path
    if path.exists():
        raise HubError(f"{name_or_path} is a file; allowed is a folder or the owner/name of a model on the hub")
    if name_or_path.startswith(("/", "./", "../", "~")):
        raise HubError(f"the folder {name_or_path} does not exist")
    try:
        # "*/*": what lies in subfolders are other formats of the same weights.
        fetched = snapshot_download(
            name_or_path, revision=revision, allow_patterns=list(FETCHED), ignore_patterns=["*/*"]
        )
    except Exception as error:  # the hub's client lets errors of its transport through, of several trees
        raise HubError(_sentence(error, name_or_path, revision)) from error
    folder = Path(fetched)
    if not any(folder.glob(TENSORS)):
        raise HubError(f"{name_or_path} on the hub has no safetensors file, and no other weights are read")
    return folder


def local_folder(name_or_path: str, revision: str | None = None) -> Path | None:
    """The local folder of a model, if it is on this machine already; None where it would have to be fetched.

    Raises:
        HubError: it is no folder, and no possible name on the hub.
    """
    path = Path(os.path.expanduser(name_or_path))
    if path.is_dir():
        return path
    if name_or_path.startswith(("/", "./", "../", "~")):
        raise HubError(f"the folder {name_or_path} does not exist")
    try:
        return Path(snapshot_download(name_or_path, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise HubError(_sentence(error, name_or_path, revision)) from error
    except LocalEntryNotFoundError:
        return None


def _sentence(error: Exception, name: str, revision: str | None) -> str:
    if isinstance(error, HFValidationError):
        return f"{name} is neither an existing folder nor a possible owner/name on the hub"
    if isinstance(error, GatedRepoError):
        return f"{name} on the hub is gated: ask for access on its page and set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return f"{name} is neither an existing folder nor a model on the hub (a private one needs HF_TOKEN)"
    if isinstance(error, RevisionNotFoundError):
        return f"{name} on the hub has no revision {revision}"
    if isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
        return f"{name} is not an existing folder, not in the hub's cache, and HF_HUB_OFFLINE forbids fetching it"
    if isinstance(error, LocalEntryNotFoundError):
        return f"{name} is not an existing folder, not in the hub's cache, and the hub cannot be reached"
    return f"{name} could not be fetched from the hub: {first_line(error)}"
