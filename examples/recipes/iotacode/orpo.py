"""ORPO from a configuration file, as `trl dpo` takes one: TRL has the trainer, but no command for it.

    python examples/recipes/iotacode/orpo.py --config examples/recipes/iotacode/orpo.yaml

Options such as `--model_name_or_path` override the file.
"""

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DatasetMixtureConfig, ModelConfig, TrlParser, get_dataset, get_peft_config
from trl.experimental.orpo import ORPOConfig, ORPOTrainer


def main() -> None:
    args, model_args, data = TrlParser((ORPOConfig, ModelConfig, DatasetMixtureConfig)).parse_args_and_config()
    trainer = ORPOTrainer(
        AutoModelForCausalLM.from_pretrained(model_args.model_name_or_path, dtype=model_args.dtype),
        args=args,
        train_dataset=get_dataset(data)["train"],
        processing_class=AutoTokenizer.from_pretrained(model_args.model_name_or_path),
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
