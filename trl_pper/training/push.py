"""Pushing a run to the Hub: what must not go along is refused, and what goes wrong behind the run's back is told.

Enters: the folder of a run and the uploads that were started. Leaves: an error or a warning. The uploads themselves
are the Trainer's. Files are told by their names; nobody looks into them.

An adapter and its base as one model: written to a folder and, where asked for, pushed.

Enters: the folder or the Hub id of a trained adapter. Leaves: a full model with tokenizer and card. The base is loaded
as it was published, so that what QLoRA trained on quantised weights is merged into whole ones.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

#: What the Trainer leaves out at the top of the folder; the contract test holds it to that.
LEFT_OUT = ("_*", f"{PREFIX_CHECKPOINT_DIR}-*")
#: Strategies that upload whole checkpoints, and with them the buffer.
WITH_CHECKPOINTS = ("checkpoint", "all_checkpoints")
#: What tasks, tests, programs, buffers and reports are written as; no model is.
_ROWS = (".parquet", ".arrow", ".jsonl", ".jsonl.gz", ".html")


def exposed(folder: str | Path) -> list[Path]:
    """Return the files of a run's folder that a push would upload and that look like tasks, programs or a report."""
    root = Path(folder)
    found: list[Path] = []
    for entry in sorted(root.iterdir()) if root.is_dir() else []:
        if not any(fnmatch(entry.name, pattern) for pattern in LEFT_OUT):
            inside = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
            found += [file for file in inside if file.name.endswith(_ROWS) and file.is_file()]
    return found


def check_push(folder: str | Path, *, strategy: Any) -> None:
    """Raise ValueError where a push would publish more than the model.

    Args:
        folder: The run's output folder.
        strategy: Its `hub_strategy`.
    """
    if str(getattr(strategy, "value", strategy)) in WITH_CHECKPOINTS:
        raise ValueError(
            "hub_strategy: must be 'every_save' or 'end', since checkpoints hold the buffer with every task and "
            f"program; got {strategy}"
        )
    files = exposed(folder)
    if files:
        raise ValueError(
            f"output_dir: a push would publish {files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}, "
            f"which may hold tasks, tests or programs. Move it into {Path(folder) / '_pper'}, which is left out, or "
            "out of the folder; to publish it, upload it by itself"
        )


def push_in_background(trainer: Any, checkpoint: str, *, push: Callable[[str], None]) -> None:
    """Start the uploads of a checkpoint's weights and have their failures told; a push that may not be is left out.

    Args:
        trainer: The trainer whose run it is.
        checkpoint: The folder of the checkpoint.
        push: `Trainer._push_from_checkpoint`.
    """
    try:
        check_push(trainer.args.output_dir, strategy=trainer.args.hub_strategy)
    except ValueError as error:
        # Nothing is published and nothing of the run is lost; `push_to_hub` at its end says so again.
        logger.warning("not pushed at step %d: %s", trainer.state.global_step, error)
        return
    before = _jobs(trainer)
    push(checkpoint)
    started = [job for job in _jobs(trainer) if job not in before]
    report_failures(started, repo_id=str(trainer.hub_model_id), checkpoint=checkpoint)


def _jobs(trainer: Any) -> list[Future[Any]]:
    # Only the main process has any.
    return list(getattr(getattr(trainer, "push_in_progress", None), "jobs", []))


def report_failures(jobs: Iterable[Future[Any]], *, repo_id: str, checkpoint: str) -> None:
    """Warn of each upload that fails, as soon as it has.

    Args:
        jobs: Uploads in the background.
        repo_id: Where they go.
        checkpoint: The folder whose weights are uploaded.
    """

    def report(job: Future[Any]) -> None:
        error = None if job.cancelled() else job.exception()
        if error is not None:
            logger.warning(
                "%s: the upload of %s failed, and the run goes on: the checkpoint is whole on the disk, and the next "
                "push takes its place. The Hub said: %s",
                repo_id,
                checkpoint,
                error,
            )

    for job in jobs:
        job.add_done_callback(report)


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
