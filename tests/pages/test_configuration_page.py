"""The pages of options hold each with its present default and meaning; the file of docs/configuration.md trains."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from trl import SFTConfig

from docs.option_tables import option_table, with_tables
from trl_pper.cli import commands
from trl_pper.cli.commands import main
from trl_pper.cli.train_options import DataArguments, TRLArguments, train_options
from trl_pper.training.config import PPERConfig

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
COMMANDS = PAGE.with_name("command-line.md")


def test_the_tables_are_those_of_the_configuration():
    text = PAGE.read_text()
    assert with_tables(text) == text, "run: python -m docs.option_tables docs/configuration.md"
    own = {one.name for one in fields(PPERConfig)} - {one.name for one in fields(SFTConfig)}
    for name in own | {one.name for kind in (DataArguments, TRLArguments) for one in fields(kind)}:
        assert f"| `{name}` |" in text
    assert "| `weight_decay` |" not in text


def test_a_table_tells_changed_defaults_and_escapes_bars():
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
        "| `changed` | `2` | Differs 5% of a\\|b. |\n| `made` | `[]` |  |\n"
    )


def test_a_table_names_choices_that_the_meaning_does_not():
    @dataclass
    class Ours:
        named: str = field(default="a", metadata={"help": "Either a or b.", "choices": ["a", "b"]})
        other: str = field(default="x", metadata={"help": "What else.", "choices": ["x", "y"]})

    rows = option_table(Ours).splitlines()[2:]
    assert rows == ["| `named` | `'a'` | Either a or b. |", "| `other` | `'x'` | What else. One of `x`, `y`. |"]


def test_the_tables_of_the_commands_are_those_of_their_parsers():
    text = COMMANDS.read_text()
    assert with_tables(text) == text, "run: python -m docs.option_tables docs/command-line.md"
    for name, (_, options) in commands.COMMANDS.items():
        if name == "train":
            continue
        (table,) = re.findall(rf"<!-- options of trl-pper-{name} -->(.*?)<!-- end", text, flags=re.DOTALL)
        listed = re.findall(r"^\| `(?:--)?(\w+)` \|[^|]*\| (.*) \|$", table, flags=re.MULTILINE)
        assert {option for option, _ in listed} >= {"config"}
        assert len(listed) == len(options) + 1
        assert all(meaning for _, meaning in listed)


def test_the_file_of_the_page_parses(tmp_path):
    example, _ = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    given = yaml.safe_load(example)
    path = tmp_path / "run.yaml"
    path.write_text(example + "use_cpu: true\nbf16: false\n")
    data, config, model = train_options(["--config", str(path), "--learning_rate", "1e-5"]).configurations()
    assert (data.tasks, config.num_beams, model.model_name_or_path) == (
        given["tasks"], given["num_beams"], given["model_name_or_path"],
    )  # fmt: skip
    assert config.learning_rate == 1e-5


def test_the_file_of_trl_on_the_page_means_what_is_said(tmp_path):
    _, example = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    path = tmp_path / "sft.yaml"
    path.write_text(example + "use_cpu: true\nbf16: false\n")
    data, config, model = train_options(["--config", str(path)]).configurations()
    assert (data.tasks, data.task_subset) == ("google-research-datasets/mbpp", "sanitized")
    assert (data.task_split, data.eval_tasks, data.eval_split) == ("train", data.tasks, "validation")
    assert (config.eval_strategy, model.dtype) == ("epoch", "bfloat16")


def test_the_errors_of_the_page_are_those_that_are_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example, _ = re.findall(r"```yaml\n.*?\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (said,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    expected = said.splitlines()
    lines = example.splitlines()
    for wrong, line in {4: "priority: rnak", 5: "num_beam: 3"}.items():
        Path("run.yaml").write_text("\n".join([*lines[:wrong], line]) + "\n")
        assert main(["train", "--config", "run.yaml"]) == 2
        assert capsys.readouterr().err.strip() == expected.pop(0)
    assert expected == []
