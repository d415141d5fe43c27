"""What `trl-pper train --help` shows: every option with its one description, ours first.

Enters: nothing. Leaves: text. It needs the configuration classes, and so takes the seconds in which they are imported.
"""

from __future__ import annotations

from dataclasses import fields

from transformers import TrainingArguments
from trl import ModelConfig, SFTConfig

from trl_pper.config import PPERConfig
from trl_pper.launch import ACCELERATE_CONFIG, ACCELERATE_CONFIG_HELP
from trl_pper.option_rows import Option, help_text, options_of
from trl_pper.option_types import Wanted
from trl_pper.train_options import DataArguments

_USAGE = "trl-pper train [--config FILE.yaml] [--option value ...]"
_DESCRIPTION = (
    "Fine-tune a code model by prioritised experience replay of the programs it writes. In the YAML file options are "
    "'name: value'; the command line goes before it."
)
_EPILOG = (
    "--num_processes, --num_machines, --gpu_ids and all further options of `accelerate launch` are taken as well; "
    "`accelerate launch --help` lists them. In square brackets stands what holds where an option is not given."
)
_TEXT = Wanted(kinds=frozenset({"text"}))


def train_help() -> str:
    """Return the text of `trl-pper train --help`."""
    base = {field.name for field in fields(TrainingArguments)}
    trained = options_of(PPERConfig)
    theirs = {field.name for field in fields(SFTConfig)}
    config = Option(name="config", default=None, help="YAML file of these options.", wanted=_TEXT)
    launch = Option(name=ACCELERATE_CONFIG, default=None, help=ACCELERATE_CONFIG_HELP, wanted=_TEXT)
    groups = {
        "tasks and programs": [config, *options_of(DataArguments)],
        "prioritised experience replay": [option for option in trained if option.name not in theirs],
        "model and adapter (TRL's ModelConfig)": options_of(ModelConfig),
        "several processes": [launch],
        "fine-tuning (TRL's SFTConfig)": [one for one in trained if one.name in theirs - base],
        "training (TrainingArguments)": [one for one in trained if one.name in base],
    }
    return help_text(_USAGE, _DESCRIPTION, groups, epilog=_EPILOG)
