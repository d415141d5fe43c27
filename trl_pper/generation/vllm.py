"""Draw programs for each task with vLLM, through TRL's `VLLMGeneration`: beside the trainer, or from a server.

The weights of the model in training are sent to the engine once for each collection. TRL decides how: adapters are
merged for the transfer, and sharded weights gathered.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel

from trl_pper.generation.decoding import PromptBatch, batches, checked_prompts, decode_programs
from trl_pper.generation.engines.token_scores import Completion
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.scorer import model_identity
from trl_pper.generation.source import (
    GeneratedProgram,
    ProgramSource,
    check_at_least_one,
    check_sampling,
    keeps_distribution,
    settings_json,
    tell_written,
)
from trl_pper.tasks.task import CodingTask, checked_stop


@dataclass(frozen=True, kw_only=True)
class VLLMOptions:
    """Options of the engine, with the meaning of the options `vllm_...` of TRL's `GRPOConfig`.

    Args:
        mode: "colocate" for an engine in each training process, on its GPU; "server" for a server, which a user
            starts with `trl vllm-serve`.
        server_base_url: Address of the server; instead of host and port.
        server_host: Host of the server.
        server_port: Port of the server.
        server_timeout: Longest wait for the server to be up, in seconds.
        group_port: Port on which weights are sent.
        gpu_memory_utilization: Share of the GPU's memory for an engine beside the trainer.
        max_model_length: Longest prompt and completion together, in tokens; None for the model's.
        tensor_parallel_size: Number of GPUs of an engine beside the trainer.
        enable_sleep_mode: Whether the engine gives its memory up while the model trains.
        model_impl: "vllm" or "transformers", whose model code the engine runs.
    """

    mode: Literal["colocate", "server"] = "colocate"
    server_base_url: str | None = None
    server_host: str = "0.0.0.0"
    server_port: int = 8000
    server_timeout: float = 240.0
    group_port: int = 51216
    gpu_memory_utilization: float = 0.3
    max_model_length: int | None = None
    tensor_parallel_size: int = 1
    enable_sleep_mode: bool = False
    model_impl: str = "vllm"

    def __post_init__(self) -> None:
        if self.mode not in ("colocate", "server"):
            raise ValueError(f"vllm_mode: must be 'colocate' or 'server'; got {self.mode!r:.80}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"vllm_gpu_memory_utilization: must be above 0 and at most 1; got {self.gpu_memory_utilization}"
            )
        if self.tensor_parallel_size < 1:
            raise ValueError(f"vllm_tensor_parallel_size: must be at least 1; got {self.tensor_parallel_size}")


@dataclass
class _Engine:
    """The engine of a source and of its copies for rounds, started when it is first needed."""

    generation: Any = None


class VLLMSource(ProgramSource):
    """A source of programs that samples from the model in training with vLLM.

    Log-probabilities are the engine's where sampling takes the model's own distribution: at temperature 1 without
    truncation. Elsewhere engines report those of the distribution drawn from, or may: the model in training then
    scores the programs itself.

    Args:
        num_programs: n, the number of programs per task.
        max_completion_length: Longest completion, in tokens.
        batch_size: Number of prompts in a call of the engine.
        temperature: Divisor of the logits, above 0.
        top_p: Probability mass to sample from.
        top_k: Largest number of tokens to sample from; 0 for all.
        stop: Texts that end a completion, in addition to the stops of its task.
        options: Options of the engine.
        trust_remote_code: Whether an engine beside the trainer may run code from the model's repository.

    Raises:
        ValueError: An argument is out of range.
    """

    uses_student = True

    def __init__(
        self,
        *,
        num_programs: int = 3,
        max_completion_length: int = 256,
        batch_size: int = 64,
        temperature: float = 0.8,
        top_p: float = 0.95,
        top_k: int = 0,
        stop: Sequence[str] = (),
        options: VLLMOptions | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        check_at_least_one(
            num_programs=num_programs, max_completion_length=max_completion_length, batch_size=batch_size
        )
        check_sampling(temperature=temperature, top_p=top_p, top_k=top_k)
        self.num_programs = num_programs
        self.max_completion_length = max_completion_length
        self.batch_size = batch_size
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.stop = checked_stop(stop)
        self.options = options or VLLMOptions()
        self.trust_remote_code = trust_remote_code
        # A server gets the prompts of all processes in one call, and so do the GPUs of one engine.
        self.in_step = self.options.mode == "server" or self.options.tensor_parallel_size > 1
        self.round_index = 0
        self._engine = _Engine()

    @property
    def settings(self) -> dict[str, Any]:
        """The options that decide how programs are generated, as plain values."""
        return {
            "method": "nucleus sampling",
            "engine": "vllm",
            "num_programs": self.num_programs,
            "max_completion_length": self.max_completion_length,
            "temperature": self.temperature,
            "top_p": self.top_p,
            **({"top_k": self.top_k} if self.top_k else {}),
            **({"stop": list(self.stop)} if self.stop else {}),
        }

    def for_round(self, round_index: int) -> VLLMSource:
        """Return this source for a round; the engine is the same."""
        other = copy.copy(self)
        other.round_index = round_index
        return other

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return what is known to decide the programs, settings, round and model; random numbers are the engine's."""
        return self.settings | {"round_index": self.round_index} | model_identity(_required(student))

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        """Check, before anything is generated, that vLLM is installed and that prompts fit.

        Raises:
            ImportError: There is no vLLM.
            ValueError: There is no model in training, or a prompt and its completion do not fit its context, or that
                of the engine beside the trainer.
        """
        self._checked_prompts(_required(student), tasks)

    def _checked_prompts(self, local: LocalModel, tasks: Sequence[CodingTask]) -> list[list[int]]:
        from trl.import_utils import is_vllm_available

        if not is_vllm_available():
            raise ImportError(
                "generation_engine: 'vllm' needs the package vllm, which TRL supports in the versions that "
                "`pip install 'trl[vllm]'` takes; install it, or choose 'transformers'"
            )
        prompt_ids = checked_prompts(local, tasks, max_completion_length=self.max_completion_length)
        longest = self.options.max_model_length
        # A server has a length of its own, which it was started with.
        if longest is None or self.options.mode == "server":
            return prompt_ids
        for task, ids in zip(tasks, prompt_ids, strict=True):
            if len(ids) + self.max_completion_length > longest:
                raise ValueError(
                    f"vllm_max_model_length: must hold the {len(ids)} tokens of task {task.task_id!r} and "
                    f"max_completion_length={self.max_completion_length} more; got {longest}. Raise it, lower "
                    "max_completion_length or drop the task"
                )
        return prompt_ids

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield `num_programs` programs per task, after the engine has got the weights of the model in training.

        Args:
            tasks: The tasks to write programs for.
            student: The model in training.

        Raises:
            ImportError: There is no vLLM.
            ValueError: The same errors as `check`.
            RuntimeError: The engine returned too few completions.
        """
        local = _required(student)
        prompt_ids = self._checked_prompts(local, tasks)
        if self._engine.generation is None:
            self._engine.generation = self._started(local)
        self._engine.generation.sync_weights()
        for batch in batches(prompt_ids, tasks, self.stop, batch_size=self.batch_size):
            yield from self._write(local, batch)

    def _started(self, local: LocalModel) -> Any:
        from trl.generation.vllm_generation import VLLMGeneration

        # The fields of the options have the names of its arguments.
        return VLLMGeneration(
            model=extract_model_from_parallel(local.model),
            accelerator=local.accelerator or Accelerator(),
            processing_class=local.processing_class,
            **asdict(self.options),
            trust_remote_code=self.trust_remote_code,
            max_num_seqs=self.batch_size * self.num_programs * self.options.tensor_parallel_size,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_completion_length=self.max_completion_length,
            logprobs=0,
        )

    def _write(self, local: LocalModel, batch: PromptBatch) -> list[list[GeneratedProgram]]:
        engine, number = self._engine.generation, self.num_programs
        # Stops of all prompts alike end a completion early; the exact end is found in the text, for every stop.
        common = [stop for stop in batch.stops[0] if all(stop in stops for stops in batch.stops)]
        engine.generation_kwargs = {"stop": common} if common else {}
        asked = [ids for ids in batch.ids for _ in range(number)]
        _, written, logprobs, _ = engine.generate(asked, None, number)
        if len(written) != len(asked):
            raise RuntimeError(
                f"vllm: {len(written)} completions were written for {len(batch.ids)} tasks of {number} programs. What "
                "is judged is kept: start again, or choose generation_engine='transformers'"
            )
        own = keeps_distribution(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        # The processes of a sharded model have to score as many programs: all, or none.
        noted = logprobs if own and logprobs is not None and not local.is_sharded else [None] * len(written)
        found = [_completion(list(ids), said) for ids, said in zip(written, noted, strict=True)]
        tell_written(len(batch.ids))
        return decode_programs(
            local,
            batch,
            [found[start : start + number] for start in range(0, len(found), number)],
            settings=settings_json(self.settings),
        )


def _completion(ids: list[int], said: Sequence[Sequence[float | None]] | None) -> Completion:
    """Return a completion with the log-probabilities of its tokens, if all are known."""
    values = [] if said is None else [one[0] if one else None for one in said]
    known = [value for value in values if value is not None]
    return Completion(ids, known if ids and len(known) == len(ids) else None)


def _required(student: LocalModel | None) -> LocalModel:
    if student is None:
        raise ValueError(
            "model: vLLM writes with the model in training, and there is none. For another model start a server with "
            "vllm and ask it by ServerSource"
        )
    return student
