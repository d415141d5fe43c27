"""QLoRA: train an adapter on a base in 4 bits, then merge it into the base as published.

    python examples/qlora.py

Needs `pip install 'trl-pper[quantization]'`; bitsandbytes runs on a CPU too, but slower than full precision.
"""

import shutil

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trl_pper import BeamSearchSource, PPERConfig, PPERTrainer, demo, evaluate_tasks, merge_adapter

MODEL_ID = str(demo.MODEL)  # yours: "Qwen/Qwen2.5-Coder-7B"
TASKS, HELD_OUT = demo.demo_tasks("train")[:80], demo.demo_tasks("test")[:40]  # yours: load_tasks("tasks.jsonl")
ADAPTER, MERGED = "outputs/qlora", "outputs/qlora-merged"


def main() -> None:
    trainer = PPERTrainer(
        model=MODEL_ID,
        args=PPERConfig(
            output_dir=ADAPTER,
            max_steps=60,
            steps_per_round=30,
            per_device_train_batch_size=16,
            learning_rate=5e-3,
            max_completion_length=64,
            generation_batch_size=50,
            report_to="none",
            bf16=False,  # without a GPU; leave this line out with one
        ),
        train_dataset=TASKS,
        eval_dataset=HELD_OUT,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,  # with a GPU: torch.bfloat16
        ),
    )
    with trainer.judge as judge:
        before = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        after = trainer.evaluate()["eval_accuracy"]
        trainer.save_model()
        print(f"{trainer.model.get_memory_footprint():,} bytes of weights")

        shutil.rmtree(MERGED, ignore_errors=True)
        merged = AutoModelForCausalLM.from_pretrained(merge_adapter(ADAPTER, MERGED))
        source = BeamSearchSource(merged, trainer.processing_class, max_completion_length=64)
        again = evaluate_tasks(HELD_OUT, source, judge).accuracy
    print(f"held-out tasks solved by the first program: {before:.1%} before, {after:.1%} after, {again:.1%} merged")


if __name__ == "__main__":
    main()
