"""Check that a push to the Hub uploads no tasks or programs, report failed uploads, and merge adapters.

Files are recognised by their names; their content is not examined. The Trainer makes the uploads of a run.
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
from peft import AutoPeftModelForCausalLM, PeftConfig
from transformers import AutoTokenizer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

#: Patterns of names in the output folder that the Trainer does not upload; a contract test pins them.
LEFT_OUT = ("_*", f"{PREFIX_CHECKPOINT_DIR}-*")
#: Strategies that upload whole checkpoints, and with them the buffer.
WITH_CHECKPOINTS = ("checkpoint", "all_checkpoints")
#: Endings of files of tasks, tests, programs, buffers and reports; models have other endings.
_ROWS = (".parquet", ".arrow", ".jsonl", ".jsonl.gz", ".html")


def exposed(folder: str | Path) -> list[Path]:
    """Return the files in a run's folder that a push would upload and that may contain tasks, programs or a report."""
    root = Path(folder)
    found: list[Path] = []
    for entry in sorted(root.iterdir()) if root.is_dir() else []:
        if not any(fnmatch(entry.name, pattern) for pattern in LEFT_OUT):
            inside = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
            found += [file for file in inside if file.name.endswith(_ROWS) and file.is_file()]
    return found


def check_push(folder: str | Path, *, strategy: Any) -> None:
    """Raise ValueError if a push would publish more than the model.

    Args:
        folder: The run's output folder.
        strategy: The run's `hub_strategy`.
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
    """Start the uploads of a checkpoint's weights, and warn of failures; a push that would publish more is skipped.

    Args:
        trainer: The trainer of the run.
        checkpoint: The folder of the checkpoint.
        push: `Trainer._push_from_checkpoint`.
    """
    try:
        check_push(trainer.args.output_dir, strategy=trainer.args.hub_strategy)
    except ValueError as error:
        # A warning, since training can go on. At the end of the run `push_to_hub` raises the error.
        logger.warning("not pushed at step %d: %s", trainer.state.global_step, error)
        return
    before = _jobs(trainer)
    push(checkpoint)
    started = [job for job in _jobs(trainer) if job not in before]
    report_failures(started, repo_id=str(trainer.hub_model_id), checkpoint=checkpoint)


def _jobs(trainer: Any) -> list[Future[Any]]:
    # Other processes than the main process upload nothing and lack the attribute.
    return list(getattr(getattr(trainer, "push_in_progress", None), "jobs", []))


def report_failures(jobs: Iterable[Future[Any]], *, repo_id: str, checkpoint: str) -> None:
    """Warn of each failed upload as soon as it has failed.

    Args:
        jobs: The uploads, which run in the background.
        repo_id: The repository that they go to.
        checkpoint: The folder of the uploaded weights.
    """

    def report(job: Future[Any]) -> None:
        # Without this, nobody reads the exception of a background upload.
        error = None if job.cancelled() else job.exception()
        if error is not None:
            logger.warning(
                "%s: the upload of %s failed, and the run goes on: the checkpoint is complete on disk, and the next "
                "push uploads newer weights. The Hub said: %s",
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
    """Merge an adapter into its base model, and write the model with its tokenizer and card to a folder.

    Args:
        adapter: The output folder of a run with `peft_config`, or the Hub id of its model.
        output: A new or empty folder for the merged model.
        push_to: "owner/name" on the Hub to upload the model to; None for no upload.
        private: Whether a new repository is private; None for the account's default.
        token: Token with the right to write; None for the token of `hf auth login`.

    Returns:
        The folder, which `from_pretrained` loads.

    Raises:
        ValueError: The folder is not empty, or there is no adapter.

    Examples:
        `merge_adapter("outputs/lora", "outputs/merged", push_to="me/merged")` in docs/hub.md, which the tests run.
    """
    folder = Path(output)
    # The whole folder is uploaded: other files in it would be, too.
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"output: must be a new or an empty folder; {folder} has files in it. Choose another folder")
    # The base is loaded as it was published, so that an adapter of QLoRA is merged into unquantised weights.
    try:
        PeftConfig.from_pretrained(str(adapter), token=token)
    except ValueError as error:
        raise ValueError(
            f"{adapter}: must be the folder of an adapter, or its name on the Hub; {error}. Runs with use_peft or "
            "peft_config write one to their output folder"
        ) from error
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
    """Write the adapter's card, adapted to the merged model; nothing if the adapter has no card."""
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
