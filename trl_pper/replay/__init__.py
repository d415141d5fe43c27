"""Store judged programs without duplicates, and draw them by priority.

- `experience`: a judged program as a frozen record, and its columns
- `columns`: experiences as Arrow and NumPy columns, with their keys and digest
- `table`: a growing table of experiences without duplicates
- `priority`: compute P2Values and the priorities of programs (Eq. 6 and 8 of the paper)
- `program_columns`: all that a priority may look at
- `draw_rule`: convert priorities to draw probabilities (Eq. 7), with shares for tasks and further factors
- `distribution`: draw positions
- `settings`: the settings of a buffer, checked when they are set
- `buffer`: the replay buffer
- `loss_weights`: compute the factor of each drawn program in the loss
- `arrow`: write experiences to files and data sets, and check the rows that are read
- `exports`: convert a buffer to data sets for other trainers
- `hub`: upload a buffer to the Hugging Face Hub with a data card, and download it

The folder `templates` holds the data card.
"""
