"""Makes results of the judge's benchmark out of what was measured round by round: medians, ratios, a table.

Enters: records, one for each contender, caller size, kind of tests and round. Leaves: mappings that JSON can hold.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from judge_contenders import CONTENDERS, OURS, SCRIPTED

PROGRAMS_PER_TASK = (1, 10, 50)
TESTS_PER_PROGRAM = (1, 10, 100)
#: The programs per task of which table and figure speak.
SHOWN_PER_TASK = "10"
_RATE, _COST = "programs_per_second", "cpu_milliseconds_per_program"
Record = dict[str, Any]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return median, least and most."""
    ordered = sorted(values)
    return {
        name: float(f"{value:.4g}")
        for name, value in (("median", statistics.median(ordered)), ("least", ordered[0]), ("most", ordered[-1]))
    }


def select(records: list[Record], **where: Any) -> list[Record]:
    """Return the records that have all the values given."""
    return [record for record in records if all(record.get(name) == value for name, value in where.items())]


def function_cells(records: list[Record]) -> Iterable[tuple[str, int, dict[str, list[Record]]]]:
    """Yield every caller size and number of programs per task with the records of each contender there."""
    for size in dict.fromkeys(record["size"] for record in records):
        for per_task in PROGRAMS_PER_TASK:
            here = select(records, size=size, programs_per_task=per_task)
            if here:
                yield size, per_task, {name: of for name in CONTENDERS if (of := select(here, contender=name))}


def function_results(records: list[Record]) -> dict[str, Any]:
    """Return rate and cost by caller size, programs per task and contender."""
    results: dict[str, Any] = {}
    for size, per_task, by_contender in function_cells(records):
        results.setdefault(size, {})[str(per_task)] = {
            name: {
                "programs": of[0]["programs"],
                "rounds": len(of),
                _RATE: spread(record[_RATE] for record in of),
                _COST: spread(record[_COST] for record in of),
            }
            for name, of in by_contender.items()
        }
    return results


def ratios(records: list[Record]) -> dict[str, Any]:
    """Return our rate over every other contender's, by caller size and programs per task; each within its round."""
    results: dict[str, Any] = {}
    for size, per_task, by_contender in function_cells(records):
        ours = {record["round"]: record[_RATE] for record in by_contender.pop(OURS)}
        results.setdefault(size, {})[str(per_task)] = {
            name: spread(ours[record["round"]] / record[_RATE] for record in of) for name, of in by_contender.items()
        }
    return results


def stdio_results(records: list[Record]) -> dict[str, Any]:
    """Return, by contender, rate and cost of a test by tests per program, and what one more test costs."""
    return {
        name: stdio_result(cells) for name in SCRIPTED if (cells := select(records, tests="stdio", contender=name))
    }


def stdio_result(cells: list[Record]) -> dict[str, Any]:
    """Return one contender's rate and cost of a test, and what one more test of the same program costs."""
    result: dict[str, Any] = {}
    for tests in TESTS_PER_PROGRAM:
        at = select(cells, tests_per_program=tests)
        result[str(tests)] = {
            "programs": at[0]["programs"],
            _RATE: spread(cell[_RATE] for cell in at),
            "tests_per_second": spread(cell[_RATE] * tests for cell in at),
            "cpu_milliseconds_per_test": spread(cell[_COST] / tests for cell in at),
        }
    few, many = TESTS_PER_PROGRAM[-2:]
    cost = {(cell["round"], cell["tests_per_program"]): cell[_COST] for cell in cells}
    result["cpu_milliseconds_per_further_test"] = spread(
        (cost[at, many] - cost[at, few]) / (many - few) for at in {cell["round"] for cell in cells}
    )
    return result


def summary(result: dict[str, Any]) -> str:
    """Return the main figures as a table: programs per second and ours over each, by caller size."""
    sizes = list(result["function"])
    lines = ["contender".ljust(20) + "".join(f"{size} caller".rjust(26) for size in sizes)]
    for name in result["function"][sizes[0]][SHOWN_PER_TASK]:
        cells = [table_cell(result, size, name) for size in sizes]
        lines.append(name.ljust(20) + "".join(text.rjust(26) for text in cells))
    for name, of in result["stdio"].items():
        further = of["cpu_milliseconds_per_further_test"]["median"]
        rates = ", ".join(f"{of[str(tests)]['tests_per_second']['median']:.0f}" for tests in TESTS_PER_PROGRAM)
        lines.append(
            f"{name}: stdio {rates} tests/s at {TESTS_PER_PROGRAM} per program, {further:.3f} CPU ms a further one"
        )
    fork = result["bare_fork"]
    lines.append(
        f"bare fork: {fork['forks_per_second_and_core']['median']:.0f} forks/s and core, "
        f"{fork['cpu_milliseconds_per_fork']['median']:.2f} CPU ms each"
    )
    return "\n".join(lines)


def table_cell(result: dict[str, Any], size: str, name: str) -> str:
    """Return one cell of the table: rate, cost, and by how much ours is faster."""
    figures = result["function"][size][SHOWN_PER_TASK][name]
    ratio = result["ratios_of_programs_per_second"][size][SHOWN_PER_TASK].get(name)
    text = f"{figures[_RATE]['median']:.1f}/s {figures[_COST]['median']:.1f} ms"
    return text if ratio is None else f"{text} x{ratio['median']:.2f}"
