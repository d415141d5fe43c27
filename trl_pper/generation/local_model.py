"""Load a transformers model, and use it for inference in the middle of training: encode, generate, score.

The model may be wrapped by Accelerate. Every use restores its training flags, gradient checkpointing and generation
configuration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, extract_model_from_parallel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig, PreTrainedModel
from trl.models.utils import unwrap_model_for_generation

from trl_pper.generation.encoding import Encoder
from trl_pper.generation.engines.prompt_cache import left_padded, positions, prompt_cache, takes
from trl_pper.tasks.task import Prompt

#: The name of activation checkpointing in training options and in model methods: transformers 5.23 renamed it.
CHECKPOINTING = (
    "activation_checkpointing"
    if hasattr(PreTrainedModel, "activation_checkpointing_enable")
    else "gradient_checkpointing"
)


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A causal language model with its tokenizer, ready for inference.

    Args:
        model: A `PreTrainedModel` or `PeftModel`, possibly wrapped for distributed training.
        processing_class: The model's tokenizer, or a processor that has one.
        accelerator: The trainer's Accelerator during training, else None.
        gradient_checkpointing_kwargs: The arguments with which gradient checkpointing is enabled again after use.
        name: The name of the model in records of programs and log-probabilities.
        adapter: Whether to use the adapters of a PEFT model; False uses the base model alone.
        gather: Whether each process gathers all weights that DeepSpeed ZeRO-3 shards during inference. False gathers
            them layer by layer: slower, but without more memory than training takes.
        chat_template: Template of chat messages; the tokenizer's own by default.
        chat_template_kwargs: Further arguments of the template, such as `enable_thinking`.
    """

    model: Any
    processing_class: Any
    accelerator: Any = None
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    name: str = "model"
    adapter: bool = True
    gather: bool = True
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def without_adapter(self) -> LocalModel:
        """Return the same model without its adapters: the base model, which takes no further memory.

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
        """Whether all processes must take part in a forward pass (DeepSpeed ZeRO-3, FSDP)."""
        if self.accelerator is None:
            return False
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            return bool(self.accelerator.state.deepspeed_plugin.zero_stage == 3)
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    @property
    def device(self) -> torch.device:
        """The device for input tensors."""
        parameter = next(self.model.parameters())
        # DeepSpeed and DTensor (FSDP) mark sharded parameters so.
        is_shard = hasattr(parameter, "ds_id") or hasattr(parameter, "to_local")
        # A shard may lie on another device (offloaded to the CPU) than the gathered parameter.
        device: torch.device = self.accelerator.device if is_shard and self.accelerator else parameter.device
        return device

    @property
    def config(self) -> Any:
        """The text configuration of the bare model."""
        return extract_model_from_parallel(self.model).config.get_text_config()

    @property
    def context(self) -> int | None:
        """Length of the model's context, in tokens; None if its configuration does not tell."""
        found = getattr(self.config, "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of text, also of a model with a processor."""
        return getattr(self.processing_class, "tokenizer", self.processing_class)

    @property
    def pad_token_id(self) -> int:
        """The padding token; the end token if the tokenizer has no padding token."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)

    def eos_token_ids(self) -> list[int]:
        """Return every token that ends a completion, from the tokenizer and the generation configuration."""
        bare = None if self.model is None else extract_model_from_parallel(self.model)
        return end_token_ids(self.tokenizer, None if bare is None else bare.generation_config)

    @property
    def encoder(self) -> Encoder:
        """The encoder of prompts and completions."""
        tokenizer = self.tokenizer
        # A processor may have a chat template that its tokenizer lacks.
        own = getattr(self.processing_class, "chat_template", None)
        return Encoder(
            tokenizer=tokenizer,
            end_token_ids=frozenset(self.eos_token_ids()),
            chat_template=self.chat_template or (None if getattr(tokenizer, "chat_template", None) else own),
            chat_template_kwargs=self.chat_template_kwargs,
        )

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the token ids of each prompt; chat messages are rendered with the chat template."""
        encoder = self.encoder
        return [encoder.prompt(prompt) for prompt in prompts]

    @contextlib.contextmanager
    def inference(self) -> Iterator[Any]:
        """Yield the unwrapped model in evaluation mode without gradients, and restore its state on exit."""
        bare = extract_model_from_parallel(self.model)
        training = {module: module.training for module in self.model.modules()}
        checkpointing = bool(getattr(bare, f"is_{CHECKPOINTING}", False))
        configs = {holder: holder.generation_config for holder in _config_holders(bare)}
        with contextlib.ExitStack() as stack:
            stack.enter_context(_weights_left_unpacked(bare))
            # Registered before the unwrap so that an exception inside it is cleaned up after, too.
            stack.callback(self._restore, bare, training, checkpointing, configs)
            # Train mode together with gradient checkpointing, TRL's default, makes `generate` drop its cache and
            # write garbage without a warning.
            if checkpointing:
                getattr(bare, f"{CHECKPOINTING}_disable")()
            if self.accelerator is not None:
                bare = stack.enter_context(
                    unwrap_model_for_generation(self.model, self.accelerator, gather_deepspeed3_params=self.gather)
                )
            if not self.adapter:
                stack.enter_context(_adapter_left_out(bare))
            self.model.eval()
            # A configuration shipped with the weights can turn beam search into sampling.
            for holder in configs:
                holder.generation_config = GenerationConfig()
            stack.enter_context(torch.no_grad())
            yield bare

    def _restore(
        self, bare: Any, training: dict[Any, bool], checkpointing: bool, configs: dict[Any, GenerationConfig]
    ) -> None:
        for holder, config in configs.items():
            holder.generation_config = config
        # Module by module: `train()` would also switch modules that the user had set to evaluation mode.
        for module, flag in training.items():
            module.training = flag
        if checkpointing:
            getattr(bare, f"{CHECKPOINTING}_enable")(self.gradient_checkpointing_kwargs)

    def logprobs(
        self, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], *, batch_size: int = 8
    ) -> list[float]:
        """Return log P(completion | prompt) of each pair, from a teacher-forced forward pass.

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
        """Return the log-probabilities of a batch; each prompt that it repeats goes through the model once."""
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        # The processes of a sharded model must run as many forward passes, whatever is in their batches.
        if len(distinct) < len(prompts) and not self.is_sharded and all(completions):
            ids, mask = left_padded(distinct, self.pad_token_id, self.device)
            cache = prompt_cache(bare, ids, mask)
            if cache is not None:
                chosen = torch.tensor([distinct.index(tuple(prompt)) for prompt in prompts], device=self.device)
                cache.batch_select_indices(chosen)
                # The last token of a prompt predicts the first of its completion.
                rest = [[prompt[-1], *completion] for prompt, completion in zip(prompts, completions, strict=True)]
                return self._sums(bare, rest, [1] * len(rest), before=mask[chosen, :-1], cache=cache)
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        return self._sums(bare, rows, list(map(len, prompts)))

    def _sums(
        self,
        bare: Any,
        rows: Sequence[Sequence[int]],
        starts: Sequence[int],
        *,
        before: torch.Tensor | None = None,
        cache: Any = None,
    ) -> list[float]:
        """Return the sum of token log-probabilities of each row, from its start on.

        Args:
            bare: The model.
            rows: n sequences of tokens.
            starts: For each row the place of its first token to score, at least 1.
            before: Mask of the tokens in `cache`, shape [n, width].
            cache: Keys and values of tokens before the rows.
        """
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), self.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        scored = torch.zeros_like(input_ids, dtype=torch.bool)
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            input_ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            scored[i, start : len(row)] = True
        # Logits take width * vocabulary floats a row: compute them only at positions that predict completion tokens.
        first = max(min(starts) - 1, 0)
        options: dict[str, Any] = {"logits_to_keep": width - first} if takes(bare, "logits_to_keep") else {}
        input_ids, mask, scored = (tensor.to(self.device) for tensor in (input_ids, mask, scored))
        if before is None:
            options["use_cache"] = False
        else:
            mask = torch.cat([before, mask], dim=1)
            options |= {"past_key_values": cache, "use_cache": True}
            if takes(bare, "position_ids"):
                options["position_ids"] = positions(mask)[:, -width:]
        logits = bare(input_ids=input_ids, attention_mask=mask, **options).logits
        logits = logits[:, -(width - first) : -1]
        targets = input_ids[:, first + 1 :]
        chosen = logits.float().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        return [float(total) for total in (chosen * scored[:, first + 1 :]).sum(-1).tolist()]


@contextlib.contextmanager
def _adapter_left_out(bare: Any) -> Iterator[None]:
    # On exit PEFT marks the weights of every active adapter as trainable, frozen weights included.
    trainable = {parameter: parameter.requires_grad for parameter in bare.parameters()}
    try:
        with bare.disable_adapter():
            yield
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def _weights_left_unpacked(bare: Any) -> Iterator[None]:
    """Keep bitsandbytes from repacking 4-bit weights for inference on a CPU with AVX-512 BF16."""
    # The first forward pass in evaluation mode would repack the weights for a kernel without gradients, and training
    # would go on to use that kernel: adapters below a layer would get no gradient, without an error, until
    # `state_dict()` packs the weights back, with rounded scales.
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


def end_token_ids(tokenizer: Any, generation_config: GenerationConfig | None) -> list[int]:
    """Return every token that ends a completion, ascending; without a generation configuration the tokenizer's."""
    # Chat models may list further end tokens, such as the end of a turn, in the generation configuration only.
    configured = None if generation_config is None else generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({int(i) for i in [tokenizer.eos_token_id, *ids] if i is not None})


