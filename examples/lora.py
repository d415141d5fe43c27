"""LoRA: train an adapter, save it alone, merge it into its base and load the merged model back.

    python examples/lora.py

The scores before and after belong to the model with its adapter, the last score to the merged model, loaded anew.
"""

import shutil

from peft import LoraConfig
from transformers import AutoModelForCausalLM

from trl_pper import BeamSearchSource, PPERConfig, PPERTrainer, demo, evaluate_tasks, merge_adapter

MODEL_ID = str(demo.MODEL)  # yours: "Qwen/Qwen2.5-Coder-0.5B"
TASKS, HELD_OUT = demo.demo_tasks("train")[:80], demo.demo_tasks("test")[:40]  # yours: load_tasks("tasks.jsonl")
ADAPTER, MERGED = "outputs/lora", "outputs/lora-merged"


def main() -> None:
    trainer = PPERTrainer(
        model=MODEL_ID,
        args=PPERConfig(
            output_dir=ADAPTER,
            max_steps=60,
            steps_per_round=30,
            per_device_train_batch_size=16,
            learning_rate=1e-2,
            max_completion_length=64,
            generation_batch_size=50,
            report_to="none",
            bf16=False,  # without a GPU; leave this line out with one
        ),
        train_dataset=TASKS,
        eval_dataset=HELD_OUT,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    with trainer.judge as judge:
        before = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        after = trainer.evaluate()["eval_accuracy"]
        trainer.save_model()
        trainer.model.print_trainable_parameters()

        shutil.rmtree(MERGED, ignore_errors=True)
        merged = AutoModelForCausalLM.from_pretrained(merge_adapter(ADAPTER, MERGED))
        source = BeamSearchSource(merged, trainer.processing_class, max_completion_length=64)
        again = evaluate_tasks(HELD_OUT, source, judge).accuracy
    print(f"held-out tasks solved by the first program: {before:.1%} before, {after:.1%} after, {again:.1%} merged")


if __name__ == "__main__":
    main()
