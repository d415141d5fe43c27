"""Extract the program from a completion, and write a program as a completion without prose.

Extraction removes code fences, drafts, special tokens, prose, the model's own trials and unfinished ends. It never
raises, and the same text always gives the same program. It does not promise to find the program that the model
intended. A completion written from a program has no known log-probability: score it.
"""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from trl_pper.tasks.syntax import (
    UNREADABLE,
    Parser,
    body_indent,
    definitions,
    global_names,
    is_idle,
    is_stub,
    module_names,
    parse_open,
    prune,
    top_level_return,
)
from trl_pper.tasks.task import Prompt

#: Stretches in which a model thinks aloud. The tag that opens the first may have been part of the prompt.
_DRAFT_TAGS = "think thinking thought thoughts reasoning scratchpad reflection analysis"
_DRAFT = re.compile(
    rf"""^[ \t]*<(?P<tag>{_DRAFT_TAGS.replace(" ", "|")})>.*?(?:</(?P=tag)>|\Z)""",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_DRAFT_END = re.compile(rf"""</(?:{_DRAFT_TAGS.replace(" ", "|")})>(?!["'\\)])""", re.IGNORECASE)
#: The quotes and comments of Python, and outside them the marks that chat templates and web pages leave in a text.
_MARKS = re.compile(
    r"""(?P<quote>\\.|\"\"\"|\'\'\'|["'\#\n])
    |(?P<end><[|\uff5c][^<>\n]{1,40}[|\uff5c]>(?:(?:assistant|model)$)?|</s>|<<?/?SYS>>|\[/[A-Z]+\]
    |<(?:eos|bos|pad|unk|eot|eom|eod|end_of_turn|start_of_turn|fim_\w+|file_sep|endoftext)>(?:model$|(?![ ]?\w)))
    |(?P<tag>^[ \t]*(?:</?[a-z]\w*>|\[(?-i:[A-Z]{3,})\](?=[ \t]*$))|</?[a-z]\w*\|?>(?=[ \t]*$)) # No line of Python.
    |(?P<space>\u00a0)
    |(?P<invisible>[\u200b-\u200d\u2060\ufeff])""",
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
_QUOTED_FENCE = re.compile(r"^>[ \t]*(?:`{3,}|~{3,})", re.MULTILINE)
_FENCE = re.compile(r"(?P<before>.*?)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
_FENCE_LINES = re.compile(r"^.*?(?:`{3,}|~{3,}).*$", re.MULTILINE)
_FENCED_LINE = re.compile(r"\s*(`{3,}|~{3,})(?:(?:python|py)[0-9.]*\s)?(?P<code>[^`\n]+)\1\s*", re.IGNORECASE)
#: Code in the place of the language of a fence.
_FENCED_START = re.compile(r"(?:async\s+def|def|class|import|from|for|while|if|with)\s|@\w|print\(|\w+\s+=\s")
_PYTHON_INFO = re.compile(r"(python|py)[0-9.]*\b", re.IGNORECASE)
_CODE_START = re.compile(
    r"""\s*(?:(?:async\s+def|def|class|if|elif|for|while|with|try|match)\b.*:|import\s+\w|from\s+[\w.]+\s+import\b
    |@\w|[#]|\"\"\"|[A-Za-z_][\w.,\[\]() ]*[-+*/%|&^]?=|[A-Za-z_][\w.]*\(|(?:return|assert|raise|del|pass)\b)""",
    re.VERBOSE,
)
_READS_INPUT = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\(0")
_REPLACES_INPUT = re.compile(r"\bstdin\s*=(?!=)|\bpatch\(|\bsubprocess\b")
#: Number of cuts by a single line, each of which parses the text again, before cuts remove whole blocks.
_SINGLE_LINE_CUTS = 8


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """The requirements of a program: it defines the entry point, if any, and has no `return` outside a function."""

    name: str | None
    allow_return: bool = True

    def refused_at(self, tree: ast.Module) -> int:
        """Return 0 if the program meets the requirements, else the number of the line before which to cut it."""
        # A body with the wrong indent parses, and leaves its `return` outside the function.
        if not self.allow_return and (line := top_level_return(tree)):
            return line
        if self.name is None:
            # Prose of a single word parses as Python that does nothing.
            return 1 if is_idle(tree) else 0
        found = definitions(tree, self.name)
        # A stub at the end, as when a model starts over and is cut off, must not replace the finished function.
        return found[-1].lineno if found and is_stub(found[-1]) else 0 if found else 1


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A program extracted from a completion.

    Args:
        program: The program; if none was found, the text to judge in its place.
        found: Whether a program was found: it parses, does something, and defines the entry point with more than
            `pass` or a docstring.
    """

    program: str
    found: bool


def extract_program(completion: str, *, prompt: Prompt = "", entry_point: str | None = None) -> str:
    r"""Return the program in a completion, or the text to judge in its place; `extract` tells them apart.

    Args:
        completion: The text that the model wrote.
        prompt: The prompt that it answers: text or chat messages.
        entry_point: The function that the program must define, if known; for `Solution().f` that is `Solution`.

    Examples:
        >>> extract_program("Sure:\n```python\nprint(1)\n```\nIt prints 1.")
        'print(1)\n'
        >>> extract_program("    return x\n\nThis returns", prompt="def f(x):\n", entry_point="f")
        'def f(x):\n    return x\n'
    """
    return extract(completion, prompt=prompt, entry_point=entry_point).program


def extract(completion: str, *, prompt: Prompt = "", entry_point: str | None = None) -> Extraction:
    r"""Find the program in a completion.

    Fenced code blocks are preferred to code outside fences. With an entry point the last block that defines it is
    chosen; without an entry point the last block that parses and reads standard input, or else the longest that
    parses. Drafts, special tokens, prose before the code, and prose or an unfinished function after it are removed,
    with an entry point also assertions and calls behind it on which it does not depend.

    A prompt becomes part of the program only if it is Python that defines something, such as the signature and
    docstring in HumanEval. Chat messages and prompts that consist of a docstring (MBPP) do not.

    Args:
        completion: The text that the model wrote.
        prompt: The prompt that it answers: text or chat messages.
        entry_point: The function that the program must define, if known; for `Solution().f` that is `Solution`.

    Returns:
        The program. If nothing parses: the longest fenced block or, without blocks, the whole completion, after the
        prompt if the prompt is part of the program. If nothing defines the entry point: the program found without
        that requirement. Neither of the two counts as found.

    Examples:
        >>> extract("Sure:\n```python\nprint(1)\n```\nIt prints 1.")
        Extraction(program='print(1)\n', found=True)
        >>> extract("I cannot do that.").found
        False
    """
    text = _without_last_word(completion.replace("\r\n", "\n"))
    name = _identifier(entry_point)
    # A limit on the characters parsed in all: cutting line by line parses a long text many times.
    parser = Parser(300_000 + 3 * (len(text) + len(prompt)))
    # A docstring in the place of a prompt may contain the expected answers: only a prompt with a definition counts.
    opened = _last_definition(prompt, parser) if isinstance(prompt, str) else None
    prefix = prompt.replace("\r\n", "\n") if isinstance(prompt, str) and opened else ""
    wanted = _Wanted(name=name or opened, allow_return=not opened)
    texts = _answers(text)
    found = None if _refused_at((prefix + text).split("\n"), wanted, parser) else prefix + text
    found = found or next(filter(None, (_program_in(each, prefix, wanted, parser) for each in texts)), None)
    if found:
        pruned = prune(found, parser, entry_point=name, given=prefix if found.startswith(prefix) else "")
        # The whole program is better than a part that defines nothing.
        return Extraction(program=found if _refused_at(pruned.split("\n"), wanted, parser) else pruned, found=True)
    if name and not prefix:
        return Extraction(program=extract_program(completion, prompt=prompt), found=False)
    last = texts[-1] if texts else text
    # The text to judge if nothing parses: the block without the chat around it gives the model's own syntax error.
    return Extraction(program=prefix + max(_fenced_blocks(last), key=len, default=last), found=False)


def _without_last_word(text: str) -> str:
    # Few-shot prompts of MBPP end a program with `[DONE]`, which parses as an index.
    last = re.search(r"(?<=\S)[ \t]*\[(DONE|EOS|EOT)\]\s*\Z", text)
    return text[: last.start()] + "\n" if last and text.count(last[1]) == 1 else text


def _answers(text: str) -> list[str]:
    """Return the stretches of a reply that may hold the program: between special tokens, and all of them together.

    A reply that ends while the model still thinks aloud has none.
    """
    # Code that a reasoning model considers before its answer is no part of the answer.
    answer = _DRAFT_END.split(_DRAFT.sub("\n", text))[-1]
    if _QUOTED_FENCE.search(answer):
        answer = re.sub(r"^>[ \t]?(?!>)", "", answer, flags=re.MULTILINE)
    stretches, start, quote = [""], 0, ""
    for mark in _MARKS.finditer(answer):
        if mark["quote"]:
            quote = _quote_after(quote, mark["quote"])
        elif not quote:
            stretches[-1] += answer[start : mark.start()] + ("\n" if mark["tag"] else " " if mark["space"] else "")
            start = mark.end()
            stretches += [""] if mark["end"] else []
    stretches[-1] += answer[start:]
    stretches = [stretch for stretch in stretches if stretch.strip()]
    return [*stretches, "\n".join(stretches)] if len(stretches) > 1 else stretches


def _quote_after(quote: str, mark: str) -> str:
    """Return the quote or comment sign that is open after a mark of Python, if it was `quote` before; "" for none."""
    if not quote:
        return mark if mark[0] in "\"'#" else ""
    # A string in single quotes and a comment end with the line.
    return "" if mark == quote or (mark == "\n" and len(quote) == 1) else quote


def _program_in(text: str, prefix: str, wanted: _Wanted, parser: Parser) -> str | None:
    blocks = _fenced_blocks(text)
    if prefix:
        whole = _continuation([*_ordered(blocks, wanted), text], prefix, wanted, parser)
        return whole and _with_helpers(whole, blocks, parser)
    found = None if _refused_at(text.split("\n"), wanted, parser) else text
    found = found or _best_block(blocks, wanted, parser)
    if wanted.name or not blocks:
        found = found or _passage(_FENCE_LINES.sub("", text), wanted, parser)
    return found


def _identifier(entry_point: str | None) -> str | None:
    found = re.match(r"\w+", entry_point or "")
    return found[0] if found else None


def _fenced_blocks(text: str) -> list[str]:
    """Return the contents of fenced blocks: Python and unmarked blocks or, without any, blocks of other languages."""
    python: list[str] = []
    other: list[str] = []
    marks, info = "", ""
    before, lines = list[str](), list[str]()
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if not marks and (single := _FENCED_LINE.fullmatch(line)):
            python.append(single["code"].strip() + "\n")
        elif not marks and fence and _opens_block(fence):
            marks, info = fence["marks"], fence["info"].strip()
            code = _PYTHON_INFO.sub("", info, count=1).lstrip()
            before, lines = lines, [code] if _FENCED_START.match(code) else []
        elif not marks and fence and _ends_text(fence):
            # The prompt opened the fence.
            python.append(_block([*lines, fence["before"]]))
            lines = []
        elif marks and fence and fence["marks"].startswith(marks) and not fence["info"].strip():
            # Models close a fence at the end of the last line of code.
            lines.append(fence["before"])
            (python if not info or _PYTHON_INFO.match(info) else other).append(_block(lines))
            marks, lines = "", []
        else:
            lines.append(line)
    if marks:
        (python if not info or _PYTHON_INFO.match(info) else other).append(_block(lines))
        # The prompt may have opened a fence, which the first fence of the completion then closes.
        if not info:
            python.append(_block(before))
    return [block for block in python if block.strip()] or [block for block in other if block.strip()]


def _block(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines).rstrip() + "\n")


def _opens_block(fence: re.Match[str]) -> bool:
    info = fence["info"].strip()
    # Text in front of a fence is allowed before `python` only: elsewhere the marks are likely to be inline code.
    if _PYTHON_INFO.match(info):
        return True
    return not fence["before"].strip() and (
        len(info.split()) <= 1 or info.startswith("{") or bool(_FENCED_START.match(info))
    )


def _ends_text(fence: re.Match[str]) -> bool:
    """Return whether a fence stands right behind the last line of code."""
    return bool(fence["before"].strip()) and "`" not in fence["before"] and not fence["info"].strip()


def _ordered(blocks: list[str], wanted: _Wanted) -> list[str]:
    """Return the blocks in the order in which they are tried."""
    # A model that shows two versions of a function has corrected the first.
    defines = re.compile(rf"^[ \t]*(?:(?:async\s+def|def|class)\s+{wanted.name}\b|{wanted.name}\s*=)", re.MULTILINE)
    versions = [block for block in blocks if defines.search(block)]
    return [*reversed(versions), *(block for block in blocks if block not in versions)]


def _best_block(blocks: list[str], wanted: _Wanted, parser: Parser) -> str | None:
    blocks = _ordered(blocks, wanted) if wanted.name else blocks
    parsed = [block for block in blocks if (tree := parser.parse(block)[0]) and not wanted.refused_at(tree)]
    if wanted.name is None:
        # A chat reply may show examples before the program; the program is the block that reads its input.
        readers = [block for block in parsed if _READS_INPUT.search(block)]
        # A block that gives the program its input tests it.
        readers = [block for block in readers if not _REPLACES_INPUT.search(block)] or readers
        best = readers[-1] if readers else max(parsed, key=len, default=None)
    elif parsed:
        best = parsed[0]
    else:
        best = next(filter(None, (_passage(block, wanted, parser) for block in blocks)), None)
    return best and _with_helpers(best, blocks, parser)


def _with_helpers(program: str, blocks: list[str], parser: Parser) -> str:
    """Put the blocks that define names which a program reads, but does not define, in front of it."""
    missing = _missing(program)
    for block in reversed(blocks):
        tree = parser.parse(block)[0] if missing else None
        if tree and missing & module_names(tree):
            joined = f"{block}\n{program}"
            program, missing = joined, _missing(joined)
    return program


def _missing(program: str) -> set[str]:
    try:
        bound, read = global_names(program)
    except UNREADABLE:
        return set()
    return read - bound - set(dir(builtins))


def _continuation(texts: list[str], prefix: str, wanted: _Wanted, parser: Parser) -> str | None:
    """Join prompt and completion into a program; the completion is a body, or repeats the whole function."""
    # Bare text comes first: its indent is as the model wrote it.
    if not _refused_at((prefix + texts[-1]).split("\n"), wanted, parser):
        return prefix + texts[-1]
    for text in texts:
        program = _with_body(text, prefix, wanted, parser) or _with_function(text, prefix, wanted, parser)
        if program:
            return program
    return None


def _with_body(text: str, prefix: str, wanted: _Wanted, parser: Parser) -> str | None:
    bodies = [text]
    if not re.search(rf"^\s*(?:async\s+def|def|class)\s+{wanted.name}\b", text, re.MULTILINE):
        # Models and post-processing strip the indent of the first line, or of all lines.
        indent, stripped = body_indent(prefix), text.lstrip("\n")
        newline = "" if prefix.endswith("\n") else "\n"
        bodies += [
            newline + indent + stripped.lstrip(" "),
            newline + textwrap.indent(textwrap.dedent(stripped), indent),
        ]
    kept, best = 0, None
    for body in bodies:
        lines = (prefix + body).split("\n")
        first = prefix.count("\n")
        end = _usable_lines(lines, wanted, parser, at_least=first)
        if end - first > kept:
            kept, best = end - first, _text(lines[:end], whole=end == len(lines))
    return best


def _with_function(text: str, prefix: str, wanted: _Wanted, parser: Parser) -> str | None:
    function = _passage(text, wanted, parser)
    if function is None:
        return None
    # The prompt stays in front of the repeated function: it may hold imports and helpers.
    for head in (prefix + "\n", _before_last_definition(prefix)):
        if parser.parse(head + function)[0]:
            return head + function
    return function


def _passage(text: str, wanted: _Wanted, parser: Parser) -> str | None:
    """Return the first passage that defines the entry point; without an entry point the longest that does anything."""
    if wanted.name is not None and wanted.name not in text:
        return None
    passages = []
    # Code in a list item or a quotation is indented as a whole, or from its second line on.
    for candidate in dict.fromkeys((text, textwrap.dedent(text), text.lstrip())):
        for passage in _passages(candidate, wanted, parser):
            if wanted.name is not None or passage == candidate:
                return passage
            passages.append(passage)
    return max(passages, key=len, default=None)


def _passages(text: str, wanted: _Wanted, parser: Parser) -> Iterator[str]:
    lines = text.split("\n")
    start = 0
    while start < len(lines) and parser.left_chars > 0:
        # Prose is skipped by a regular expression for each line, which costs less than parsing.
        end = 0
        if start == 0 or _CODE_START.match(lines[start]):
            end = _usable_lines(lines[start:], wanted, parser)
        if end:
            yield _text(lines[start : start + end], whole=end == len(lines))
        start += max(end, 1)


def _usable_lines(lines: list[str], wanted: _Wanted, parser: Parser, *, at_least: int = 0) -> int:
    """Return how many lines from the start form a program that meets the requirements; 0 if there is none."""
    # Cut back to the last whole top-level statement, as the text behind a finished function is likely half a function;
    # if the rest does not meet the requirements, cut back line by line.
    end, tries = len(lines), 0
    while end > at_least and parser.left_chars > 0:
        stop = _refused_at(lines[:end], wanted, parser)
        if not stop:
            return end
        end = min(stop - 1, end - 1)
        block = next((i for i in range(end, at_least, -1) if i < len(lines) and _starts_statement(lines[i])), 0)
        if block and not _refused_at(lines[:block], wanted, parser):
            return block
        tries += 1
        if tries > _SINGLE_LINE_CUTS:
            end = _enclosing_line(lines, end)
    return 0


def _refused_at(lines: list[str], wanted: _Wanted, parser: Parser) -> int:
    tree, line = parser.parse("\n".join(lines) + "\n")
    return wanted.refused_at(tree) if tree else line


def _starts_statement(line: str) -> bool:
    return bool(line) and not line[0].isspace() and line[0] not in ")]}#"


def _enclosing_line(lines: list[str], end: int) -> int:
    """Return the number of lines before the block that contains the last of `end` lines."""
    inner = len(lines[end - 1]) - len(lines[end - 1].lstrip()) if end else 0
    for index in range(end - 1, -1, -1):
        if lines[index].strip() and len(lines[index]) - len(lines[index].lstrip()) < max(inner, 1):
            return index
    return 0


def _text(lines: list[str], *, whole: bool) -> str:
    text = "\n".join(lines)
    return text if whole else text.rstrip() + "\n"


def _last_definition(prompt: str, parser: Parser) -> str | None:
    """Return the name of the last function or class of a Python prompt, which may lack its body; else None."""
    if not re.search(r"^\s*(?:async\s+def|def|class)\s", prompt, re.MULTILINE):
        return None
    tree = parse_open(prompt, parser)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)] if tree else []
    return names[-1] if names else None


def _before_last_definition(prefix: str) -> str:
    starts = [match.start() for match in re.finditer(r"^(?:@|async\s+def\b|def\b|class\b)", prefix, re.MULTILINE)]
    return prefix[: starts[-1]] if starts else ""


#: The choices of the text to learn from: the completion as written, or the program extracted from it.
LEARNED = ("completion", "program")


def plain_completion(program: str, *, prompt: Prompt = "", entry_point: str | None = None) -> str | None:
    r"""Return a program as a completion of its prompt, without prose.

    The completion of a text prompt is the rest of the program behind the prompt, or the whole program. The completion
    of chat messages is a fenced block.

    Args:
        program: A program that was extracted from a reply.
        prompt: The prompt: text or chat messages.
        entry_point: The function that the program must define, if known.

    Returns:
        A completion from which `extract_program` extracts the same program again; None if there is no such completion,
        as when the reply defined the prompt's function anew.

    Examples:
        >>> plain_completion("def f(x):\n    return x\n", prompt="def f(x):\n")
        '    return x\n'
        >>> plain_completion("print(1)\n", prompt="Print one.")
        'print(1)\n'
    """
    if isinstance(prompt, str):
        rest = [program.removeprefix(prompt)] if program.startswith(prompt) else []
        candidates = [*rest, program]
    else:
        candidates = [f"```python\n{program.rstrip()}\n```"]
    for completion in candidates:
        again = extract_program(completion, prompt=prompt, entry_point=entry_point)
        if again.rstrip() == program.rstrip():
            return completion
    return None
