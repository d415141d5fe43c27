"""An adapter and its base as one model: written to a folder and, where asked for, pushed.

Enters: the folder or the Hub id of a trained adapter. Leaves: a full model with tokenizer and card. The base is loaded
as it was published, so that what QLoRA trained on quantised weights is merged into whole ones.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

_LOADERS = (
    "from peft import AutoPeftModelForCausalLM as AutoModel",
    "from transformers import AutoModelForCausalLM as AutoModel",
)


def merge_adapter(
    adapter: str | Path,
    output: str | Path,
    *,
    push_to: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> Path:
    """Merge an adapter into its base and write the model to a folder that `from_pretrained` loads.

    Args:
        adapter: The output folder of a run with `peft_config`, or the Hub id it was pushed to.
        output: Where the merged model goes; a new or empty folder.
        push_to: "name/of-the-model" on the Hub to upload it to; nowhere if None.
        private: Whether a repository that has to be made is private; the account's default if None.
        token: Token with the right to write; the one of `hf auth login` if None.

    Returns:
        The folder.

    Raises:
        ValueError: The folder has something in it, all of which would be pushed.

    Examples:
        `merge_adapter("outputs/lora", "outputs/merged", push_to="me/merged")` in docs/hub.md, which the tests run.
    """
    folder = Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"output: must be a new or an empty folder; {folder} has files in it. Choose another one")
    model = AutoPeftModelForCausalLM.from_pretrained(str(adapter), token=token).merge_and_unload()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(adapter), token=token).save_pretrained(folder)
    _write_card(str(adapter), folder, push_to, token)
    if push_to is not None:
        api = HfApi(token=token)
        repo_id = api.create_repo(push_to, private=private, exist_ok=True).repo_id
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload merged model")
    return folder


def _write_card(adapter: str, folder: Path, repo_id: str | None, token: str | None) -> None:
    """Write the adapter's card with what is another thing now; nothing if it has none."""
    path = Path(adapter) / "README.md"
    try:
        card = ModelCard.load(path if Path(adapter).is_dir() else adapter, token=token)
    except (FileNotFoundError, EntryNotFoundError):
        return
    card.data.library_name = "transformers"
    card.text = card.text.replace(*_LOADERS)
    if repo_id is not None:
        name = repo_id.rpartition("/")[2]
        card.text = card.text.replace(f"# {card.data.model_name}\n", f"# {name}\n", 1)
        card.text = re.sub(r'(?<=\.from_pretrained\(")[^"]*', repo_id, card.text)
        card.data.model_name = name
    card.save(folder / "README.md")
