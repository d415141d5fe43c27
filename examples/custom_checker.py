"""Tasks with several right answers: a custom checker for outputs, properties for returned values.

    python examples/custom_checker.py

A checker is a function of input, output and expected output. It runs in your process, where programs cannot reach it.
Tests of a function are Python code: assert the properties of every right answer, with helpers in `setup`. Data sets
hold the name of a checker, if `register_comparison(name, checker)` gives it one.
"""

import inspect

from trl_pper import CodingTask, FunctionTests, Judge, StdioCase, StdioTests

PROGRAMS = {
    "the answer on file": "def split(n): return 3, n - 3",
    "another right answer": "def split(n): return n - 5, 5",
    "one is no prime": "def split(n): return 1, n - 1",
    "no answer": "def split(n): return 0, 0",
}
PRINTS = "\nprint(*split(int(input())))"


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, n))


def two_primes(given: str, output: str, expected: str) -> bool:
    """Accept any two primes that sum to the given number. The output is untrusted text: check it before computing."""
    words = output.split()
    if len(words) != 2 or not all(word.isdecimal() and len(word) < 7 for word in words):
        return False
    a, b = map(int, words)
    return a + b == int(given) and is_prime(a) and is_prime(b)


def main() -> None:
    cases = (StdioCase(input="10", output="3 7"), StdioCase(input="22", output="3 19"))
    properties = FunctionTests(
        entry_point="split",
        setup=inspect.getsource(is_prime),
        code="\n".join(f"assert sum(split({n})) == {n} and all(map(is_prime, split({n})))" for n in (10, 22)),
    )
    prompt = "Write n, an even number, as a sum of two primes."
    ways = {
        "tokens": CodingTask(task_id="tokens", prompt=prompt, tests=StdioTests(cases=cases)),
        "checker": CodingTask(task_id="checker", prompt=prompt, tests=StdioTests(cases=cases, compare=two_primes)),
        "asserts": CodingTask(task_id="asserts", prompt=prompt, tests=properties),
    }
    with Judge() as judge:
        verdicts = judge.run(
            [
                (task, [text + PRINTS * (name != "asserts") for text in PROGRAMS.values()])
                for name, task in ways.items()
            ]
        )
    print(f"{'pass rate':22}" + "".join(f"{name:>10}" for name in ways))
    for program, judged in zip(PROGRAMS, zip(*verdicts, strict=True), strict=True):
        print(f"{program:22}" + "".join(f"{verdict.pass_rate:10.0%}" for verdict in judged))


if __name__ == "__main__":
    main()
