"""What the documentation shows: fenced blocks of its pages, and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "docker/README.md",
            "benchmarks/gpu/README.md",
        )
    ),
    *sorted(DOCS.rglob("*.md")),
]
PROGRAMS = ("richsem-prep", "richsem-train")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?.*?^\1$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*")
_NOTHING = re.compile(r'"\$\{\w+\[@\]\}"')
_PARENTHESES = re.compile(r"\([^()]*\)")
_VARIABLE = re.compile(r"\$1|\$\{[^}]*\}|\$\w+")
_SEPARATORS = ";&|()<>\n"
_BEFORE_COMMANDS = ("do", "then", "else", "if")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def script(self) -> str:
        """What a shell is given: of a console, what stands behind its prompts."""
        if self.language == "console":
            return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ "))
        return self.text

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """Its path below the root."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, text.count("\n", 0, found.start()) + 1, *found.groups()) for found in _FENCED.finditer(text)]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks_in(*languages: str) -> list[Block]:
    """All blocks of some languages."""
    return [block for block in BLOCKS if block.language in languages]


def program_calls(script: str) -> Iterator[tuple[str, list[str]]]:
    """The calls of our programs in a script: each name with its arguments, variables taken for 1."""
    script = _COMMENT.sub("", _HEREDOC.sub("", script)).replace("\\\n", " ")
    while (inner := _PARENTHESES.sub("1", script)) != script:
        script = inner
    lexer = shlex.shlex(_VARIABLE.sub("1", _NOTHING.sub("", script)), posix=True, punctuation_chars=_SEPARATORS)
    lexer.whitespace, lexer.whitespace_split = " \t", True
    command: list[str] = []
    for word in [*lexer, "\n"]:
        if not set(word) <= set(_SEPARATORS):
            command.append(word)
            continue
        if (call := _program_call(command)) is not None:
            yield call
        command = []


def _program_call(words: list[str]) -> tuple[str, list[str]] | None:
    while words and (words[0] in _BEFORE_COMMANDS or re.match(r"\w+=", words[0])):
        words = words[1:]
    if not words:
        return None
    name = Path(words[0]).name
    if name in PROGRAMS:
        return name, words[1:]
    if name in ("torchrun", "srun", "python") and "richsem_train" in words:
        return "richsem-train", words[words.index("richsem_train") + 1 :]
    return None
