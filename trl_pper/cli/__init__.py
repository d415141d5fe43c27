"""The `trl-pper` command: read its options, and run a command on them.

- `commands`: the commands with their options, and the function that each of them calls
- `options`: declare options; parse and check them; list them in help and documentation
- `yaml_file`: read a YAML file of options, with line numbers
- `sources`: the options that name tasks, mixtures of tasks, and sources of programs
- `judge`, `collect`, `evaluate`, `amplify`: the commands of these names; `collect` has `merge` and `rescore` as well
- `train`: `trl-pper train`, here or in several processes
- `train_options`: the options of `train`
- `train_run`: a training run, from its options to a saved model
- `launch`: several processes through `accelerate launch`
- `__main__`: `python -m trl_pper.cli`
"""
