"""The README, and the blocks of code in it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str, index: int = 0, shorter: dict[str, str] | None = None) -> str:
    """The README's code block of that language and number. shorter: what is replaced in it, so that it takes seconds;
    each must be there."""
    found: str = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[index]
    for shown, run in (shorter or {}).items():
        assert shown in found, f"the README's {language} block {index} has no {shown!r}"
        found = found.replace(shown, run)
    return found
