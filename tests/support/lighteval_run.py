"""Run the command of lighteval without a network.

    python tests/support/lighteval_run.py custom NAME MODEL_FILE TASK --custom-tasks TASKS_FILE ...

Runs in the environment of `make test-neighbours`. lighteval 0.13.0 fetches the data of one of its own benchmarks
whenever it starts, and goes on without them if there are none.
"""

import types

import requests


def main() -> None:
    requests.get = lambda *given, **options: types.SimpleNamespace(status_code=404)
    # Imported behind the replacement: the request is made while tasks are loaded.
    from lighteval.__main__ import app

    app()


if __name__ == "__main__":
    main()
