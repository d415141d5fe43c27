"""The code of docs/hub.md runs against a Hub: a model, an adapter merged into its base, and a buffer are pushed."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.support.loopback_hub import Client, LoopbackHub, Repository
from trl_pper import PPERConfig
from trl_pper.training.push import _ROWS, WITH_CHECKPOINTS

PAGE = (Path(__file__).parents[2] / "docs" / "hub.md").read_text()
RUN = """
import contextlib, os, sys
os.chdir(argument["folder"])
with contextlib.redirect_stdout(sys.stderr):
    exec(argument["code"], names := {})
result = True
"""
#: No GPU here, few steps, no tracker; everything else is the text of the page.
SMALL = (
    "use_cpu=True, bf16=False, report_to=[], max_completion_length=8, steps_per_round=1, num_train_epochs=1, "
    "disable_tqdm=True, judge_workers=1,"
)
LORA = "peft_config=LoraConfig(target_modules=['c_attn'], fan_in_fan_out=True),"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.runs("docs/hub.md")
def test_the_code_of_the_page_runs(page, make_model, tokenizer, tasks, tmp_path):
    push, merge, buffer = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    for name, chosen in (("tasks", tasks), ("held_out", tasks[:1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in chosen))
    make_model().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    push = push.replace('output_dir="outputs/run",', f'output_dir="outputs/run", {SMALL}')
    adapter = "from peft import LoraConfig\n" + push.replace("outputs/run", "outputs/lora").replace(
        "train_dataset=", LORA + "train_dataset="
    ).replace("me/coder", "me/adapter")
    with LoopbackHub() as hub:
        files = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
        hub.repositories["models", "me/base"] = Repository(private=False, commits=[files])
        client = Client(hub, tmp_path / "home")
        done = client.run(RUN, {"folder": str(tmp_path), "code": "\n".join((push, buffer, adapter, merge))})
        client.close()
        assert done is True, done
        pushed = {(kind, name) for kind, name in hub.repositories if name != "me/base"}
        assert pushed == {
            ("models", "me/coder"), ("models", "me/adapter"), ("models", "me/coder-merged"),
            ("datasets", "me/coder-programs"),
        }  # fmt: skip
        assert all(hub.repositories[one].private for one in pushed)
        card = ModelCard(hub.repositories["models", "me/coder"].files["README.md"].decode())
    assert re.search(r"\| `accuracy` \| 0.000 \(step 0, before training\) \| 0.000 \(step 1\) \|", card.text)


def test_what_the_page_says_is_refused_is_refused():
    named = set(re.findall(r"`(\.[a-z.]+)`", PAGE.partition("that may hold tasks")[2].partition(") in the part")[0]))
    assert named == set(_ROWS)
    for strategy in WITH_CHECKPOINTS:
        assert f'"{strategy}"' in PAGE
        with pytest.raises(ValueError, match="hub_strategy"):
            PPERConfig("x", push_to_hub=True, hub_strategy=strategy, use_cpu=True, bf16=False)
