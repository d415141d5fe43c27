"""A training run of two processes with a vLLM server, started by `torchrun` from test_vllm.py.

The server's client, in the main process, is one of this file: it answers each prompt with the number in it.
"""

import importlib
import json
import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.generation import vllm_generation

from trl_pper import PPERConfig, PPERTrainer, load_tasks


class Client:
    """Stands in for TRL's client of a vLLM server."""

    calls: list[int] = []  # noqa: RUF012
    syncs = 0
    tokenizer = None

    def __init__(self, base_url, **given):
        assert base_url == "http://localhost:9"

    def init_communicator(self, device):
        pass

    def update_named_params(self, metadata, named):
        Client.syncs += int(len(list(named)) == len(metadata) > 0)

    def reset_prefix_cache(self):
        pass

    def generate(self, prompts, features, n, **given):
        Client.calls.append(len(prompts))
        written, said = [], []
        for prompt in prompts:
            number = re.search(r"# (\d+)", self.tokenizer.decode(prompt))[1]
            for at in range(n):
                ids = [*self.tokenizer(f"    return {number}{at}\n")["input_ids"], self.tokenizer.eos_token_id]
                written.append(ids)
                said.append([[-0.5]] * len(ids))
        return {"prompt_ids": prompts, "completion_ids": written, "logprobs": said, "logprob_token_ids": None}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    vllm_generation.VLLMClient = Client
    for module in (vllm_generation, importlib.import_module("trl.import_utils")):
        module.is_vllm_available = lambda *_: True
    Client.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    trainer = PPERTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        args=PPERConfig(
            str(folder / "run"), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2,
            max_completion_length=40, generation_batch_size=2, per_device_train_batch_size=2, steps_per_round=2,
            num_train_epochs=2, learning_rate=1e-2, save_strategy="no", judge_workers=1, gradient_checkpointing=False,
            decoding="nucleus", temperature=1.0, top_p=1.0, generation_engine="vllm", vllm_mode="server",
            vllm_server_base_url="http://localhost:9",
        ),
        train_dataset=load_tasks(folder / "tasks.jsonl"),
        processing_class=Client.tokenizer,
    )  # fmt: skip
    trainer.train()
    seen = {
        "digest": trainer.buffer.digest(),
        "programs": [(one.task_id, one.completion, one.logprob) for one in trainer.buffer],
        "calls": Client.calls,
        "syncs": Client.syncs,
        "steps": trainer.state.global_step,
    }
    (folder / f"seen-{trainer.accelerator.process_index}.json").write_text(json.dumps(seen))
    trainer.judge.close()
    trainer.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
