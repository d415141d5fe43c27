"""Train a model on programs drawn from a replay buffer, and push the model to the Hub.

- `config`: the options of a run
- `trainer`: the trainer
- `parts`: build the parts of a trainer from its options, and check them
- `console`: keep the console to a line for each round
- `dataset`: convert tasks and judged programs to data sets, and tokenise drawn programs
- `sampler`: draw the programs of each minibatch
- `objectives`: compute the coefficient of each program in the loss, for losses that learn from failed programs
- `collator`: put loss weights and columns of objectives into batches, and apply them to log-probabilities
- `checkpoint`: write the buffer into checkpoints, and read it when a run resumes
- `replay_grpo`: train by GRPO with passing programs of a buffer in each group
- `card`: write the model card
- `push`: check a push to the Hub, report failed uploads, and merge adapters

The folder `templates` holds the model card.
"""
