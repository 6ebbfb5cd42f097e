"""Show what each tiny family calls between the steps of its scheduler: `python tests/families/show.py [FAMILY ...]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from families import FAMILIES, TinyFamily, run
from families.traces import traced


def show(family: TinyFamily, steps: int) -> None:
    """Print every call of a component, with its arguments, and every step of a scheduler, for one picture."""
    pipeline = family.build()
    print(f"\n{family.name}: {type(pipeline).__name__}; to be quantized: {', '.join(family.denoisers)}")
    with traced(pipeline) as events:
        run(family, pipeline, batch=1, steps=steps)
    for event in events:
        print(f"  --- {event.name}.step" if event.is_step else f"  {event.name}({event.arguments})")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or FAMILIES:
        show(FAMILIES[chosen], steps=4 if len(FAMILIES[chosen].denoisers) > 1 else 2)
