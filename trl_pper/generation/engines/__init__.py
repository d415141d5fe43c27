"""Write the tokens of samples and beams, and know their log-probabilities.

- `token_scores`: note the log-probabilities of tokens while `generate` writes them
- `prompt_cache`: run a prompt through a model once for all of its completions
- `continuous`: sample with continuous batching
"""
