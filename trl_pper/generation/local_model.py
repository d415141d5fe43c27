"""A transformers model held for inference: encode prompts, generate beside training, score completions.

Enters: a model (wrapped by Accelerate or not) and its tokenizer. Leaves: token ids and log-probabilities. Every use
puts the model back as it was found: training flags, gradient checkpointing and generation configuration.

A model and its tokenizer from the Hub or a folder, for inference on the device of this process.

Enters: a model's id or path, of a full model or of an adapter. Leaves: the model in evaluation mode and its tokenizer.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, extract_model_from_parallel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from trl.data_utils import common_prefix_length
from trl.models.utils import unwrap_model_for_generation

from trl_pper.tasks.task import Prompt, answer

#: What recomputing activations is called, as an option and in a model's methods: transformers 5.23 renamed it.
CHECKPOINTING = (
    "activation_checkpointing"
    if hasattr(PreTrainedModel, "activation_checkpointing_enable")
    else "gradient_checkpointing"
)


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A causal language model with its tokenizer.

    Args:
        model: A `PreTrainedModel` or `PeftModel`, possibly wrapped for distributed training.
        processing_class: Its tokenizer.
        accelerator: The trainer's Accelerator while training, else None.
        gradient_checkpointing_kwargs: What to re-enable gradient checkpointing with afterwards.
        name: What the record says of who generated or scored.
        adapter: Whether the adapters of a PEFT model take part; False is the base model's view, of the same weights.
        gather: Whether weights that DeepSpeed ZeRO-3 shards come together in each process during inference; False
            gathers layer by layer, slower, in the memory that training takes.
    """

    model: Any
    processing_class: Any
    accelerator: Any = None
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    name: str = "model"
    adapter: bool = True
    gather: bool = True

    def without_adapter(self) -> LocalModel:
        """Return the same model with its adapters left out during inference: the base model, at no further memory.

        Raises:
            ValueError: The model has no adapters.
        """
        bare = extract_model_from_parallel(self.model)
        if not hasattr(bare, "disable_adapter"):
            raise ValueError(
                f"model: must be a PeftModel to leave its adapter out; got {type(bare).__name__}. Pass peft_config, "
                "or load the base model beside it"
            )
        return replace(self, adapter=False, name=f"{self.name} without adapter")

    @property
    def is_sharded(self) -> bool:
        """Whether a forward pass takes every process (DeepSpeed ZeRO-3, FSDP)."""
        if self.accelerator is None:
            return False
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            return bool(self.accelerator.state.deepspeed_plugin.zero_stage == 3)
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    @property
    def device(self) -> torch.device:
        """Where inputs have to be."""
        parameter = next(self.model.parameters())
        is_shard = hasattr(parameter, "ds_id") or hasattr(parameter, "to_local")
        # A shard may be kept elsewhere than where the whole parameter comes together.
        device: torch.device = self.accelerator.device if is_shard and self.accelerator else parameter.device
        return device

    @property
    def config(self) -> Any:
        """The text configuration of the bare model."""
        return extract_model_from_parallel(self.model).config.get_text_config()

    @property
    def context(self) -> int | None:
        """How many tokens the model takes at most, or None where its configuration does not say."""
        found = getattr(self.config, "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def pad_token_id(self) -> int:
        """The padding token, or the end token where the tokenizer has none."""
        pad = self.processing_class.pad_token_id
        return int(pad if pad is not None else self.processing_class.eos_token_id)

    def eos_token_ids(self) -> list[int]:
        """Every token that ends a completion: the tokenizer's and those of the generation configuration."""
        configured = extract_model_from_parallel(self.model).generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return sorted({int(i) for i in [self.processing_class.eos_token_id, *ids] if i is not None})

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the token ids of each prompt; chat messages go through the chat template with a generation prompt."""
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return list(self.processing_class(text=prompt)["input_ids"])
        encoded = self.processing_class.apply_chat_template(
            prompt, tokenize=True, add_generation_prompt=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def encode_completion(self, prompt: Prompt, completion: str) -> tuple[list[int], list[int]]:
        """Return (prompt ids, completion ids); the completion ends with the end token, as it does in training."""
        prompt_ids = self._encode_one(prompt)
        if isinstance(prompt, str):
            eos = self.processing_class.eos_token or ""
            text = prompt + (completion if completion.endswith(eos) else completion + eos)
            ids = list(self.processing_class(text=text)["input_ids"])
        else:
            messages = [*prompt, *answer(prompt, completion)]
            ids = list(
                self.processing_class.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
            )
        # Tokens may merge across the border: the completion starts where it starts for TRL's labels.
        shared = common_prefix_length(prompt_ids, ids)
        return ids[:shared], ids[shared:]

    @contextlib.contextmanager
    def inference(self) -> Iterator[Any]:
        """Yield the bare model in evaluation mode without gradients, and restore everything on the way out.

        Train mode together with gradient checkpointing, TRL's default, makes `generate` drop its cache and write
        garbage without a word; a generation configuration shipped with the weights turns beam search into sampling.
        """
        bare = extract_model_from_parallel(self.model)
        training = {module: module.training for module in self.model.modules()}
        checkpointing = bool(getattr(bare, f"is_{CHECKPOINTING}", False))
        configs = {holder: holder.generation_config for holder in _config_holders(bare)}
        with contextlib.ExitStack() as stack:
            stack.enter_context(_weights_left_unpacked(bare))
            # Registered before the unwrap so that an exception inside it is cleaned up after, too.
            stack.callback(self._restore, bare, training, checkpointing, configs)
            if checkpointing:
                getattr(bare, f"{CHECKPOINTING}_disable")()
            if self.accelerator is not None:
                bare = _enter_unwrapped(stack, self.model, self.accelerator, gather=self.gather)
            if not self.adapter:
                stack.enter_context(_adapter_left_out(bare))
            self.model.eval()
            for holder in configs:
                holder.generation_config = GenerationConfig()
            stack.enter_context(torch.no_grad())
            yield bare

    def _restore(
        self, bare: Any, training: dict[Any, bool], checkpointing: bool, configs: dict[Any, GenerationConfig]
    ) -> None:
        for holder, config in configs.items():
            holder.generation_config = config
        for module, flag in training.items():
            module.training = flag
        if checkpointing:
            getattr(bare, f"{CHECKPOINTING}_enable")(self.gradient_checkpointing_kwargs)

    def logprobs(
        self, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], *, batch_size: int = 8
    ) -> list[float]:
        """Return log P(completion | prompt) of each pair by one teacher-forced pass.

        Args:
            prompt_ids: n prompts as token ids, none empty.
            completion_ids: n completions as token ids; an empty one has log-probability 0.
            batch_size: How many sequences go through the model at once.

        Returns:
            n sums of token log-probabilities, in nats, computed in float32.
        """
        results: list[float] = []
        with self.inference() as bare:
            for start in range(0, len(prompt_ids), batch_size):
                stop = start + batch_size
                results += self._score_batch(bare, prompt_ids[start:stop], completion_ids[start:stop])
        return results

    def _score_batch(
        self, bare: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), self.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        scored = torch.zeros_like(input_ids, dtype=torch.bool)
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            input_ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            scored[i, len(prompt) : len(row)] = True
        # Only the positions that predict completion tokens need logits: steps * vocabulary floats each.
        first = max(min(map(len, prompts)) - 1, 0)
        keep = {"logits_to_keep": width - first} if _takes(bare, "logits_to_keep") else {}
        input_ids, mask, scored = (tensor.to(self.device) for tensor in (input_ids, mask, scored))
        logits = bare(input_ids=input_ids, attention_mask=mask, use_cache=False, **keep).logits
        logits = logits[:, -(width - first) : -1]
        targets = input_ids[:, first + 1 :]
        chosen = logits.float().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        return [float(total) for total in (chosen * scored[:, first + 1 :]).sum(-1).tolist()]


def _enter_unwrapped(stack: contextlib.ExitStack, model: Any, accelerator: Any, *, gather: bool) -> Any:
    with warnings.catch_warnings():
        # TRL 1.16 asks for the state of checkpointing by a name that transformers 5.23 deprecates.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return stack.enter_context(unwrap_model_for_generation(model, accelerator, gather_deepspeed3_params=gather))


@contextlib.contextmanager
def _adapter_left_out(bare: Any) -> Iterator[None]:
    # PEFT marks the weights of every active adapter trainable on the way out, those that were frozen too.
    trainable = {parameter: parameter.requires_grad for parameter in bare.parameters()}
    try:
        with bare.disable_adapter():
            yield
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def _weights_left_unpacked(bare: Any) -> Iterator[None]:
    """Keep bitsandbytes from repacking 4-bit weights for inference, which it does on a CPU with AVX-512 BF16.

    The first evaluation-mode forward would repack them for a kernel that knows no gradients and that training goes on
    to use: the adapters below a layer then get none, without an error, until `state_dict()` packs the weights back,
    with rounded scales.
    """
    packing = {
        module: module.support_avx512bf16_for_cpu
        for module in bare.modules()
        if hasattr(module, "support_avx512bf16_for_cpu")
    }
    for module in packing:
        module.support_avx512bf16_for_cpu = False
    try:
        yield
    finally:
        for module, flag in packing.items():
            module.support_avx512bf16_for_cpu = flag


def _config_holders(bare: Any) -> list[Any]:
    # A PeftModel copies its own generation_config onto the base model on each `generate`.
    return [bare, bare.get_base_model()] if hasattr(bare, "get_base_model") else [bare]


def _takes(bare: Any, argument: str) -> bool:
    model = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
    return argument in inspect.signature(model.forward).parameters


def load_model(name: str, *, dtype: str | None = None, revision: str | None = None) -> tuple[Any, Any]:
    """Return a model and its tokenizer.

    Args:
        name: Id or path of a causal language model, or of a PEFT adapter, whose base model is loaded below it.
        dtype: Number type of the weights, such as "bfloat16"; that of the checkpoint if None.
        revision: Branch, tag or commit.

    Raises:
        OSError: There is no such model.
        ValueError: There is no such number type.
    """
    chosen = {"dtype": dtype, "revision": revision}
    given = {key: value for key, value in chosen.items() if value is not None}
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    model = AutoModelForCausalLM.from_pretrained(name, **given)
    return model.eval().to(PartialState().device), tokenizer
