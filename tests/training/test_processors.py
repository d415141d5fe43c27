"""A model with a processor, used on text: tasks are asked with its tokenizer, and the processor is saved."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    PreTrainedTokenizerFast,
)

from trl_pper import CodingTask, PPERConfig, PPERTrainer, StdioTests
from trl_pper.tasks.task import StdioCase

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}<eos>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<eos>", "<pad>", "<boi>", "<eoi>", "<image>"]


@pytest.fixture(scope="module")
def processor():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    )  # fmt: skip
    images = Gemma3ImageProcessor(size={"height": 28, "width": 28})
    processor = Gemma3Processor(image_processor=images, tokenizer=tokenizer, image_seq_length=4)
    processor.chat_template = TEMPLATE
    return processor


@pytest.fixture(scope="module")
def make_gemma(processor):
    def build() -> Gemma3ForConditionalGeneration:
        torch.manual_seed(0)
        text = dict(
            vocab_size=len(processor.tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=512, eos_token_id=0,
            pad_token_id=1, bos_token_id=0,
        )  # fmt: skip
        vision = dict(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
            patch_size=14,
        )  # fmt: skip
        return Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=text,
                vision_config=vision,
                mm_tokens_per_image=4,
                image_token_index=4,
                boi_token_index=2,
                eoi_token_index=3,
                eos_token_id=0,
            )
        )

    return build


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_text_is_learned_by_a_model_with_a_processor(processor, make_gemma, tmp_path, kind):
    tests = StdioTests(cases=(StdioCase(input="", output="1"),))
    prompts = [f"# {'x' * number}\n" for number in range(3)]
    if kind == "chat":
        prompts = [[{"role": "user", "content": text}] for text in prompts]
    tasks = [CodingTask(task_id=f"t{at}", prompt=prompt, tests=tests) for at, prompt in enumerate(prompts)]
    trainer = PPERTrainer(
        make_gemma(),
        PPERConfig(
            str(tmp_path), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2, max_steps=2,
            max_completion_length=5, judge_workers=1, judge_memory_bytes=2**30, gradient_checkpointing=False,
            prompts="text", save_strategy="no", learning_rate=1e-2,
        ),
        train_dataset=tasks,
        eval_dataset=tasks,
        processing_class=copy.deepcopy(processor),
    )  # fmt: skip
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    trainer.judge.close()
    assert any(not torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert len(trainer.buffer) >= 6
    assert all(one.logprob < 0 for one in trainer.buffer)
    trainer.save_model()
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), Gemma3Processor)