def _config_holders(bare: Any) -> list[Any]:
    # On each `generate` a PeftModel copies its own generation_config onto the base model.
    return [bare, bare.get_base_model()] if hasattr(bare, "get_base_model") else [bare]


def load_model(
    name: str,
    *,
    dtype: str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool | None = None,
    load_in_4bit: bool | None = None,
    load_in_8bit: bool | None = None,
) -> tuple[Any, Any]:
    """Load a model, in evaluation mode on the device of this process, and its tokenizer.

    Args:
        name: Hub id or path of a causal language model, or of a PEFT adapter, which is loaded with its base model.
        dtype: Number type of the weights, such as "bfloat16"; None for the number type of the checkpoint.
        revision: Branch, tag or commit on the Hub.
        attn_implementation: Implementation of attention, such as "sdpa"; None for the model's own choice.
        trust_remote_code: Whether code from the model's repository may run.
        load_in_4bit: Whether bitsandbytes quantises the weights to 4 bits (NF4, as TRL's ModelConfig does).
        load_in_8bit: Whether bitsandbytes quantises the weights to 8 bits.

    Returns:
        The model and the tokenizer.

    Raises:
        OSError: There is no such model.
        ValueError: There is no such number type or attention, or this device cannot load quantised weights.
    """
    # Never None: transformers would ask on the terminal.
    trust = bool(trust_remote_code)
    chosen = {"dtype": dtype, "revision": revision, "attn_implementation": attn_implementation}
    given: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
    given["trust_remote_code"] = trust
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust)
    device = PartialState().device
    if not (load_in_4bit or load_in_8bit):
        try:
            return AutoModelForCausalLM.from_pretrained(name, **given).eval().to(device), tokenizer
        except ImportError as error:
            # flash_attention_2, and code of a repository, may need a package.
            raise ValueError(f"{name}: {error}") from error
    if load_in_4bit and load_in_8bit:
        raise ValueError("load_in_4bit: must be left out with load_in_8bit; got both. Give one of them")
    bits = "load_in_4bit" if load_in_4bit else "load_in_8bit"
    compute = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype} if load_in_4bit else {}
    try:
        # Quantised while it is loaded; `to` may not move it afterwards.
        given |= {"quantization_config": BitsAndBytesConfig(**{bits: True}, **compute), "device_map": {"": device}}
        return AutoModelForCausalLM.from_pretrained(name, **given).eval(), tokenizer
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{bits}: must be left out where bitsandbytes cannot quantise; this machine loads models on {device}, and "
            f"got: {reason}. Leave it out, or install bitsandbytes for this device"
        ) from error
