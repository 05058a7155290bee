"""The guide's code blocks, and a terminal in which they run as a reader would type them."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What differs between runs: verdicts and the reason for each, marks, and numbers with what may stand before them.
VARYING = (
    (r"\b(faster|slower|same|contaminated|inconclusive( \(\d+\))?)(?= |$)", "VERDICT"),
    (r"[-+±]?\d[\d,]*(\.\d+)?", "0"),
    (r"-{2,}", "-"),
    (r"\s+", " "),
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the section and line that it stands in, and the paragraph before it."""

    language: str
    text: str
    section: str
    line: int
    before: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = []
    for match in BLOCK.finditer(page):
        above = page[: match.start()]
        headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", above), re.MULTILINE)
        before = " ".join(above.rstrip().rsplit("\n\n", 1)[-1].split())
        found.append(Block(match[1], match[2], headings[-1] if headings else "", above.count("\n") + 1, before))
    return found


class Terminal:
    """One bash for all that is typed, so that ``cd`` and an activated environment last."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, commands: str) -> str:
        """What the commands printed. Fails the test at the first that ends with another code than 0."""
        mark = uuid.uuid4().hex
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        once = "[ $code -ne 0 ] || {{ {}\n}} </dev/null || code=$?\n"
        lines = "".join(map(once.format, commands.splitlines()))
        self._bash.stdin.write(f"code=0\n{lines}echo; echo {mark} $code\n")
        self._bash.stdin.flush()
        printed = []
        for line in self._bash.stdout:
            if line.startswith(mark):
                output = "".join(printed)
                assert line.split()[1] == "0", f"{commands}ended with {line.split()[1]}:\n{output}"
                return output
            printed.append(line)
        raise AssertionError(f"the shell ended during {commands}:\n{''.join(printed)}")

    @property
    def folder(self) -> Path:
        """Where the shell is now."""
        return Path(self.type("pwd").strip())

    def close(self) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.wait(timeout=30)


def write(folder: Path, block: Block) -> None:
    """Do what the paragraph before a block of code says: write a file, add to it, or replace a function in it."""
    match = re.search(r"(Write this into|Add to|[Ii]n) `([\w./-]+\.\w+)`(?:, in place of `(\w+)`)?:$", block.before)
    assert match is not None, f"line {block.line}: nothing says where this goes: {block.before!r}"
    verb, replaced, file = match[1], match[3], folder / match[2]
    if verb == "Write this into":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text)
    elif verb == "Add to":
        file.write_text(f"{file.read_text()}\n\n{block.text}")
    else:
        source = file.read_text()
        (node,) = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == replaced]
        lines = source.splitlines(keepends=True)
        first = min(node.lineno, *(decorator.lineno for decorator in node.decorator_list))
        lines[first - 1 : node.end_lineno] = [block.text]
        file.write_text("".join(lines))


def differences(shown: str, printed: str) -> list[str]:
    """What is shown and was not printed, whatever the numbers and verdicts are; a line ``...`` stands for any lines."""
    wanted = [line for line in shown.splitlines() if line.strip()]
    there = [form for form in map(alike, printed.splitlines()) if form]
    position, loose = 0, False
    for line in wanted:
        if line == "...":
            loose = True
            continue
        among = there[position:] if loose else there[position : position + 1]
        if alike(line) not in among:
            return [f"shown:   {line}", f"printed: {printed}"]
        position, loose = position + among.index(alike(line)) + 1, False
    return [] if loose or position == len(there) else ["more was printed than is shown", f"printed: {printed}"]


def alike(line: str) -> str:
    """A line without what differs between runs."""
    for pattern, form in VARYING:
        line = re.sub(pattern, form, line)
    return line.strip()
