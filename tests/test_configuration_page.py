"""docs/configuration.md holds every option with its present default and meaning, and its file is one that trains."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from trl import ModelConfig, SFTConfig, TrlParser

from trl_pper.config import PPERConfig
from trl_pper.option_table import option_table, with_tables
from trl_pper.train_command import DataArguments

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def test_the_tables_are_those_of_the_configuration():
    text = PAGE.read_text()
    assert with_tables(text) == text, "run: python -m trl_pper.option_table docs/configuration.md"
    own = {one.name for one in fields(PPERConfig)} - {one.name for one in fields(SFTConfig)}
    for name in own | {one.name for one in fields(DataArguments)}:
        assert f"| `{name}` |" in text
    assert "| `learning_rate` |" not in text


def test_a_table_tells_changed_defaults_of_the_base_and_escapes_bars():
    @dataclass
    class Base:
        kept: int = field(default=1, metadata={"help": "Stays."})
        changed: int = field(default=1, metadata={"help": "Differs."})

    @dataclass
    class Ours(Base):
        changed: int = field(default=2, metadata={"help": "Differs 5%% of a|b."})
        made: list = field(default_factory=list)

    assert option_table(Ours, without=Base) == (
        "| option | default | meaning |\n|---|---|---|\n"
        "| `changed` | `2` | Differs 5% of a\\|b. |\n| `made` | `None` |  |\n"
    )


def test_the_file_of_the_page_parses(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    given = yaml.safe_load(example)
    path = tmp_path / "run.yaml"
    path.write_text(example + "use_cpu: true\nbf16: false\n")
    data, config, model = TrlParser((DataArguments, PPERConfig, ModelConfig)).parse_args_and_config(
        ["--config", str(path), "--learning_rate", "1e-5"]
    )
    assert (data.tasks, config.num_beams, model.model_name_or_path) == (
        given["tasks"], given["num_beams"], given["model_name_or_path"],
    )  # fmt: skip
    assert config.learning_rate == 1e-5
