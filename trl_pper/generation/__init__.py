"""Generate programs for tasks, and compute the log-probability of each program.

- `source`: the base class of all sources of programs, and the record of a generated program
- `encoding`: encode prompts and completions as token ids
- `local_model`: use a transformers model for inference: generate, score, restore
- `decoding`: generate completions with a local model, cut them at stops and score them
- `beam_search`: the source that runs beam search with a local model
- `nucleus`: the source that samples from a local model
- `dataset`: the source that reads completions written earlier from a file or a data set
- `preferences`: the answers in rows of preference and SFT sets, and the task that a prompt asks for
- `servers`: the source that asks OpenAI-compatible servers
- `vllm`: the source that samples from the model in training with vLLM
- `cluster`: the source whose batches are written by another one, on the nodes of a Ray cluster
- `engines`: how a local model's tokens are written, and what is noted of them
- `stops`: cut a completion at a stop, and count the tokens before the cut
- `scorer`: compute log-probabilities of programs from other models, and fingerprints of models
- `extraction`: extract the program from a completion, and write a program as a completion
"""
